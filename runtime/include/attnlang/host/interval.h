// Closed intervals of int64: where the values of an int expression over a tile can lie.
//
// Sound for the wrapping arithmetic of kernels: what may overflow becomes the whole range.
#pragma once

#include <concepts>
#include <cstdint>

#include "attnlang/host/integer_math.h"
#include "attnlang/host/order.h"
#include "attnlang/host/verdict.h"

namespace attnlang {

struct Interval {
  int64_t lo;
  int64_t hi;

  static constexpr Interval point(int64_t x) { return {x, x}; }
  static constexpr Interval any() { return {INT64_MIN, INT64_MAX}; }

  constexpr bool is_point() const { return lo == hi; }
  constexpr bool contains(int64_t x) const { return lo <= x && x <= hi; }
};

constexpr Interval hull(Interval a, Interval b) {
  return {least(a.lo, b.lo), greatest(a.hi, b.hi)};
}

namespace detail {

using Wide = __int128;

constexpr Interval fitting(Wide lo, Wide hi) {
  if (lo < INT64_MIN || hi > INT64_MAX) return Interval::any();
  return {static_cast<int64_t>(lo), static_cast<int64_t>(hi)};
}

// Of int64 values: kernels have no wide division but by a call, which one for Hopper cannot have.
constexpr Wide floor_divide(Wide a, Wide b) {
  if (b == -1) return -a;
  const auto x = static_cast<int64_t>(a), y = static_cast<int64_t>(b);
  return x / y - (x % y != 0 && (x < 0) != (y < 0));
}

// The hull of f at the corners of a box; right where f is monotone in each operand.
template <class Function>
constexpr Interval corners(Interval a, Interval b, Function f) {
  const Wide x[] = {f(Wide{a.lo}, Wide{b.lo}), f(Wide{a.lo}, Wide{b.hi}), f(Wide{a.hi}, Wide{b.lo}),
                    f(Wide{a.hi}, Wide{b.hi})};
  return fitting(least(x), greatest(x));
}

// a % b for b of one sign.
constexpr Interval positive_modulus(Interval a, Interval b) {
  if (b.is_point()) {
    const Wide low = floor_divide(a.lo, b.lo);
    if (low == floor_divide(a.hi, b.lo)) return fitting(a.lo - low * b.lo, a.hi - low * b.lo);
  }
  if (a.lo >= 0 && a.hi < b.lo) return a;
  return {0, b.hi - 1};
}

}  // namespace detail

constexpr Interval operator+(Interval a, Interval b) {
  return detail::fitting(detail::Wide{a.lo} + b.lo, detail::Wide{a.hi} + b.hi);
}
constexpr Interval operator-(Interval a, Interval b) {
  return detail::fitting(detail::Wide{a.lo} - b.hi, detail::Wide{a.hi} - b.lo);
}
constexpr Interval operator-(Interval a) { return Interval::point(0) - a; }
constexpr Interval operator*(Interval a, Interval b) {
  return detail::corners(a, b, [](detail::Wide x, detail::Wide y) { return x * y; });
}

// Beside one int: the same, with less to work out.
constexpr Interval operator+(Interval a, int64_t b) { return a + Interval::point(b); }
constexpr Interval operator+(int64_t a, Interval b) { return b + a; }
constexpr Interval operator-(Interval a, int64_t b) { return a - Interval::point(b); }
constexpr Interval operator-(int64_t a, Interval b) { return Interval::point(a) - b; }
constexpr Interval operator*(Interval a, int64_t b) {
  const detail::Wide x = detail::Wide{a.lo} * b, y = detail::Wide{a.hi} * b;
  return b < 0 ? detail::fitting(y, x) : detail::fitting(x, y);
}
constexpr Interval operator*(int64_t a, Interval b) { return b * a; }
constexpr Interval floordiv(Interval a, int64_t b) {
  if (b == 0) return Interval::point(0);
  if (b == -1) return -a;
  const int64_t x = floordiv(a.lo, b), y = floordiv(a.hi, b);
  return b < 0 ? Interval{y, x} : Interval{x, y};
}
constexpr Interval floormod(Interval a, int64_t b) {
  if (b == 0) return Interval::point(0);
  if (b == INT64_MIN) return {b + 1, 0};
  if (b < 0) a = -a;  // x % -y = -(-x % y)
  const int64_t y = b < 0 ? -b : b, quotient = floordiv(a.lo, y);
  Interval rest{0, y - 1};
  if (quotient == floordiv(a.hi, y)) {
    const int64_t whole = wrapping_multiply(quotient, y);
    rest = {wrapping_subtract(a.lo, whole), wrapping_subtract(a.hi, whole)};
  }
  return b < 0 ? -rest : rest;
}

// By 0 gives 0; each sign of the divisor is a box of its own.
constexpr Interval floordiv(Interval a, Interval b) {
  bool found = false;
  Interval r{0, 0};
  const auto add = [&](Interval part) {
    r = found ? hull(r, part) : part;
    found = true;
  };
  if (b.contains(0)) add(Interval::point(0));
  if (b.lo < 0) add(detail::corners(a, {b.lo, least<int64_t>(b.hi, -1)}, detail::floor_divide));
  if (b.hi > 0) add(detail::corners(a, {greatest<int64_t>(b.lo, 1), b.hi}, detail::floor_divide));
  return r;
}

constexpr Interval floormod(Interval a, Interval b) {
  bool found = false;
  Interval r{0, 0};
  const auto add = [&](Interval part) {
    r = found ? hull(r, part) : part;
    found = true;
  };
  if (b.contains(0)) add(Interval::point(0));
  if (b.hi > 0) add(detail::positive_modulus(a, {greatest<int64_t>(b.lo, 1), b.hi}));
  if (b.lo < 0) {
    if (a.lo == INT64_MIN || b.lo == INT64_MIN) {
      add({b.lo + 1, 0});
    } else {
      // x % -y = -(-x % y)
      add(-detail::positive_modulus(-a, {greatest<int64_t>(-b.hi, 1), -b.lo}));
    }
  }
  return r;
}

constexpr Interval min(Interval a, Interval b) { return {least(a.lo, b.lo), least(a.hi, b.hi)}; }
constexpr Interval max(Interval a, Interval b) {
  return {greatest(a.lo, b.lo), greatest(a.hi, b.hi)};
}
constexpr Interval clamp(Interval x, Interval low, Interval high) { return min(max(x, low), high); }
constexpr Interval abs(Interval x) {
  if (x.lo == INT64_MIN) return Interval::any();  // wraps to itself
  if (x.lo >= 0) return x;
  if (x.hi <= 0) return -x;
  return {0, greatest(-x.lo, x.hi)};
}
constexpr Interval sign(Interval x) {
  return {int64_t{x.lo > 0} - int64_t{x.lo < 0}, int64_t{x.hi > 0} - int64_t{x.hi < 0}};
}
constexpr Interval ipow(Interval x, int64_t n) {
  Interval r = Interval::point(1);
  const Interval base = n % 2 == 0 ? abs(x) : x;
  if (n > 64) {
    const bool tiny = x.lo >= -1 && x.hi <= 1;
    return tiny ? Interval{-1, 1} : Interval::any();
  }
  // Monotone in the base (non-negative where n is even), so the ends are powers of the ends.
  const auto power = [n](int64_t end) {
    Interval p = Interval::point(1);
    for (int64_t i = 0; i < n; ++i) p = p * Interval::point(end);
    return p;
  };
  if (n > 0) r = hull(power(base.lo), power(base.hi));
  return r;
}

constexpr Interval to_long(Interval x) { return x; }
constexpr Interval to_int(Interval x) { return x; }
constexpr Interval saturate(Interval x) { return x; }

constexpr Verdict operator<(Interval a, Interval b) { return verdict(a.hi < b.lo, a.lo >= b.hi); }
constexpr Verdict operator<=(Interval a, Interval b) { return verdict(a.hi <= b.lo, a.lo > b.hi); }
constexpr Verdict operator>(Interval a, Interval b) { return b < a; }
constexpr Verdict operator>=(Interval a, Interval b) { return b <= a; }
constexpr Verdict operator==(Interval a, Interval b) {
  return verdict(a.is_point() && b.is_point() && a.lo == b.lo, a.hi < b.lo || b.hi < a.lo);
}
constexpr Verdict operator!=(Interval a, Interval b) { return ~(a == b); }

constexpr Interval select(Verdict condition, Interval a, Interval b) {
  return is_full(condition) ? a : is_empty(condition) ? b : hull(a, b);
}

// Bit n of x, n clamped to [0, 63]: of points, and of what shares all bits from n up.
constexpr Verdict bit(Interval x, Interval n) {
  const int64_t shift = bounded<int64_t>(n.lo, 0, 63);
  if (shift != bounded<int64_t>(n.hi, 0, 63)) return Verdict::unknown;
  if (x.lo >> shift != x.hi >> shift) return Verdict::unknown;
  return verdict((x.lo >> shift & 1) != 0);
}

}  // namespace attnlang

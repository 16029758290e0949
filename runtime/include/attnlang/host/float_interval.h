// Closed intervals around the float32 values of an expression over a tile.
//
// Bounds are doubles, widened after every rounded operation by more than float32 kernels can err
// (a relative 1e-6 and an absolute 1e-36), so a verdict holds for what kernels compute. NaN bounds
// mean that the value may be anything, NaN too: such an interval decides nothing.
#pragma once

#include <cfloat>
#include <cmath>
#include <limits>

#include "attnlang/host/interval.h"
#include "attnlang/host/target.h"

namespace attnlang {

struct FloatInterval {
  double lo;
  double hi;

  ATTNLANG_HD static FloatInterval any() {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {nan, nan};
  }
  ATTNLANG_HD static FloatInterval point(double x) { return {x, x}; }

  ATTNLANG_HD bool known() const { return lo <= hi; }
  ATTNLANG_HD bool contains(double x) const { return lo <= x && x <= hi; }
  ATTNLANG_HD bool infinite() const { return std::isinf(lo) || std::isinf(hi); }
};

namespace detail {

constexpr double kDoubleInfinity = std::numeric_limits<double>::infinity();

// float32 overflows to infinity (and, computed another way, may stop short of it).
ATTNLANG_HD inline FloatInterval in_float32(double lo, double hi) {
  if (!(lo <= hi)) return FloatInterval::any();
  if (lo < -FLT_MAX) lo = -kDoubleInfinity;
  if (hi > FLT_MAX) hi = kDoubleInfinity;
  return {least<double>(lo, FLT_MAX), greatest<double>(hi, -FLT_MAX)};
}

ATTNLANG_HD inline FloatInterval widened(double lo, double hi, double relative = 1e-6) {
  constexpr double kAbsolute = 1e-36;
  return in_float32(lo - std::fabs(lo) * relative - kAbsolute,
                    hi + std::fabs(hi) * relative + kAbsolute);
}

template <class Function>
ATTNLANG_HD FloatInterval increasing(FloatInterval x, Function f) {
  return x.known() ? widened(f(x.lo), f(x.hi)) : x;
}

template <class Function>
ATTNLANG_HD FloatInterval exactly_increasing(FloatInterval x, Function f) {
  return x.known() ? FloatInterval{f(x.lo), f(x.hi)} : x;
}

// Decreasing up to `bottom`, where it is `lowest`, and increasing from there.
template <class Function>
ATTNLANG_HD FloatInterval valley(FloatInterval x, double bottom, double lowest, Function f) {
  if (!x.known() || std::isinf(x.lo)) return FloatInterval::any();
  const double a = f(x.lo), b = f(x.hi);
  return widened(x.contains(bottom) ? lowest : least(a, b), greatest(a, b));
}

template <class Function>
ATTNLANG_HD FloatInterval corners(FloatInterval a, FloatInterval b, Function f) {
  const double x[] = {f(a.lo, b.lo), f(a.lo, b.hi), f(a.hi, b.lo), f(a.hi, b.hi)};
  for (const double y : x) {
    if (std::isnan(y)) return FloatInterval::any();
  }
  return widened(least(x), greatest(x));
}

}  // namespace detail

ATTNLANG_HD inline FloatInterval operator-(FloatInterval a) { return {-a.hi, -a.lo}; }
ATTNLANG_HD inline FloatInterval operator+(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known() || (a.infinite() && b.infinite())) return FloatInterval::any();
  return detail::widened(a.lo + b.lo, a.hi + b.hi);
}
ATTNLANG_HD inline FloatInterval operator-(FloatInterval a, FloatInterval b) { return a + -b; }
ATTNLANG_HD inline FloatInterval operator*(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known()) return FloatInterval::any();
  if ((a.infinite() && b.contains(0)) || (b.infinite() && a.contains(0))) {
    return FloatInterval::any();
  }
  return detail::corners(a, b, [](double x, double y) { return x * y; });
}
ATTNLANG_HD inline FloatInterval operator/(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known() || b.contains(0) || (a.infinite() && b.infinite())) {
    return FloatInterval::any();
  }
  // A divisor that float32 flushes to zero counts as one.
  if (b.lo < FLT_MIN && b.hi > -FLT_MIN) return FloatInterval::any();
  return detail::corners(a, b, [](double x, double y) { return x / y; });
}

ATTNLANG_HD inline FloatInterval min(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known()) return FloatInterval::any();
  return {least(a.lo, b.lo), least(a.hi, b.hi)};
}
ATTNLANG_HD inline FloatInterval max(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known()) return FloatInterval::any();
  return {greatest(a.lo, b.lo), greatest(a.hi, b.hi)};
}
ATTNLANG_HD inline FloatInterval clamp(FloatInterval x, FloatInterval low, FloatInterval high) {
  return min(max(x, low), high);
}
ATTNLANG_HD inline FloatInterval abs(FloatInterval x) {
  if (!x.known() || x.lo >= 0) return x;
  if (x.hi <= 0) return -x;
  return {0, greatest(-x.lo, x.hi)};
}
ATTNLANG_HD inline FloatInterval sign(FloatInterval x) {
  if (!x.known()) return {-1, 1};  // the sign of NaN is 0
  return {double(x.lo > 0) - double(x.lo < 0), double(x.hi > 0) - double(x.hi < 0)};
}
ATTNLANG_HD inline FloatInterval floor(FloatInterval x) {
  return detail::exactly_increasing(x, [](double y) { return std::floor(y); });
}
ATTNLANG_HD inline FloatInterval ceil(FloatInterval x) {
  return detail::exactly_increasing(x, [](double y) { return std::ceil(y); });
}
ATTNLANG_HD inline FloatInterval round(FloatInterval x) {
  return detail::exactly_increasing(x, [](double y) { return std::nearbyint(y); });
}
ATTNLANG_HD inline FloatInterval floordiv(FloatInterval a, FloatInterval b) {
  if (b.lo == 0 && b.hi == 0) return FloatInterval::point(0);
  return floor(a / b);
}
ATTNLANG_HD inline FloatInterval floormod(FloatInterval a, FloatInterval b) {
  if (b.lo == 0 && b.hi == 0) return FloatInterval::point(0);
  const FloatInterval quotient = floordiv(a, b);
  const FloatInterval rest = a - b * quotient;
  if (!rest.known() || a.infinite() || b.infinite() || quotient.infinite()) {
    return FloatInterval::any();
  }
  // Between 0 and b, but for the rounding of a / b, that of b * quotient and that of the
  // difference.
  const double slack = 1e-6 * greatest(std::fabs(a.lo), std::fabs(a.hi)) + 1e-36;
  const FloatInterval period =
      detail::widened(least<double>(0, b.lo) - slack, greatest<double>(0, b.hi) + slack);
  return {greatest(rest.lo, period.lo), least(rest.hi, period.hi)};
}
ATTNLANG_HD inline FloatInterval relu(FloatInterval x) { return max(x, FloatInterval::point(0)); }

ATTNLANG_HD inline FloatInterval sqrt(FloatInterval x) {
  if (!(x.lo >= 0)) return FloatInterval::any();
  return detail::increasing(x, [](double y) { return std::sqrt(y); });
}
ATTNLANG_HD inline FloatInterval rsqrt(FloatInterval x) {
  if (!(x.lo >= FLT_MIN)) return FloatInterval::any();
  return detail::widened(1 / std::sqrt(x.hi), 1 / std::sqrt(x.lo));
}
ATTNLANG_HD inline FloatInterval exp(FloatInterval x) {
  return detail::increasing(x, [](double y) { return std::exp(y); });
}
ATTNLANG_HD inline FloatInterval exp2(FloatInterval x) {
  return detail::increasing(x, [](double y) { return std::exp2(y); });
}
ATTNLANG_HD inline FloatInterval log(FloatInterval x) {
  if (!(x.lo >= 0)) return FloatInterval::any();
  return detail::increasing(x, [](double y) { return std::log(y); });
}
ATTNLANG_HD inline FloatInterval log2(FloatInterval x) {
  if (!(x.lo >= 0)) return FloatInterval::any();
  return detail::increasing(x, [](double y) { return std::log2(y); });
}
ATTNLANG_HD inline FloatInterval log1p(FloatInterval x) {
  if (!(x.lo >= -1)) return FloatInterval::any();
  return detail::increasing(x, [](double y) { return std::log1p(y); });
}
ATTNLANG_HD inline FloatInterval sin(FloatInterval x) {
  if (!x.known() || x.infinite()) return FloatInterval::any();
  if (x.lo == x.hi) {
    const double y = std::sin(x.lo);
    return {y - 1e-6, y + 1e-6};
  }
  return {-1, 1};
}
ATTNLANG_HD inline FloatInterval cos(FloatInterval x) {
  if (!x.known() || x.infinite()) return FloatInterval::any();
  if (x.lo == x.hi) {
    const double y = std::cos(x.lo);
    return {y - 1e-6, y + 1e-6};
  }
  return {-1, 1};
}
ATTNLANG_HD inline FloatInterval tanh(FloatInterval x) {
  return detail::increasing(x, [](double y) { return std::tanh(y); });
}
ATTNLANG_HD inline FloatInterval sigmoid(FloatInterval x) {
  return detail::increasing(x, [](double y) { return 1 / (1 + std::exp(-y)); });
}
ATTNLANG_HD inline FloatInterval softplus(FloatInterval x) {
  return detail::increasing(
      x, [](double y) { return std::fmax(y, 0) + std::log1p(std::exp(-std::fabs(y))); });
}
ATTNLANG_HD inline FloatInterval erf(FloatInterval x) {
  return detail::increasing(x, [](double y) { return std::erf(y); });
}
ATTNLANG_HD inline FloatInterval gelu(FloatInterval x) {
  // float32's 1 + erf(...) cancels on the left: an error of 1e-7 beside |x|.
  const FloatInterval y = detail::valley(x, -0.7517915246935646, -0.1699712074721123, [](double t) {
    return 0.5 * t * std::erfc(-t * 0.7071067811865476);
  });
  const double slack = 1e-6 * std::fmax(1, std::fabs(x.lo));
  return {y.lo - slack, y.hi + slack};
}
ATTNLANG_HD inline FloatInterval silu(FloatInterval x) {
  return detail::valley(x, -1.2784645427610738, -0.2784645427610738,
                        [](double t) { return t / (1 + std::exp(-t)); });
}

ATTNLANG_HD inline FloatInterval powi(FloatInterval x, int n) {
  if (n == 0) return FloatInterval::point(1);
  if (!x.known()) return x;
  if (n < 0) return FloatInterval::point(1) / powi(x, -n);
  const FloatInterval base = n % 2 == 0 ? abs(x) : x;
  return detail::widened(std::pow(base.lo, n), std::pow(base.hi, n), 1e-6 * n);
}
ATTNLANG_HD inline FloatInterval pow(FloatInterval x, FloatInterval y) {
  if (!x.known() || !y.known() || !(x.lo > 0) || x.infinite() || y.infinite()) {
    return FloatInterval::any();
  }
  return detail::corners(x, y, [](double a, double b) { return std::pow(a, b); });
}

ATTNLANG_HD inline FloatInterval to_float(Interval x) {
  constexpr int64_t kExact = int64_t{1} << 24;
  const double lo = static_cast<double>(x.lo), hi = static_cast<double>(x.hi);
  if (x.lo >= -kExact && x.hi <= kExact) return {lo, hi};
  return detail::widened(lo, hi);
}
ATTNLANG_HD inline Interval truncate(FloatInterval x) {
  if (!x.known() || x.lo < -0x1p62 || x.hi > 0x1p62) return Interval::any();
  return {static_cast<int64_t>(x.lo), static_cast<int64_t>(x.hi)};
}

ATTNLANG_HD inline Verdict operator<(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known()) return Verdict::unknown;
  return verdict(a.hi < b.lo, a.lo >= b.hi);
}
ATTNLANG_HD inline Verdict operator<=(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known()) return Verdict::unknown;
  return verdict(a.hi <= b.lo, a.lo > b.hi);
}
ATTNLANG_HD inline Verdict operator>(FloatInterval a, FloatInterval b) { return b < a; }
ATTNLANG_HD inline Verdict operator>=(FloatInterval a, FloatInterval b) { return b <= a; }
ATTNLANG_HD inline Verdict operator==(FloatInterval a, FloatInterval b) {
  if (!a.known() || !b.known()) return Verdict::unknown;
  return verdict(a.lo == a.hi && b.lo == b.hi && a.lo == b.lo, a.hi < b.lo || b.hi < a.lo);
}
ATTNLANG_HD inline Verdict operator!=(FloatInterval a, FloatInterval b) { return ~(a == b); }

ATTNLANG_HD inline FloatInterval select(Verdict condition, FloatInterval a, FloatInterval b) {
  if (is_full(condition)) return a;
  if (is_empty(condition)) return b;
  if (!a.known() || !b.known()) return FloatInterval::any();
  return {least(a.lo, b.lo), greatest(a.hi, b.hi)};
}

}  // namespace attnlang

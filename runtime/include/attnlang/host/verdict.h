// Three-valued logic: what is known about a predicate over a set of elements.
//
// `full`: true of every element, `empty`: of none, `unknown`: anything. Operators are those of the
// language's bools, so that one printed expression serves elements and sets. `==` and `!=` are the
// language's too and give a Verdict: kernels ask `is_full`, `is_empty`.
#pragma once

#include <concepts>

#include "attnlang/host/target.h"

namespace attnlang {

enum class Verdict { empty, full, unknown };

constexpr bool is_empty(Verdict v) { return static_cast<int>(v) == 0; }
constexpr bool is_full(Verdict v) { return static_cast<int>(v) == 1; }
constexpr bool is_unknown(Verdict v) { return static_cast<int>(v) == 2; }

constexpr Verdict verdict(bool x) { return x ? Verdict::full : Verdict::empty; }
constexpr Verdict verdict(Verdict x) { return x; }

// Of a comparison that always holds, never holds, or may do either.
constexpr Verdict verdict(bool always, bool never) {
  return always ? Verdict::full : never ? Verdict::empty : Verdict::unknown;
}

constexpr Verdict operator~(Verdict a) { return verdict(is_empty(a), is_full(a)); }
constexpr Verdict operator!(Verdict a) { return ~a; }
constexpr Verdict operator&(Verdict a, Verdict b) {
  return verdict(is_full(a) && is_full(b), is_empty(a) || is_empty(b));
}
constexpr Verdict operator|(Verdict a, Verdict b) {
  return verdict(is_full(a) || is_full(b), is_empty(a) && is_empty(b));
}
constexpr Verdict operator^(Verdict a, Verdict b) {
  if (is_unknown(a) || is_unknown(b)) return Verdict::unknown;
  return verdict(is_full(a) != is_full(b));
}
constexpr Verdict operator!=(Verdict a, Verdict b) { return a ^ b; }
constexpr Verdict operator==(Verdict a, Verdict b) { return ~(a ^ b); }

constexpr Verdict operator&(Verdict a, std::same_as<bool> auto b) { return a & verdict(b); }
constexpr Verdict operator&(std::same_as<bool> auto a, Verdict b) { return verdict(a) & b; }
constexpr Verdict operator|(Verdict a, std::same_as<bool> auto b) { return a | verdict(b); }
constexpr Verdict operator|(std::same_as<bool> auto a, Verdict b) { return verdict(a) | b; }

// What holds of two sets together.
constexpr Verdict join(Verdict a, Verdict b) {
  return static_cast<int>(a) == static_cast<int>(b) ? a : Verdict::unknown;
}

constexpr Verdict select(Verdict condition, Verdict a, Verdict b) {
  return is_full(condition) ? a : is_empty(condition) ? b : join(a, b);
}

constexpr Verdict narrow(Verdict a) { return a; }

// `a and b and ...`: what comes first is cheap, and where it is false the rest is not asked.
template <class... Operand>
ATTNLANG_HD Verdict all_of(const Operand&... operand) {
  Verdict v = Verdict::full;
  static_cast<void>((... && (v = v & operand(), !is_empty(v))));
  return v;
}

template <class... Operand>
ATTNLANG_HD Verdict any_of(const Operand&... operand) {
  Verdict v = Verdict::empty;
  static_cast<void>((... && (v = v | operand(), !is_full(v))));
  return v;
}

}  // namespace attnlang

// The least and the greatest of a few values, as std::min and std::max choose them; <algorithm>
// costs a CUDA unit a third of its compile time.
#pragma once

namespace attnlang {

template <class T>
constexpr T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T greatest(T a, T b) {
  return a < b ? b : a;
}
template <class T>
constexpr T least(const T (&x)[4]) {
  return least(least(x[0], x[1]), least(x[2], x[3]));
}
template <class T>
constexpr T greatest(const T (&x)[4]) {
  return greatest(greatest(x[0], x[1]), greatest(x[2], x[3]));
}
template <class T>
constexpr T bounded(T x, T low, T high) {
  return x < low ? low : high < x ? high : x;
}

}  // namespace attnlang

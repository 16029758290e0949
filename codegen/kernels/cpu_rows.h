// Where keys and values lie: views of one head, and the rows of some columns.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/cpu/simd.h"

namespace attnlang::cpu {

// The keys and values of one (request, head): column j at k_row(j), v_row(j).
template <class Element>
struct StridedKv {
  const Element* k;
  const Element* v;
  int64_t k_stride, k_inner, v_stride, v_inner;

  const Element* k_row(int64_t j) const { return k + j * k_stride; }
  const Element* v_row(int64_t j) const { return v + j * v_stride; }
  // The view whose column 0 is this one's column j.
  StridedKv from(int64_t j) const {
    StridedKv later = *this;
    later.k = k_row(j), later.v = v_row(j);
    return later;
  }
};

// Where the keys and values of some columns lie, up to kMaxKeyTile of them.
template <class Element>
struct KvRows {
  const Element* k[kMaxKeyTile];
  const Element* v[kMaxKeyTile];
  int64_t k_inner, v_inner;

  const Element* k_row(int j) const { return k[j]; }
  const Element* v_row(int j) const { return v[j]; }
};

// Rows of some columns as they are stored, of any element type, to be asked for before they are
// read. Without `bytes` there are none.
struct StoredRows {
  const void* row[kMaxKeyTile];
  int64_t bytes;  // of a row

  void repeat_last(int n) { std::fill(row + n, row + kMaxKeyTile, row[n - 1]); }
};

}  // namespace attnlang::cpu

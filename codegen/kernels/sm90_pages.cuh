// Pages as the loaders of a Hopper kernel find them: which page holds which rows of a key tile,
// asked for while the tile before is loaded.
#pragma once

#include <cstdint>

#include "attnlang/host/order.h"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda::sm90 {

// The rows of a tile's keys or values as the products find them: in pages, or not.
template <class Variant, class Calls, bool kKeys>
constexpr bool kInPages =
    Calls::kPacked && (kKeys ? !Variant::kKey : !Variant::kValue && !Variant::kValueSharesKey);

// The pages of rows that a lane looks after, kEach of each key tile: their numbers are asked for a
// tile ahead, and bounded where they are used, for that would wait for them.
template <int kEach>
class PageNumbers {
 public:
  // The next tile to load begins with column k0, the one after it with `after` (negative: that is
  // not known). RowOf: e -> the row of a tile.
  template <class RowOf>
  ATTNLANG_DEVICE void turn(const Pages& pages, int k0, int after, int kv_len,
                            const RowOf& row_of) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      before_[e] = now_[e];
      now_[e] = ahead_ == k0 ? next_[e] : look_up(pages, k0 + row_of(e), kv_len);
      next_[e] = after < 0 ? 0 : look_up(pages, after + row_of(e), kv_len);
    }
    loaded_ = k0, ahead_ = after;
  }
  // Of the tile that begins with k0: the one of the last turn, or the one before, whose values are
  // loaded after its keys.
  ATTNLANG_DEVICE int number(const Pages& pages, int k0, int e) const {
    int number = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (e == i) number = k0 == loaded_ ? now_[i] : before_[i];
    }
    return bounded<int>(number, 0, pages.count - 1);
  }

 private:
  static ATTNLANG_DEVICE int look_up(const Pages& pages, int column, int kv_len) {
    return column < kv_len ? pages.raw_number(column) : 0;
  }

  int now_[kEach] = {}, before_[kEach] = {}, next_[kEach] = {};
  int loaded_ = -1, ahead_ = -1;
};

}  // namespace attnlang::cuda::sm90

// The gradients of q, k and v on Hopper, by a consumer warpgroup: it keeps 64 of the block's keys
// and values, and goes through tiles of queries, which a producer warp has the copy engine bring.
//
//   S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, dQ += dS K
//
// The accumulators of the first two products are the left operands of the next two, in registers;
// dS reaches the last one through shared memory, for a query's keys are those of all warpgroups.
// What it gives is added to the tile's sums in the workspace, in the order of keys
// (sm90_backward_queries.cuh). The queue of a warpgroup's products: dV and dK of a tile, S of the
// next, dQ of the tile, dP of the next: slopes of other warpgroups have time to come, so that one
// weighs while the other multiplies.
#pragma once

#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/device/wgmma.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_gradient_rows.cuh"
#include "kernels/cuda_gradients.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/sm80_backward_work.cuh"
#include "kernels/sm90_backward_layout.cuh"
#include "kernels/sm90_backward_loader.cuh"
#include "kernels/sm90_backward_queries.cuh"
#include "kernels/sm90_epilogue.cuh"
#include "kernels/sm90_loaders.cuh"
#include "kernels/sm90_softmax.cuh"

namespace attnlang::cuda::sm90 {

template <class Variant, class Element, int kD, int kDV, class L>
class BackwardConsumer {
 public:
  using Request = typename Variant::Request;
  using Params = typename Variant::Params;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using Work = HopperWork<Variant, Element>;
  using Pieces = typename L::Pieces;
  static constexpr bool kTerms = Variant::kSoftmax;
  // Weights need no product but the first, and their slopes only the second: what is between them
  // runs beside the second product.
  static constexpr bool kEarly = kTerms && kScaledScore<Variant> && !Variant::kDropout;
  // Registers hold a tile's rounded weights beside all else: dV may be multiplied while slopes are
  // made, and the next tile's first product handed over before those of this one are done.
  static constexpr bool kRoomy = (L::kD + L::kDV) / 2 + L::kTile + L::kTile / 4 <= 208;

  ATTNLANG_DEVICE BackwardConsumer(L layout, const Work& work, const Params& params, int group)
      : layout_(layout),
        work_(work),
        params_(params),
        place_(layout.control().place),
        group_(group),
        row_(group * kConsumerRows),
        lane_(static_cast<int>(threadIdx.x % kWarp)) {
    first_row_ = row_ + warp_index() % 4 * 16 + lane_ / 4;
  }

  ATTNLANG_DEVICE void run() {
    float first[L::kD / 2] = {};    // dK
    float second[L::kDV / 2] = {};  // dV
    TileMessage message = next_message();
    int rows_round = 0;
    if (place_.rows > 0) mbarrier_wait(&layout_.control().rows_full, 0);
    while (message.head >= 0) {
      if constexpr (Variant::kColumnMask) {
        if (rows_round > 0) mbarrier_wait(&layout_.control().rows_full, rows_round & 1);
      }
      if (Variant::kColumnMask || place_.rows < L::kRows) clear_keys(message.head);
      go_through(message, first, second);
      if constexpr (Variant::kColumnMask) release(&layout_.control().rows_empty);
      ++rows_round;
    }
    write<kD>(work_.k, first);
    write<kDV>(work_.v, second);
  }

 private:
  // Tiles up to the last, or up to one whose head has other keys.
  ATTNLANG_DEVICE void go_through(TileMessage& message, float (&first)[L::kD / 2],
                                  float (&second)[L::kDV / 2]) {
    bool multiplying = false;  // the last products of the tile before
    int before = 0;            // its stage
    fence_registers(first);
    fence_registers(second);
    do {
      const int stage = stage_.stage;
      float dots[L::kTile / 2], reached[L::kTile / 2];
      if constexpr (!kRoomy) {
        wgmma_wait<0>();
        fence_registers(first);
        fence_registers(second);
      }
      issue_dots<L::kD, L::kRowPanel, L::kTilePanel>(layout_.first_rows(),
                                                     layout_.first_tile(stage), dots);
      mbarrier_wait(&layout_.control().second_full[stage], stage_.full());
      wgmma_wait<1>();
      fence_registers(first);
      fence_registers(second);
      if (multiplying) {
        release(&layout_.control().empty[before]);
        give_queries(dots);
      }
      issue_dots<L::kDV, L::kRowPanel, L::kTilePanel>(layout_.second_rows(),
                                                      layout_.second_tile(stage), reached);
      uint32_t weights[L::kTile / 16][4];
      if constexpr (kEarly) {
        wgmma_wait<1>();
        fence_registers(dots);
        if (message.masked()) weigh<true>(message, stage, dots);
        else weigh<false>(message, stage, dots);
      }
      if constexpr (kEarly && kRoomy) {
        issue_values(stage, dots, weights, second);
        wgmma_wait<1>();
      } else {
        wgmma_wait<0>();
      }
      fence_registers(dots);
      fence_registers(reached);
      if (message.masked()) slope<true>(message, stage, dots, reached);
      else slope<false>(message, stage, dots, reached);
      issue_keys(stage, dots, reached, weights, first, second);
      multiplying = true, before = stage;
      stage_.advance();
      message = next_message();
    } while (message.head >= 0 && !(Variant::kColumnMask && message.new_rows()));
    wgmma_wait<0>();
    fence_registers(first);
    fence_registers(second);
    release(&layout_.control().empty[before]);
    float none[1] = {};
    give_queries(none);
  }

  ATTNLANG_DEVICE TileMessage next_message() const {
    auto& control = layout_.control();
    mbarrier_wait(&control.first_full[stage_.stage], stage_.full());
    return control.message[stage_.stage];
  }
  // An arrival a warp: the warp is done with what the barrier guards.
  ATTNLANG_DEVICE void release(uint64_t* barrier) const {
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(barrier);
  }

  // What keys hold that are not there, or that no row of the head may see, must not meet a slope of
  // 0. A warp has 16 of the block's rows; that of other warpgroups is seen with their slopes.
  ATTNLANG_DEVICE void clear_keys(int h) const {
    const Request request = block_request(h, 0);
    const int own = row_ + warp_index() % 4 * 16;
    const int row = own + lane_ % 16;
    const bool hidden = is_hidden<Variant>(request, place_.row0 + row, place_.extent.keys);
    for (uint32_t bits = __ballot_sync(~0u, hidden) & 0xffff; bits != 0; bits &= bits - 1) {
      const int at = own + __ffs(static_cast<int>(bits)) - 1;
      clear_row<L::kD, L::kRowPanel>(layout_.first_rows(), at, lane_);
    }
    fence_async_shared();
    named_barrier_sync(1 + group_, kWarpgroup);
  }

  // sums = rows tile^T, of the warpgroup's rows.
  template <int kColumns, int kRowPanel, int kTilePanel>
  ATTNLANG_DEVICE void issue_dots(const char* rows, const char* tile,
                                  float (&sums)[L::kTile / 2]) const {
    constexpr int kStep = 32;  // bytes of 16 columns
    const uint64_t a = matrix_descriptor(rows + row_ * kPanelRowBytes, 16, 8 * kPanelRowBytes);
    const uint64_t b = matrix_descriptor(tile, 16, 8 * kPanelRowBytes);
    fence_registers(sums);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kColumns / 16; ++i) {
      const int panel = i / 4, step = i % 4 * kStep;
      wgmma_ss<Element, L::kTile, false>(sums, a + ((panel * kRowPanel + step) >> 4),
                                         b + ((panel * kTilePanel + step) >> 4), i != 0);
    }
    wgmma_commit();
  }

  // dV, of `dots` that are weights.
  ATTNLANG_DEVICE void issue_values(int stage, const float (&dots)[L::kTile / 2],
                                    uint32_t (&weights)[L::kTile / 16][4],
                                    float (&second)[L::kDV / 2]) const {
    pack_tile(dots, weights);
    fence_registers(second);
    wgmma_fence();
    multiply<L::kDV>(weights, layout_.second_tile(stage), second);
    wgmma_commit();
  }
  // dK, and dV where it is still to come; other warpgroups get the slopes, too.
  ATTNLANG_DEVICE void issue_keys(int stage, const float (&dots)[L::kTile / 2],
                                  const float (&reached)[L::kTile / 2],
                                  uint32_t (&weights)[L::kTile / 16][4], float (&first)[L::kD / 2],
                                  float (&second)[L::kDV / 2]) const {
    uint32_t slopes[L::kTile / 16][4];
    if constexpr (!(kEarly && kRoomy)) pack_tile(dots, weights);
    pack_tile(reached, slopes);
    store_slopes(slopes);
    fence_registers(first);
    fence_registers(second);
    wgmma_fence();
    if constexpr (!(kEarly && kRoomy)) {
      multiply<L::kDV>(weights, layout_.second_tile(stage), second);
    }
    multiply<L::kD>(slopes, layout_.first_tile(stage), first);
    wgmma_commit();
  }
  ATTNLANG_DEVICE static void pack_tile(const float (&x)[L::kTile / 2],
                                        uint32_t (&packed)[L::kTile / 16][4]) {
#pragma unroll
    for (int step = 0; step < L::kTile / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        packed[step][i] = pack<Element>(x[8 * step + 2 * i], x[8 * step + 2 * i + 1]);
      }
    }
  }
  // sums += a tile.
  template <int kColumns>
  ATTNLANG_DEVICE static void multiply(const uint32_t (&a)[L::kTile / 16][4], const char* tile,
                                       float (&sums)[kColumns / 2]) {
    const uint64_t b = matrix_descriptor(tile, L::kTilePanel, 8 * kPanelRowBytes);
#pragma unroll
    for (int i = 0; i < L::kTile / 16; ++i) {
      wgmma_rs<Element, kColumns, true>(sums, a[i], b + ((i * 16 * kPanelRowBytes) >> 4), true);
    }
  }

  // --- queries ---

  // The warpgroup's panel: a query a row, a warp's 16 keys side by side. That a buffer is free is
  // known: its last readers have given slopes since.
  ATTNLANG_DEVICE void store_slopes(const uint32_t (&slopes)[L::kTile / 16][4]) const {
    const int chunk = 2 * (warp_index() % 4) + lane_ / 8 % 2;  // of 8 keys
    const int query = lane_ / 16 * 8 + lane_ % 8;
    char* to = layout_.slopes(tile_ & 1) + group_ * L::kTilePanel + query * kPanelRowBytes +
               (chunk ^ query % 8) * 16;
#pragma unroll
    for (int step = 0; step < L::kTile / 16; ++step) {
      stmatrix_x4_transposed(to + step * 16 * kPanelRowBytes, slopes[step]);
    }
    fence_async_shared();
    release(&layout_.control().slopes_full[tile_ & 1]);
  }

  // dQ of the tile before, once all warpgroups have given slopes; `dots`, a product in flight, is
  // there, too, after it.
  template <int kDots>
  ATTNLANG_DEVICE void give_queries(float (&dots)[kDots]) {
    auto& control = layout_.control();
    float sums[Pieces::kFloats];
    mbarrier_wait(&control.slopes_full[tile_ & 1], tile_ >> 1 & 1);
    issue_queries(sums);
    mbarrier_wait(&control.sums_empty[group_], ~tile_ & 1);
    wgmma_wait<0>();
    fence_registers(sums);
    fence_registers(dots);
    hand_on(sums);
    ++tile_;
  }

  // sums = slopes keys, of the warpgroup's part of the tile's queries.
  ATTNLANG_DEVICE void issue_queries(float (&sums)[Pieces::kFloats]) {
    const int column = Pieces::column(group_);
    const char* slopes = layout_.slopes(tile_ & 1) + Pieces::row(group_) * kPanelRowBytes;
    const char* keys = layout_.first_rows() + column / kPanelColumns * L::kRowPanel +
                       column % kPanelColumns * int{sizeof(Element)};
    const uint64_t a = matrix_descriptor(slopes, 16, 8 * kPanelRowBytes);
    const uint64_t b = matrix_descriptor(keys, L::kRowPanel, 8 * kPanelRowBytes);
    fence_registers(sums);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < L::kRows / 16; ++i) {
      const int place = i / 4 * L::kTilePanel + i % 4 * 32;
      wgmma_ss<Element, Pieces::kColumns, true>(sums, a + (place >> 4),
                                                b + ((i * 16 * kPanelRowBytes) >> 4), i != 0);
    }
    wgmma_commit();
  }

  // Leaves sums to the warp that has them added.
  ATTNLANG_DEVICE void hand_on(const float (&sums)[Pieces::kFloats]) {
    auto* to = reinterpret_cast<float4*>(layout_.sums(group_)) + threadIdx.x % kWarpgroup;
#pragma unroll
    for (int n = 0; n < Pieces::kFloats / 4; ++n) {
      to[n * kWarpgroup] =
          make_float4(sums[4 * n], sums[4 * n + 1], sums[4 * n + 2], sums[4 * n + 3]);
    }
    fence_async_shared();
    release(&layout_.control().sums_full[group_]);
  }

  // --- elements ---

  ATTNLANG_DEVICE int row_of(int i) const { return first_row_ + 8 * i; }

  ATTNLANG_DEVICE Request block_request(int h, int q_row) const {
    return work_.problem.template request<Variant>(params_, place_.extent, h,
                                                   anchor_of(q_row, work_.problem.queries));
  }
  ATTNLANG_DEVICE float base_of(int stage, int other) const {
    return kTerms ? layout_.control().base[stage][other] : 0.0f;
  }
  ATTNLANG_DEVICE float delta_of(int stage, int other) const {
    return kTerms ? layout_.control().delta[stage][other] : 0.0f;
  }

  // visit(at, row, column, exists, other) for each element of the thread, those of one `other` row
  // of queries together: at its place in the fragment.
  template <class Visit>
  ATTNLANG_DEVICE void each(const Request& request, int q0, const Visit& visit) const {
#pragma unroll
    for (int n = 0; n < L::kTile / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int other = 8 * n + 2 * (lane_ % 4) + c;
        const bool there = q0 + other < work_.problem.queries;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const bool exists = there && row_of(i) < place_.rows;
          visit(fragment_index(n, i, c), Variant::row(request, q0 + other),
                Variant::column(request, place_.row0 + row_of(i)), exists, other);
        }
      }
    }
  }

  // Dots to weights, where those need nothing else.
  template <bool kMasked>
  ATTNLANG_DEVICE void weigh(const TileMessage& message, int stage,
                             float (&dots)[L::kTile / 2]) const {
    const Request request = block_request(message.head, message.first);
    const float scale = Variant::scale(request);
    each(request, message.first,
         [&](int at, const Row& row, const Column& column, bool exists, int other) {
           float p = exp2_approx(fmaf(dots[at], scale, base_of(stage, other)));
           if constexpr (kMasked) {
             bool live = exists;
             if constexpr (Variant::kMask) {
               live = live && Variant::keep(request, row, column, dots[at]);
             }
             p = live ? p : 0.0f;
           }
           dots[at] = p;
         });
  }

  // Dots (weights, where kEarly) and what reached the weights to weights and slopes.
  template <bool kMasked>
  ATTNLANG_DEVICE void slope(const TileMessage& message, int stage, float (&dots)[L::kTile / 2],
                             float (&reached)[L::kTile / 2]) const {
    const Request request = block_request(message.head, message.first);
    each(request, message.first,
         [&](int at, const Row& row, const Column& column, bool exists, int other) {
           if constexpr (kEarly) {
             const float argument = dots[at] * (reached[at] - delta_of(stage, other));
             const float slope = Variant::dot_gradient(request, row, column, 0.0f, argument, 0.0f);
             reached[at] = kMasked && dots[at] == 0.0f ? 0.0f : slope;
           } else {
             const ElementGradient e = element_gradient<Variant, kMasked>(
                 request, row, column, exists, dots[at], reached[at], base_of(stage, other),
                 delta_of(stage, other));
             dots[at] = e.weight;
             reached[at] = e.slope;
           }
         });
  }

  // --- results ---

  // Rows that are not the request's get zeros.
  template <int kWidth, int kValues>
  ATTNLANG_DEVICE void write(const VectorRows<Element>& to, const float (&sums)[kValues]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = place_.row0 + row_of(i);
      Element* row = to.row(place_.b, place_.head, at);
      store_fragment_row<Element, kWidth>(to, row, at < work_.problem.keys, kWidth, i, sums, lane_);
    }
  }

  L layout_;
  const Work& work_;
  const Params& params_;
  const BlockPlace& place_;
  const int group_, row_;  // the warpgroup and its first row
  const int lane_;
  int first_row_;  // of the thread's two
  Place<L::kStages> stage_;
  int tile_ = 0;  // how many have given their queries what they have: the buffer of slopes
};

}  // namespace attnlang::cuda::sm90

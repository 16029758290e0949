// The gradients of q, k and v on Hopper: a block keeps rows of one side, 64 a consumer warpgroup,
// and goes through tiles of the other, which a producer warp has the copy engine bring.
//
//   keys:     S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
//   queries:  S = Q K^T, dP = dO V^T, dQ += dS K
//
// As in sm80_backward.cuh: both sides make scores and weights again, no gradient is ever added by
// two blocks, and the accumulators of the first two products are the left operands of the others,
// in registers. The products of a tile and the first two of the next are one queue; while a
// warpgroup weighs, the tensor cores have the other's.
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
#include "kernels/sm90_epilogue.cuh"
#include "kernels/sm90_softmax.cuh"

namespace attnlang::cuda::sm90 {

template <class Variant, class Element, int kD, int kDV, class L, Side kSide>
class BackwardConsumer {
 public:
  using Request = typename Variant::Request;
  using Params = typename Variant::Params;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using Work = BackwardWork<Variant, Element>;
  static constexpr bool kOfKeys = kSide == Side::keys;
  static constexpr bool kTerms = Variant::kSoftmax;
  // Weights need no product but the first, and their slopes only the second: what is between them
  // runs beside the second product.
  static constexpr bool kEarly = kTerms && kScaledScore<Variant> && !Variant::kDropout;

  ATTNLANG_DEVICE BackwardConsumer(L layout, const Work& work, const Params& params, int group)
      : layout_(layout),
        work_(work),
        params_(params),
        place_(layout.control().place),
        row_(group * kConsumerRows),
        lane_(static_cast<int>(threadIdx.x % kWarp)) {
    first_row_ = row_ + warp_index() % 4 * 16 + lane_ / 4;
  }

  ATTNLANG_DEVICE void run() {
    float first[L::kD / 2] = {};                  // dK or dQ
    float second[kOfKeys ? L::kDV / 2 : 1] = {};  // dV
    float base[2] = {}, delta[2] = {};            // of rows of queries
    if constexpr (!kOfKeys && kTerms) load_terms(base, delta);
    TileMessage message = next_message();
    if (place_.rows > 0) mbarrier_wait(&layout_.control().rows_full, 0);
    fence_registers(first);
    fence_registers(second);
    bool multiplying = false;  // the last products of the tile before
    int before = 0;            // its stage
    while (message.head >= 0) {
      const int stage = stage_.stage;
      float dots[L::kTile / 2], reached[L::kTile / 2];
      issue_dots<L::kD, L::kRowPanel, L::kTilePanel>(layout_.first_rows(),
                                                     layout_.first_tile(stage), dots);
      mbarrier_wait(&layout_.control().second_full[stage], stage_.full());
      wgmma_wait<1>();
      fence_registers(first);
      fence_registers(second);
      if (multiplying) release_tile(before);
      issue_dots<L::kDV, L::kRowPanel, L::kTilePanel>(layout_.second_rows(),
                                                      layout_.second_tile(stage), reached);
      wgmma_wait<1>();
      fence_registers(dots);
      if (message.masked()) weigh<true>(message, stage, base, delta, dots, reached);
      else weigh<false>(message, stage, base, delta, dots, reached);
      if constexpr (!kOfKeys) release(&layout_.control().second_empty[stage]);
      issue_results(stage, dots, reached, first, second);
      multiplying = true, before = stage;
      stage_.advance();
      message = next_message();
    }
    wgmma_wait<0>();
    fence_registers(first);
    fence_registers(second);
    if constexpr (kOfKeys) {
      write<kD>(work_.k, base, first);
      write<kDV>(work_.v, base, second);
    } else {
      write<kD>(work_.q, base, first);
    }
  }

 private:
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
  ATTNLANG_DEVICE void release_tile(int stage) const {
    auto& control = layout_.control();
    release(&control.first_empty[stage]);
    if constexpr (kOfKeys) release(&control.second_empty[stage]);
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

  // dots: weights, reached: slopes.
  template <int kSecond>
  ATTNLANG_DEVICE void issue_results(int stage, const float (&dots)[L::kTile / 2],
                                     const float (&reached)[L::kTile / 2],
                                     float (&first)[L::kD / 2], float (&second)[kSecond]) const {
    uint32_t weights[kOfKeys ? L::kTile / 16 : 1][4], slopes[L::kTile / 16][4];
    if constexpr (kOfKeys) pack_tile(dots, weights);
    pack_tile(reached, slopes);
    fence_registers(first);
    fence_registers(second);
    wgmma_fence();
    if constexpr (kOfKeys) multiply<L::kDV>(weights, layout_.second_tile(stage), second);
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

  // --- elements ---

  ATTNLANG_DEVICE int row_of(int i) const { return first_row_ + 8 * i; }

  ATTNLANG_DEVICE void load_terms(float (&base)[2], float (&delta)[2]) const {
    const int64_t first = work_.terms.at(place_.b * work_.problem.heads + place_.head, place_.row0);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      base[i] = work_.terms.base[first + row_of(i)];
      delta[i] = work_.terms.delta[first + row_of(i)];
    }
  }

  // visit(at, i, row, column, exists, other) for each element of the thread, those of one `other`
  // row together: at its place in the fragment, i of the two rows that stay.
  template <class Visit>
  ATTNLANG_DEVICE void each(const Request& request, int o0, const Visit& visit) const {
#pragma unroll
    for (int n = 0; n < L::kTile / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int other = 8 * n + 2 * (lane_ % 4) + c;
        const bool there = o0 + other < place_.others;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = fragment_index(n, i, c);
          if constexpr (kOfKeys) {
            const bool exists = there && row_of(i) < place_.rows;
            visit(at, i, Variant::row(request, o0 + other),
                  Variant::column(request, place_.row0 + row_of(i)), exists, other);
          } else {
            visit(at, i, Variant::row(request, place_.row0 + row_of(i)),
                  Variant::column(request, o0 + other), there, other);
          }
        }
      }
    }
  }

  // Dots and what reached the weights to weights and slopes.
  template <bool kMasked>
  ATTNLANG_DEVICE void weigh(const TileMessage& message, int stage, const float (&row_base)[2],
                             const float (&row_delta)[2], float (&dots)[L::kTile / 2],
                             float (&reached)[L::kTile / 2]) const {
    const auto& control = layout_.control();
    const Request request =
        block_request(work_, params_, place_, message.head, kOfKeys ? message.first : place_.row0);
    const auto base = [&](int i, int other) {
      return !kTerms ? 0.0f : kOfKeys ? control.base[stage][other] : row_base[i];
    };
    const auto delta = [&](int i, int other) {
      return !kTerms ? 0.0f : kOfKeys ? control.delta[stage][other] : row_delta[i];
    };
    const int o0 = message.first;
    if constexpr (kEarly) {
      const float scale = Variant::scale(request);
      each(request, o0,
           [&](int at, int i, const Row& row, const Column& column, bool exists, int other) {
             float p = exp2_approx(fmaf(dots[at], scale, base(i, other)));
             if constexpr (kMasked) {
               bool live = exists;
               if constexpr (Variant::kMask) {
                 live = live && Variant::keep(request, row, column, dots[at]);
               }
               p = live ? p : 0.0f;
             }
             dots[at] = p;
           });
      wgmma_wait<0>();
      fence_registers(reached);
      each(request, o0, [&](int at, int i, const Row& row, const Column& column, bool, int other) {
        const float argument = dots[at] * (reached[at] - delta(i, other));
        const float slope = Variant::dot_gradient(request, row, column, 0.0f, argument, 0.0f);
        reached[at] = kMasked && dots[at] == 0.0f ? 0.0f : slope;
      });
    } else {
      wgmma_wait<0>();
      fence_registers(reached);
      each(request, o0,
           [&](int at, int i, const Row& row, const Column& column, bool exists, int other) {
             const ElementGradient e =
                 element_gradient<Variant, kMasked>(request, row, column, exists, dots[at],
                                                    reached[at], base(i, other), delta(i, other));
             dots[at] = e.weight;
             reached[at] = e.slope;
           });
    }
  }

  // --- results ---

  // Rows that are not the request's get zeros, and so do queries that see nothing.
  template <int kWidth, int kValues>
  ATTNLANG_DEVICE void write(const VectorRows<Element>& to, const float (&base)[2],
                             float (&sums)[kValues]) const {
    const int all = kOfKeys ? work_.problem.keys : work_.problem.queries;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = place_.row0 + row_of(i);
      if constexpr (!kOfKeys && kTerms) {
        if (base[i] == -kInfinity) {
#pragma unroll
          for (int n = 0; n < kValues / 4; ++n) {
            sums[fragment_index(n, i, 0)] = sums[fragment_index(n, i, 1)] = 0.0f;
          }
        }
      }
      Element* row = to.row(place_.b, place_.head, at);
      store_fragment_row<Element, kWidth>(to, row, at < all, kWidth, i, sums, lane_);
    }
  }

  L layout_;
  const Work& work_;
  const Params& params_;
  const BlockPlace& place_;
  const int row_;  // the warpgroup's first
  const int lane_;
  int first_row_;  // of the thread's two
  Place<L::kStages> stage_;
};

template <class Variant_, class Element, int kD, int kDV, BackwardBlock kBlock, Side kSide>
struct BackwardKernel {
  using Variant = Variant_;
  using L = BackwardLayout<kD, kDV, kBlock, kSide>;
  using Work = BackwardWork<Variant, Element>;
  using Loader = BackwardLoader<Variant, Element, L, kSide>;
  using Consumer = BackwardConsumer<Variant, Element, kD, kDV, L, kSide>;

  static ATTNLANG_DEVICE void run(const BackwardMaps& maps, const Work& work) {
    const L layout{dynamic_shared<char>()};
    start(layout, work);
    const auto params = Variant::params(work.arguments);
    if (warp_index() == 0) Loader(layout, maps, work).load_rows();
    if constexpr (Variant::kMask) {
      find_tiles<Variant, Element, L, kSide>(layout, work, params);
      __syncthreads();
    }
    const int group = warp_index() / 4;
    if (group == 0) {
      if constexpr (L::kHandsOver) registers_decrease<L::kProducerRegisters>();
      if (warp_index() == 0) Loader(layout, maps, work).run(params);
    } else {
      if constexpr (L::kHandsOver) registers_increase<L::kConsumerRegisters>();
      Consumer(layout, work, params, group - 1).run();
    }
  }

 private:
  static ATTNLANG_DEVICE void start(L layout, const Work& work) {
    auto& control = layout.control();
    if (threadIdx.x == 0) {
      mbarrier_init(&control.rows_full, 1);
      mbarrier_init(&control.landed, 1);
      for (int stage = 0; stage < L::kStages; ++stage) {
        mbarrier_init(&control.first_full[stage], 1);
        mbarrier_init(&control.second_full[stage], 1);
        mbarrier_init(&control.first_empty[stage], L::kConsumers * 4);
        mbarrier_init(&control.second_empty[stage], L::kConsumers * 4);
      }
      mbarrier_init_fence();
    }
    if (threadIdx.x == kWarp) {
      control.place = BlockPlace::of<kSide>(work, static_cast<int>(blockIdx.x), L::kRows);
    }
    __syncthreads();
  }
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::L::kThreads, 1)
    backward(const __grid_constant__ BackwardMaps maps,
             const __grid_constant__ typename Kernel::Work work) {
  Kernel::run(maps, work);
}

}  // namespace attnlang::cuda::sm90

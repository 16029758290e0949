// Attention on Hopper: persistent CTAs of one producer and one to three consumer warpgroups.
//
// A consumer warpgroup owns 64 rows of the query tile. While it weighs tile n in registers, its
// second product of tile n - 1 runs; and the warpgroups take turns in handing products to the
// tensor cores, so that one weighs while the other multiplies. The producer's messages say which
// tiles there are (sm90_layout.cuh); consumers never look at the mask of a tile that is full.
#pragma once

#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/device/wgmma.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_scores.cuh"
#include "kernels/sm90_calls.cuh"
#include "kernels/sm90_epilogue.cuh"
#include "kernels/sm90_layout.cuh"
#include "kernels/sm90_pieces.cuh"
#include "kernels/sm90_producer.cuh"
#include "kernels/sm90_softmax.cuh"

namespace attnlang::cuda::sm90 {

template <class Variant, class Element, int kD, int kDV, class L, class Calls>
class Consumer {
 public:
  using Request = typename Variant::Request;

  ATTNLANG_DEVICE Consumer(L layout, const Maps& maps, const Calls& calls, int group)
      : layout_(layout),
        maps_(maps),
        calls_(calls),
        group_(group),
        rows_(group / L::kParts),
        part_(group % L::kParts),
        warp_(warp_index() % 4),
        lane_(static_cast<int>(threadIdx.x % kWarp)) {}

  ATTNLANG_DEVICE void run() {
    if (group_ == L::kConsumers - 1) pass_turn();
    Scores s;
    Message message = next_message();
    start(message, s);
    while (!message.end()) message = attend(message, s);
    wgmma_wait<0>();
    fence_registers(s);
    if (group_ == 0) await_turn();
    if constexpr (kStoresRows) tma_store_wait<0>();
  }

 private:
  using Rows = ThreadRows<Variant, false>;
  using Weights = Softmax<Variant, L::kKeyTile, L::kPartColumns>;
  using Scores = float[L::kKeyTile / 2];
  using Sums = float[L::kPartColumns / 2];
  // An out expression's rows pass through the room of the queries, of an item without keys too.
  static constexpr bool kNeedsQueries = Variant::kOut;
  // The next item's first product goes with this one's last: its queries are there.
  static constexpr bool kAhead = L::kQueryStages > 1 && !kNeedsQueries && L::kDV <= L::kD;
  // Rows leave by way of the room of their item's queries.
  static constexpr bool kStoresRows = kAhead && L::kParts == 1 && !Calls::kPacked;
  static constexpr bool kSaysStages = L::kD > 2 * kPanelColumns;
  static constexpr int kPartPanels = L::kPartColumns / kPanelColumns;
  static constexpr int kTurn = 1;  // named barriers: one of each consumer warpgroup
  static constexpr int kAll = kTurn + L::kConsumers;

  // An item without tiles has queries where its rows need them.
  ATTNLANG_DEVICE void await_queries(const Message& message) const {
    if (message.end() || (message.empty() && !kNeedsQueries)) return;
    mbarrier_wait(&layout_.control().q_full[queries_.stage], queries_.full());
  }

  // Starts an item's first product. Of an item without tiles, or of none, it reads what happens to
  // lie there, and nobody looks at the result: products in flight at every branch are the same.
  ATTNLANG_DEVICE void start(const Message& message, Scores& s) {
    await_queries(message);
    await_turn();
    issue_scores(s);
    pass_turn();
  }

  // One item, whose first product is under way. Starts the next one's beside writing this one's
  // rows, and returns its first message.
  ATTNLANG_DEVICE Message attend(Message message, Scores& s) {
    const Item item = uniform(message.item);
    const int q0 = item.q0 + rows_ * kConsumerRows + warp_ * kWarpRows;
    const bool empty = message.empty();
    Weights weights;
    RowState plain[2];  // without a softmax
    Sums o = {};
    uint32_t p[L::kKeyTile / 16][4] = {};
    if (empty) {
      wgmma_wait<0>();
      fence_registers(s);
      release(&layout_.control().k_empty[keys_.stage]);
      keys_.advance();
      if constexpr (L::kShared) values_.advance();
    } else {
      const int kv_len = calls_.problem().kv_len(item.b);
      const Rows rows = thread_rows(item, q0);
      weights.start(rows.requests[0]);
      wgmma_wait<0>();
      fence_registers(s);
      leave_queries(message.last());
      release_keys(0.0f);
      // As if masked, whether it is or not: one copy of the code less.
      float rescale[2] = {};
      weigh<true>(rows, message.k0, kv_len, weights, plain, s, rescale, [](float) {});
      pack_weights<Element, L::kKeyTile>(s, p);
      // Whether all tiles are weighed as masked ones are, each by its own message.
      const bool alone = weights.needs_sign();
      int full = alone ? 0 : message.full;
#pragma unroll 1
      while (true) {
#pragma unroll 1
        for (; full > 0; --full) {
          await_keys();
          const int k0 = layout_.control().message[keys_.stage].k0;
          step<false>(k0, message.ends() && full == 1, rows, kv_len, weights, plain, s, p, o);
        }
        if (alone ? message.last() : message.ends()) break;
        message = next_message();
        if constexpr (kSaysStages) say_stages();
        full = alone ? 0 : message.full;
        if (message.masked() || alone) {
          step<true>(message.k0, message.last(), rows, kv_len, weights, plain, s, p, o);
        } else {
          ++full;  // it is the first of them
        }
      }
    }
    if constexpr (kAhead) {
      message = next_message();
      await_queries(message);
      if (!empty) await_values();
      await_turn();
      // Where there are none, what lies there is that of a stage that is full.
      issue_sums(p, o, empty ? layout_.keys(keys_.stage) : layout_.values(values_.stage));
      issue_scores(s);
      pass_turn();
      wgmma_wait<1>();
      fence_registers(o);
      if (!empty) release_values();
      else zero(o);
    } else if (!empty) {
      await_values();
      issue_sums(p, o, layout_.values(values_.stage));
      wgmma_wait<0>();
      fence_registers(o);
      release_values();
    }
    if constexpr (!kAhead && !kNeedsQueries) {
      message = next_message();
      start(message, s);
    }
    finish(item, q0, empty, weights, plain, o);
    if constexpr (kNeedsQueries) {
      message = next_message();
      start(message, s);
    }
    calls_.release();
    return message;
  }

  static ATTNLANG_DEVICE void zero(Sums& o) {
#pragma unroll
    for (int i = 0; i < L::kPartColumns / 2; ++i) o[i] = 0.0f;
  }

  // A tile's scores and, beside them and its weights, the sums of the tile before.
  template <bool kMasked>
  ATTNLANG_DEVICE void step(int k0, bool last, const Rows& rows, int kv_len, Weights& weights,
                            RowState (&plain)[2], Scores& s, uint32_t (&p)[L::kKeyTile / 16][4],
                            Sums& o) {
    await_turn();
    issue_scores(s);
    await_values();
    issue_sums(p, o, layout_.values(values_.stage));
    pass_turn();
    wgmma_wait<1>();
    fence_registers(s);
    leave_queries(last);
    float rescale[2] = {};
    weigh<kMasked>(rows, k0, kv_len, weights, plain, s, rescale, [&](float weight) {
      release_keys(weight);
      wgmma_wait<0>();
      fence_registers(o);
      release_values();
      if constexpr (Variant::kSoftmax) scale_row(0, rescale[0], o);
    });
    if constexpr (Variant::kSoftmax) scale_row(1, rescale[1], o);
    pack_weights<Element, L::kKeyTile>(s, p);
  }

  ATTNLANG_DEVICE Rows thread_rows(const Item& item, int q0) const {
    const Request request = calls_.request(item);
    const int row = q0 + lane_ / 4;
    return {.requests = {request},
            .rows = {Variant::row(request, row), Variant::row(request, row + 8)}};
  }

  template <bool kMasked, class Beside>
  ATTNLANG_DEVICE void weigh(const Rows& rows, int k0, int kv_len, Weights& weights,
                             RowState (&plain)[2], Scores& s, float (&rescale)[2],
                             const Beside& beside) const {
    const int first = k0 + 2 * (lane_ % 4);
    if constexpr (Variant::kSoftmax) {
      weights.template weigh<kMasked>(rows, first, kv_len, s, rescale, beside);
    } else {
      const auto column_of = [first](int n, int c) { return first + 8 * n + c; };
      weigh_fragment<Variant, kMasked>(rows, column_of, kv_len,
                                       calls_.problem().max.data != nullptr, s, plain);
      beside(0.0f);
    }
  }

  // s = Q K^T, of the warpgroup's rows and the current stage.
  ATTNLANG_DEVICE void issue_scores(Scores& s) const {
    constexpr int kStep = 32;  // bytes of 16 columns
    const uint64_t q =
        matrix_descriptor(layout_.queries(queries_.stage) + rows_ * kConsumerRows * kPanelRowBytes,
                          16, 8 * kPanelRowBytes);
    const uint64_t k = matrix_descriptor(layout_.keys(keys_.stage), 16, 8 * kPanelRowBytes);
    fence_registers(s);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < L::kD / 16; ++i) {
      const int panel = i / 4, step = i % 4 * kStep;
      wgmma_ss<Element, L::kKeyTile, false>(s, moved(q, panel * L::kQueryPanel + step),
                                            moved(k, panel * L::kKeyPanel + step), i != 0);
    }
    wgmma_commit();
  }

  // o += P V, of the current stage.
  ATTNLANG_DEVICE void issue_sums(const uint32_t (&p)[L::kKeyTile / 16][4], Sums& o,
                                  const char* values) const {
    const uint64_t v = matrix_descriptor(values + part_ * kPartPanels * L::kKeyPanel, L::kKeyPanel,
                                         8 * kPanelRowBytes);
    fence_registers(o);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < L::kKeyTile / 16; ++i) {
      wgmma_rs<Element, L::kPartColumns, true>(o, p[i], moved(v, i * 16 * kPanelRowBytes), true);
    }
    wgmma_commit();
  }

  ATTNLANG_DEVICE void finish(const Item& item, int q0, bool empty, const Weights& weights,
                              const RowState (&plain)[2], Sums& o) {
    const Request request = calls_.request(item);
    RowState states[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      states[i] = Variant::kSoftmax ? weights.state(i) : plain[i];
      states[i].sum = quad_sum(states[i].sum);
      if constexpr (kWeighted<Variant>) states[i].weighted = quad_sum(states[i].weighted);
      if constexpr (!Variant::kSoftmax) {
        states[i].max = max_or_nan(states[i].max, __shfl_xor_sync(~0u, states[i].max, 1));
        states[i].max = max_or_nan(states[i].max, __shfl_xor_sync(~0u, states[i].max, 2));
      }
    }
    float* room = nullptr;
    static_assert(!Variant::kOut || L::kParts == 1, "an out expression needs whole rows");
    if constexpr (Variant::kOut) {
      constexpr int kRoom = 16 * L::kD * 2;  // bytes of a warp's rows of q
      static_assert((kDV + Widths<Variant, kD, kDV>::kOut + kProgramScratch<Variant>)*4 <= kRoom);
      char* queries = layout_.queries(queries_.stage);
      room = reinterpret_cast<float*>(queries + (group_ * 4 + warp_) * kRoom);
      // All warps are done with the query tile.
      named_barrier_sync(kAll, L::kConsumers * kWarpgroup);
    }
    const Problem<Element>& problem = calls_.problem();
    bool whole = true;
    if constexpr (Calls::kPacked) {
      const Cut cut = calls_.cut();
      whole = cut.count == 1;
      if (!whole) {
        leave_piece<Variant, Element, kD, kDV, L::kQueryTile>(
            problem, request, cut, item.b, item.h, q0, rows_ * kConsumerRows + warp_ * kWarpRows,
            states, o, room);
      }
    }
    RowsRoom rows_room{};
    if (kStoresRows && !empty && maps_.stores) {
      const int row = rows_ * kConsumerRows + warp_ * kWarpRows;
      rows_room = {.map = &maps_.out,
                   .at = layout_.queries(queries_.stage ^ 1) + row * kPanelRowBytes,
                   .panel = L::kQueryPanel};
    }
    if (whole) {
      write_fragment<Variant, Element, kD, kDV>(problem, request, item.b, item.h, q0,
                                                part_ * L::kPartColumns, states, o, room,
                                                rows_room);
    }
    if constexpr (kStoresRows) {
      if (!empty) {
        tma_store_wait_read<0>();
        release(&layout_.control().q_empty[queries_.stage ^ 1]);
      }
    }
    if constexpr (Variant::kOut) {
      fence_async_shared();
      release(&layout_.control().q_empty[queries_.stage]);
      queries_.advance();
    }
  }

  // What it says of the tile is the same in all lanes, and the compiler is to know: branches that
  // depend on it stay whole, and places in the rings lie in uniform registers.
  ATTNLANG_DEVICE Message next_message() const {
    await_keys();
    Message message = layout_.control().message[keys_.stage];
    message.k0 = __shfl_sync(~0u, message.k0, 0);
    message.flags = __shfl_sync(~0u, message.flags, 0);
    message.full = __shfl_sync(~0u, message.full, 0);
    return message;
  }
  // Beyond two panels of queries the compiler no longer sees that stages are the same in all lanes:
  // it would move every descriptor of the loop to uniform registers.
  ATTNLANG_DEVICE void say_stages() {
    keys_.stage = __shfl_sync(~0u, keys_.stage, 0);
    values_.stage = __shfl_sync(~0u, values_.stage, 0);
    queries_.stage = __shfl_sync(~0u, queries_.stage, 0);
  }
  static ATTNLANG_DEVICE Item uniform(const Item& item) {
    return {.b = __shfl_sync(~0u, item.b, 0),
            .h = __shfl_sync(~0u, item.h, 0),
            .q0 = __shfl_sync(~0u, item.q0, 0)};
  }
  ATTNLANG_DEVICE void await_keys() const {
    mbarrier_wait(&layout_.control().k_full[keys_.stage], keys_.full());
  }
  ATTNLANG_DEVICE void await_values() const {
    if constexpr (L::kShared) return;
    mbarrier_wait(&layout_.control().v_full[values_.stage], values_.full());
  }

  // An arrival a warp: the warp is done with what the barrier guards.
  ATTNLANG_DEVICE void release(uint64_t* barrier) const {
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(barrier);
  }
  // `weight`, which has no sign, is known before. The assembler keeps arrivals and waits in order;
  // without it both would go before the exponentials, and these would wait for the sums.
  ATTNLANG_DEVICE void release_keys(float weight) {
    auto& control = layout_.control();
    __syncwarp();
    const auto late = [&](uint64_t& barrier) {
      return reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(&barrier) + zero_after(weight));
    };
    if constexpr (!L::kShared) {
      if (lane_ == 0) mbarrier_arrive(late(control.k_empty[keys_.stage]));
    }
    keys_.advance();
  }
  // After an item's last product of queries. Rows may have to pass through their room yet.
  ATTNLANG_DEVICE void leave_queries(bool last) {
    if constexpr (kNeedsQueries) return;
    if constexpr (!kStoresRows) {
      __syncwarp();
      if (lane_ == 0 && last) mbarrier_arrive(&layout_.control().q_empty[queries_.stage]);
    }
    if (last) queries_.advance();
  }
  ATTNLANG_DEVICE void release_values() {
    auto& control = layout_.control();
    release(L::kShared ? &control.k_empty[values_.stage] : &control.v_empty[values_.stage]);
    values_.advance();
  }

  // The turn to hand products to the tensor cores goes round the warpgroups.
  ATTNLANG_DEVICE void await_turn() const {
    if constexpr (L::kConsumers > 1) named_barrier_sync(kTurn + group_, 2 * kWarpgroup);
  }
  ATTNLANG_DEVICE void pass_turn() const {
    if constexpr (L::kConsumers > 1) {
      const int next = group_ + 1 == L::kConsumers ? 0 : group_ + 1;
      named_barrier_arrive(kTurn + next, 2 * kWarpgroup);
    }
  }

  L layout_;
  const Maps& maps_;
  Calls calls_;
  const int group_;  // the consumer warpgroup: of which rows, and which part of the values
  const int rows_, part_;
  const int warp_, lane_;
  Place<L::kStages> keys_, values_;
  Place<L::kQueryStages> queries_;
};

template <class Variant, int kD, int kDV, class Tiles>
using LayoutOf = Layout<kD, kDV, Tiles, kValueWithinKey<Variant, kD, kDV>>;

// All that a block does, by all of its threads. `gathers`: stages are filled by copies of single
// rows; the maps are not looked at then. `queue`: the items.
template <class Variant, class Element, int kD, int kDV, class L, class Calls, class Items>
ATTNLANG_DEVICE void run_block(L layout, const Maps& maps, bool gathers, const Calls& calls,
                               const Items& queue) {
  using Gather = GatherLoader<Variant, Element, L, Calls, kD, kDV>;
  using Tma = TmaLoader<Variant, Element, L, Calls>;
  static_assert(Gather::kWarps == kScout, "all warps of the producer but the scout");
  start_barriers(layout, gathers ? Gather::kArrivals : Tma::kArrivals,
                 gathers ? Gather::kWarps : Tma::kWarps);
  const int group = warp_index() / 4;
  if (group == 0) {
    if constexpr (L::kHandsOver) registers_decrease<L::kProducerRegisters>();
    if (warp_index() == kScout) {
      Scout<Variant, Element, L, Calls>(layout, calls).run(queue);
    } else if (gathers) {
      Gather loader(layout, calls);
      load<Variant, Element>(layout, loader);
    } else if (warp_index() < Tma::kWarps) {
      Tma loader(layout, maps, calls);
      load<Variant, Element>(layout, loader);
    }
  } else {
    if constexpr (L::kHandsOver) registers_increase<L::kConsumerRegisters>();
    Consumer<Variant, Element, kD, kDV, L, Calls>(layout, maps, calls, group - 1).run();
  }
}

template <class Variant, class Element, int kD, int kDV, class Tiles>
__global__ void __launch_bounds__(LayoutOf<Variant, kD, kDV, Tiles>::kThreads, 1)
    forward(const __grid_constant__ Maps maps, bool gathers,
            const __grid_constant__ Problem<Element> problem, const __grid_constant__ Queue queue,
            const __grid_constant__ typename Variant::Arguments arguments) {
  using L = LayoutOf<Variant, kD, kDV, Tiles>;
  using Calls = OneCall<Variant, Element>;
  const L layout{dynamic_shared<char>()};
  const auto params = Variant::params(arguments);
  run_block<Variant, Element, kD, kDV>(layout, maps, gathers, Calls(problem, params), queue);
}

}  // namespace attnlang::cuda::sm90

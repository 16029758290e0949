// A CUDA unit of packed calls on wgmma, of sm_90a: items of many rows by the producer and consumers
// of dense calls (sm90_forward.cuh), those of few rows with mma.sync.
//
// What an item's request makes of the call lies in shared memory, in a ring that the scout fills.
// Rows one after another, and pages of a multiple of 16 slots, come by the copy engine; other
// pages, narrow entries and unaligned rows by the gather.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/host/call.h"
#include "kernels/cuda_packed.cuh"
#include "kernels/sm90_attention.cuh"

namespace attnlang::cuda {

namespace sm90 {

constexpr int kRequestsAtOnce = 3;  // the consumers', the loaders' and the scout's

// The call of an item's request, and which of its keys are the block's.
template <class Variant, class Element>
struct OwnCall {
  int32_t b;  // negative: there is none yet
  int32_t first_query, first_key;
  Cut cut;
  Problem<Element> problem;
  typename Variant::Params params;
};

template <class Variant, class Element>
struct RequestRing {
  uint64_t empty[kRequestsAtOnce];
  OwnCall<Variant, Element> calls[kRequestsAtOnce];
};

// As OneCall; `box`: rows of a page that the copy engine brings together, 0 where it does not.
template <class Variant, class Element>
class RequestCalls {
 public:
  using Params = typename Variant::Params;
  static constexpr bool kPacked = true;

  ATTNLANG_DEVICE RequestCalls(RequestRing<Variant, Element>& ring, int box)
      : ring_(ring), box_(box) {}

  // By one thread, before barriers are seen by others. `readers` warps leave an item.
  ATTNLANG_DEVICE void start(int readers) const {
    for (int i = 0; i < kRequestsAtOnce; ++i) {
      mbarrier_init(&ring_.empty[i], readers);
      ring_.calls[i].b = -1;
    }
  }
  // By the scout: the next item is of request `rows.b`.
  ATTNLANG_DEVICE void enter(const PackedWork<Variant, Element>& work, const RequestRows& rows,
                             const Cut& cut) {
    mbarrier_wait(&ring_.empty[place_.stage], place_.empty());
    if (threadIdx.x % kWarp == 0) {
      OwnCall<Variant, Element>& own = ring_.calls[place_.stage];
      own.cut = cut;
      if (own.b != rows.b) {
        const Work<Variant, Element> of_request = cuda::of_request(work.all, rows);
        own.problem = of_request.problem;
        own.problem.settle(rows.b);
        own.params = Variant::params(of_request.arguments);
        own.b = rows.b;
        own.first_query = rows.queries.begin;
        own.first_key = rows.keys.begin;
      }
    }
    __syncwarp();
  }

  ATTNLANG_DEVICE const Problem<Element>& problem() const { return own().problem; }
  ATTNLANG_DEVICE const Params& params() const { return own().params; }
  ATTNLANG_DEVICE const Cut& cut() const { return own().cut; }
  ATTNLANG_DEVICE typename Variant::Request request(const Item& item) const {
    return problem().template request<Variant>(params(), item.b, item.h, item.q0);
  }
  ATTNLANG_DEVICE int first_query() const { return own().first_query; }
  ATTNLANG_DEVICE int first_key() const { return own().first_key; }
  ATTNLANG_DEVICE int batch(const Item&) const { return 0; }
  ATTNLANG_DEVICE bool has_rows_past(int) const { return true; }
  ATTNLANG_DEVICE int box_rows() const { return box_; }

  ATTNLANG_DEVICE void leave() { place_.advance(); }
  // By a reader's warp, which is the last to leave the item.
  ATTNLANG_DEVICE void release() {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) mbarrier_arrive(&ring_.empty[place_.stage]);
    leave();
  }

 private:
  ATTNLANG_DEVICE const OwnCall<Variant, Element>& own() const { return ring_.calls[place_.stage]; }

  RequestRing<Variant, Element>& ring_;
  const int box_;
  Place<kRequestsAtOnce> place_;
};

// The items of a packed call: what a schedule deals out, or all in turn, by a counter that is 0
// before the kernel.
template <class Variant, class Element, int kItemFloats>
struct PackedQueue {
  PackedBlocks<Variant, Element> blocks;
  int32_t items;
  int32_t* counter;

  // By one warp: the block's items in turn.
  template <int kQueryTile, class Calls, class Visit>
  ATTNLANG_DEVICE void each(Calls& calls, const Visit& visit) const {
    DealtItems dealt(blocks.schedule, blocks.states, kItemFloats);
    int next = static_cast<int>(blockIdx.x);
    while (true) {
      int index = next;
      Cut cut;
      if (dealt.dealt()) {
        if (!dealt.next(index, cut)) break;
      } else {
        if (index >= items) break;
        cut = Cut::whole();
        if (threadIdx.x % kWarp == 0) next = atomicAdd(counter, 1);
        next = static_cast<int>(gridDim.x) + __shfl_sync(~0u, next, 0);
      }
      RequestRows rows{};
      cuda::Item found{};
      if (!ManyRows<kQueryTile>::find(blocks.work, index, rows, found)) continue;
      calls.enter(blocks.work, rows, cut);
      visit(Item{.b = found.b, .h = found.head, .q0 = found.row0});
    }
  }
};

template <class Variant, class Element, int kD, int kDV, class Tiles>
using PackedLayout = Layout<kD, kDV, Tiles, -1, int{sizeof(RequestRing<Variant, Element>)}>;

template <class Variant, class Element, int kDV, class Tiles>
using QueueOf = PackedQueue<Variant, Element, Tiles::kQueryTile * kStateFloats<kDV>>;

// `box`: as RequestCalls has it.
template <class Variant, class Element, int kD, int kDV, class Tiles>
__global__ void __launch_bounds__(PackedLayout<Variant, Element, kD, kDV, Tiles>::kThreads, 1)
    packed_forward(const __grid_constant__ Maps maps, bool gathers, int box,
                   const __grid_constant__ QueueOf<Variant, Element, kDV, Tiles> queue) {
  using L = PackedLayout<Variant, Element, kD, kDV, Tiles>;
  const L layout{dynamic_shared<char>()};
  const RequestCalls<Variant, Element> calls(
      *reinterpret_cast<RequestRing<Variant, Element>*>(layout.more()), box);
  if (threadIdx.x == 0) calls.start(L::kConsumers * 4);
  run_block<Variant, Element, kD, kDV>(layout, maps, gathers, calls, queue);
}

// Items of many rows: their schedule, and how they are launched.
template <class Variant, class Element, int kD, int kDV, class Tiles>
struct ManyOnWgmma {
  using L = PackedLayout<Variant, Element, kD, kDV, Tiles>;
  using Work = PackedWork<Variant, Element>;
  static constexpr int kBlocks = 1;
  static constexpr int kLeastPiece = 4;  // key tiles that are worth a merge
  static constexpr int kStartTiles = 1;
  static constexpr int kCounters = L::kQueryTile / 16;
  static constexpr int64_t kItemFloats = int64_t{L::kQueryTile} * kStateFloats<kDV>;
  static constexpr int64_t kQueueBytes = sizeof(int32_t);  // of what `even` needs

  using Queue = QueueOf<Variant, Element, kDV, Tiles>;
  using Schedule = PackedSchedule<ManyOnWgmma, ManyRows<L::kQueryTile>, Variant, Element>;

  // The key tiles from the first to the last that the mask leaves. A warp's work.
  static ATTNLANG_DEVICE int tiles(const cuda::Work<Variant, Element>& work,
                                   const cuda::Item& item) {
    const auto params = Variant::params(work.arguments);
    const int keys = work.problem.kv_len(item.b);
    const auto request =
        work.problem.template request<Variant>(params, item.b, item.head, item.row0);
    const auto verdict_of = [&](int k0, int k1) {
      return tile_verdict<Variant>(request, item.row0, item.row0 + item.rows, k0, k1);
    };
    TileSpan span{0, (keys + L::kKeyTile - 1) / L::kKeyTile};
    if constexpr (Variant::kMask) span = span.visited(L::kKeyTile, keys, verdict_of);
    return span.end - span.begin;
  }

  static int64_t items(const Call& call) {
    return ManyRows<L::kQueryTile>::items(call, Requests(call));
  }
  static int64_t ints(int64_t items) { return Schedule::ints(items); }
  static int64_t state_bytes(int64_t items) { return Schedule::state_bytes(items); }
  static const char* make_schedule(const Work& work, int64_t items, int32_t* schedule,
                                   void* stream) {
    return Schedule::make_schedule(work, items, schedule, stream);
  }

  static const char* even(const Call& call, const Work& work, int64_t items, void* counter) {
    if (items == 0) return nullptr;
    const char* wrong = fill_bytes(counter, 0, kQueueBytes, call.stream);
    if (wrong != nullptr) return wrong;
    const Queue queue{.blocks = {.work = work, .schedule = {}, .states = {}},
                      .items = static_cast<int32_t>(items),
                      .counter = static_cast<int32_t*>(counter)};
    return start(call, queue, std::min<int64_t>(items, multiprocessors()));
  }
  static const char* scheduled(const Call& call, const Work& work, int64_t items, int32_t* schedule,
                               void* states) {
    if (items == 0) return nullptr;
    Queue queue{.blocks = {.work = work, .schedule = {}, .states = {}},
                .items = static_cast<int32_t>(items),
                .counter = nullptr};
    const char* wrong = Schedule::deal(queue.blocks, items, schedule, states, call.stream);
    if (wrong != nullptr) return wrong;
    queue.counter = queue.blocks.states.done + Schedule::kAtOnce * kCounters;
    return start(call, queue, Schedule::kAtOnce);
  }

 private:
  static const char* start(const Call& call, const Queue& queue, int64_t blocks) {
    const Problem<Element>& problem = queue.blocks.work.all.problem;
    Maps maps{};
    int box = 0;
    const bool copied = make_maps(maps, box, call, problem);
    return launch(packed_forward<Variant, Element, kD, kDV, Tiles>,
                  dim3(static_cast<unsigned>(blocks)), L::kThreads, L::kBytes, call.stream, maps,
                  !copied, box, queue);
  }

  static bool make_maps(Maps& maps, int& box, const Call& call, const Problem<Element>& p) {
    constexpr bool kKeysStay = !Variant::kKey;
    constexpr bool kValuesStay = !Variant::kValue && !Variant::kValueSharesKey;
    const Pages& pages = p.pages;
    if (pages.size != 0) {
      // Boxes that divide pages and tiles, of whole swizzled groups of rows.
      box = std::gcd(pages.size, L::kKeyTile);
      if (box % 16 != 0) return false;
      if (kKeysStay && pages.keys.converted) return false;
      if (kValuesStay && pages.values.converted) return false;
    }
    const auto map = [&](TensorMap* to, const VectorRows<const Element>& rows, int width,
                         bool stays) {
      if (pages.size != 0 && stays) {
        return make_map(to, rows, pages.count, p.kv_heads, pages.size, width, box);
      }
      return make_map(to, rows, 1, p.kv_heads, key_rows(call), width, L::kKeyTile);
    };
    return make_map(&maps.q, p.q, 1, p.heads, p.queries, kD, L::kQueryTile) &&
           map(&maps.k, p.k, kD, kKeysStay) && map(&maps.v, p.v, kDV, kValuesStay);
  }
};

template <class Variant, class Element, int kD, int kDV, class Tiles, class PageElement>
using Packed =
    PackedAttention<Variant, Element, kD, kDV, ManyOnWgmma<Variant, Element, kD, kDV, Tiles>,
                    Tiles::kLargeShared, PageElement>;

}  // namespace sm90

// Bytes that `sm90_packed_run` needs in the call's workspace. `Tiles`: those of the skeleton for
// many rows, and kLargeShared, as `Decode` has it.
template <class Variant, class Element, int kD, int kDV, class Tiles, class PageElement>
int64_t sm90_packed_workspace(const Call& call) {
  return sm90::Packed<Variant, Element, kD, kDV, Tiles, PageElement>::workspace(call);
}

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV, class Tiles, class PageElement>
int sm90_packed_run(const Call& call, char* error) {
  return sm90::Packed<Variant, Element, kD, kDV, Tiles, PageElement>::run(call, error);
}

}  // namespace attnlang::cuda

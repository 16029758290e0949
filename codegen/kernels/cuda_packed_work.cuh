// What blocks of packed calls work on: items of many query rows of one head, or of the few rows of
// heads that share keys; each block its own item, or as a schedule says.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "kernels/cuda_decode.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_requests.cuh"
#include "kernels/cuda_schedule.cuh"
#include "kernels/cuda_transforms.cuh"

namespace attnlang::cuda {

template <class Variant, class Element>
struct PackedWork {
  Work<Variant, Element> all;  // `unit` heads share an item's rows, `chunks` items a unit
  Requests requests;
};

template <class Variant, class Element>
ATTNLANG_DEVICE Work<Variant, Element> of_request(Work<Variant, Element> work,
                                                  const RequestRows& rows) {
  Variant::request_rows(work.arguments, rows);
  take_rows<Variant>(work.problem, rows);
  return work;
}

// What a block makes of the call for its request lies in shared memory, behind what the skeleton
// has there: in registers it would stand beside the accumulators.
template <class Variant, class Element>
struct RequestWork {
  Work<Variant, Element> work;
  typename Variant::Params params;
  Cut cut;
};
template <class Kernel, class Variant, class Element>
constexpr int kPackedSharedBytes =
    (Kernel::kSharedBytes + 15) / 16 * 16 + static_cast<int>(sizeof(RequestWork<Variant, Element>));

// All threads of a block call it.
template <class Kernel, class Variant, class Element>
ATTNLANG_DEVICE void run_request(const Work<Variant, Element>& all, const RequestRows& rows,
                                 const Item& item, const Cut& cut) {
  auto& own = *reinterpret_cast<RequestWork<Variant, Element>*>(
      dynamic_shared<char>() + (Kernel::kSharedBytes + 15) / 16 * 16);
  __syncthreads();  // what the item before had in shared memory is read
  if (threadIdx.x == 0) {
    own.work = of_request(all, rows);
    own.params = Variant::params(own.work.arguments);
    own.cut = cut;
  }
  __syncthreads();
  Kernel::run(own.work, own.params, item, &own.cut);
}

// Tiles of query rows of one head; late tiles, which a causal mask lets see most, come first.
template <int kRows>
struct ManyRows {
  static int64_t items(const Call& call, const Requests& requests) {
    if (call.q.size[2] <= kDecodeQueries) return 0;
    return requests.query_tiles(kRows) * call.q.size[1];
  }

  // Item `index` and its request's rows; false: there is none.
  template <class Variant, class Element>
  static ATTNLANG_DEVICE bool find(const PackedWork<Variant, Element>& work, int index,
                                   RequestRows& rows, Item& item) {
    const int heads = work.all.problem.heads;
    const int last = static_cast<int>(work.requests.query_tiles(kRows)) - 1;
    const auto place = work.requests.query_tile(last - index / heads, kRows);
    if (place.b < 0) return false;
    rows = rows_of<Variant>(work.requests, work.all.arguments, place.b);
    const int left = rows.queries.count - place.row;
    if (rows.queries.count <= kDecodeQueries || left <= 0) return false;
    item.b = place.b;
    item.head = index % heads;
    item.h_kv = item.head / work.all.problem.group();
    item.row0 = place.row;
    item.rows = left < kRows ? left : kRows;
    item.step = 1;
    item.queries = rows.queries.count;
    return true;
  }
};

// The few rows of a unit of heads, kRows at a time.
template <int kRows>
struct FewRows {
  static int64_t chunks(int64_t rows) { return (rows + kRows - 1) / kRows; }
  static int64_t items(const Call& call, int64_t unit) {
    const int64_t rows = std::min<int64_t>(call.q.size[2], kDecodeQueries);
    return call.packed->requests * (call.q.size[1] / unit) * chunks(unit * rows);
  }

  template <class Variant, class Element>
  static ATTNLANG_DEVICE bool find(const PackedWork<Variant, Element>& work, int index,
                                   RequestRows& rows, Item& item) {
    const int units = work.all.problem.heads / work.all.unit, which = index / work.all.chunks;
    item.b = which / units;
    rows = rows_of<Variant>(work.requests, work.all.arguments, item.b);
    item.head = which % units * work.all.unit;
    item.h_kv = item.head / work.all.problem.group();
    item.row0 = index % work.all.chunks * kRows;
    item.step = 1;
    item.queries = rows.queries.count;
    const int left = item.queries * work.all.unit - item.row0;
    if (item.queries > kDecodeQueries || left <= 0) return false;
    item.rows = left < kRows ? left : kRows;
    return true;
  }
};

template <class Variant, class Element>
struct PackedBlocks {
  PackedWork<Variant, Element> work;
  Schedule schedule;  // data null, or `whole`: a block does an item, or a part of one
  PieceStates states;
};

template <class Kernel, class Items, class Variant, class Element>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    packed_kernel(const __grid_constant__ PackedBlocks<Variant, Element> blocks) {
  blocks.work.requests.fetch();
  DealtItems dealt(blocks.schedule, blocks.states, Kernel::kItemFloats, Kernel::kBlocks);
  int index = static_cast<int>(blockIdx.x);
  Cut cut;
  if (!dealt.dealt()) cut = Cut::even(blocks.work.all.parts, Kernel::kItemFloats);
  else if (!dealt.next(index, cut)) return;
  do {
    RequestRows rows{};
    Item item{};
    if (!Items::find(blocks.work, index, rows, item)) continue;
    run_request<Kernel>(blocks.work.all, rows, item, cut);
  } while (dealt.next(index, cut));
}

// Pieces of so many key tiles, and the states of them that there is room for; 0: as shares fall.
struct Fixed {
  int32_t split = 0, states = 0;
};

constexpr int kCostWarps = 4;

// A warp an item: the key tiles that it visits, and those that its start takes the time of.
template <class Kernel, class Items, class Variant, class Element>
__global__ void __launch_bounds__(kCostWarps* kWarp)
    cost_kernel(const __grid_constant__ PackedWork<Variant, Element> work, int32_t* costs,
                int items) {
  const int index = static_cast<int>(blockIdx.x) * kCostWarps + warp_index();
  if (index >= items) return;
  RequestRows rows{};
  Item item{};
  int cost = 0;
  if (Items::find(work, index, rows, item)) {
    cost = Kernel::kStartTiles + Kernel::tiles(of_request(work.all, rows), item);
  }
  if (threadIdx.x % kWarp == 0) costs[index] = cost;
}

// The schedule of one kind of items of a packed call. `Kernel`: works on kBlocks * kProcessors of
// them at once; kCounters groups of an item's rows are merged each by themselves.
template <class Kernel, class Items, class Variant, class Element>
struct PackedSchedule {
  using Work = PackedWork<Variant, Element>;
  static constexpr int64_t kAtOnce = int64_t{Kernel::kBlocks} * kProcessors;

  // Of a schedule in memory, and of the states of what it cuts.
  static int64_t ints(int64_t items) { return items == 0 ? 0 : Schedule::ints(items, kAtOnce); }
  static int64_t state_bytes(int64_t items, const Fixed& fixed = {}) {
    if (items == 0) return 0;
    if (fixed.split != 0) {
      return PieceStates::fixed_bytes(fixed.states, Kernel::kItemFloats, Kernel::kCounters);
    }
    return PieceStates::bytes(kAtOnce, Kernel::kItemFloats, Kernel::kCounters) + kQueueBytes;
  }
  // A block for each item, where the items may be enough for it: the GPU counts those that there
  // are.
  static bool may_be_whole(int64_t items) { return items >= Schedule::kEnough * kAtOnce; }

  // What blocks are told, with nothing done yet; behind the counters lies a number that is 0.
  static const char* deal(PackedBlocks<Variant, Element>& blocks, int64_t items, int32_t* schedule,
                          void* states, void* stream, const Fixed& fixed = {}) {
    blocks.schedule = schedule_at(schedule, items, fixed);
    if (fixed.split != 0) {
      blocks.states =
          PieceStates::fixed_at(states, fixed.states, Kernel::kItemFloats, Kernel::kCounters);
      return fill_bytes(blocks.states.done, 0, fixed.states * Kernel::kCounters * sizeof(int32_t),
                        stream);
    }
    blocks.states = PieceStates::at(states, kAtOnce, Kernel::kItemFloats, Kernel::kCounters);
    return fill_bytes(blocks.states.done, 0,
                      kAtOnce * Kernel::kCounters * sizeof(int32_t) + kQueueBytes, stream);
  }

  static const char* make_schedule(const Work& work, int64_t items, int32_t* schedule, void* stream,
                                   const Fixed& fixed = {}) {
    if (items == 0) return nullptr;
    const Schedule made = schedule_at(schedule, items, fixed);
    const dim3 grid(static_cast<unsigned>((items + kCostWarps - 1) / kCostWarps));
    const char* wrong = launch(cost_kernel<Kernel, Items, Variant, Element>, grid,
                               kCostWarps * kWarp, 0, stream, work, made.costs(), made.items);
    if (wrong != nullptr) return wrong;
    return launch(deal_kernel, dim3(1), kDealThreads, kDealThreads * sizeof(int64_t), stream,
                  DealWork{.schedule = made,
                           .least = Kernel::kLeastPiece,
                           .start = Kernel::kStartTiles,
                           .may_be_whole = may_be_whole(items)});
  }

 private:
  static constexpr int64_t kQueueBytes = sizeof(int32_t);
  static Schedule schedule_at(int32_t* data, int64_t items, const Fixed& fixed) {
    return {.data = data,
            .items = static_cast<int32_t>(items),
            .blocks = static_cast<int32_t>(kAtOnce),
            .split = fixed.split,
            .states = fixed.states};
  }
};

// One kind of items, and the kernel on mma.sync that does them.
template <class Kernel, class Items, class Variant, class Element>
struct PackedLaunch : PackedSchedule<Kernel, Items, Variant, Element> {
  using Base = PackedSchedule<Kernel, Items, Variant, Element>;
  using Work = typename Base::Work;
  static constexpr int64_t kQueueBytes = 0;  // of what `even` needs

  static int64_t items(const Call& call) { return Items::items(call, Requests(call)); }

  static const char* even(const Call& call, const Work& work, int64_t items, void*) {
    if (items == 0) return nullptr;
    const Parts& parts = work.all.parts;
    if (parts.count > 1) {
      const char* wrong = fill_bytes(parts.done, 0, items * sizeof(int32_t), call.stream);
      if (wrong != nullptr) return wrong;
    }
    const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(parts.count));
    return start(grid, call.stream, {.work = work, .schedule = {}, .states = {}});
  }

  static const char* scheduled(const Call& call, const Work& work, int64_t items, int32_t* schedule,
                               void* states, const Fixed& fixed = {}) {
    if (items == 0) return nullptr;
    PackedBlocks<Variant, Element> blocks{.work = work, .schedule = {}, .states = {}};
    const char* wrong = Base::deal(blocks, items, schedule, states, call.stream, fixed);
    if (wrong != nullptr) return wrong;
    const bool whole = fixed.split == 0 && Base::may_be_whole(items);
    const int64_t grid = whole ? items : Base::kAtOnce;
    return start(dim3(static_cast<unsigned>(grid)), call.stream, blocks);
  }

 private:
  static const char* start(const dim3& grid, void* stream,
                           const PackedBlocks<Variant, Element>& blocks) {
    return launch(packed_kernel<Kernel, Items, Variant, Element>, grid, Kernel::kThreads,
                  kPackedSharedBytes<Kernel, Variant, Element>, stream, blocks);
  }
};

}  // namespace attnlang::cuda

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

// A schedule made for other lengths touches no other memory than its own.
template <class Kernel, class Items, class Variant, class Element>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    packed_kernel(const __grid_constant__ PackedBlocks<Variant, Element> blocks) {
  const Schedule& schedule = blocks.schedule;
  const int block = static_cast<int>(blockIdx.x);
  const bool dealt = schedule.data != nullptr && schedule.data[Schedule::whole] == 0;
  if (dealt && block >= schedule.blocks) return;
  const int count = dealt ? least(schedule.data[Schedule::count], schedule.items) : 1;
  for (int n = dealt ? greatest(schedule.firsts()[block], 0) : 0; n < count; ++n) {
    int index = block;
    Cut cut;
    if (dealt) {
      const int64_t begin = schedule.begins()[n];
      const Pieces pieces = schedule.shares().pieces(begin, schedule.begins()[n + 1]);
      if (pieces.block > block) break;
      index = schedule.which()[n];
      const bool known = pieces.block >= 0 && pieces.block + pieces.count <= schedule.blocks &&
                         block < pieces.block + pieces.count && 0 <= index &&
                         index < schedule.items;
      if (!known) continue;
      cut = cut_of(schedule, blocks.states, block, begin, pieces, Kernel::kItemFloats);
    } else {
      cut = Cut::even(blocks.work.all.parts, Kernel::kItemFloats);
    }
    RequestRows rows{};
    Item item{};
    if (!Items::find(blocks.work, index, rows, item)) continue;
    run_request<Kernel>(blocks.work.all, rows, item, cut);
  }
}

constexpr int kCostWarps = 4;

// A warp an item: the key tiles that it visits, and one for its start.
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
    cost = 1 + Kernel::tiles(of_request(work.all, rows), item);
  }
  if (threadIdx.x % kWarp == 0) costs[index] = cost;
}

// One kind of items of a packed call, and the kernel that does them.
template <class Kernel, class Items, class Variant, class Element>
struct PackedLaunch {
  using Work = PackedWork<Variant, Element>;
  static constexpr int64_t kAtOnce = int64_t{Kernel::kBlocks} * kProcessors;

  static const char* even(const Work& work, int64_t items, void* stream) {
    if (items == 0) return nullptr;
    const Parts& parts = work.all.parts;
    if (parts.count > 1) {
      const char* wrong = fill_bytes(parts.done, 0, items * sizeof(int32_t), stream);
      if (wrong != nullptr) return wrong;
    }
    const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(parts.count));
    return start(grid, stream, {.work = work, .schedule = {}, .states = {}});
  }

  // Of a schedule in memory, and of the states of what it cuts.
  static int64_t ints(int64_t items) { return items == 0 ? 0 : Schedule::ints(items, kAtOnce); }
  static int64_t state_bytes(int64_t items) {
    return items == 0 ? 0 : PieceStates::bytes(kAtOnce, Kernel::kItemFloats);
  }
  // A block for each item, where the items may be enough for it: the GPU counts those that there
  // are.
  static bool may_be_whole(int64_t items) { return items >= Schedule::kEnough * kAtOnce; }
  static int64_t grid_of(int64_t items) { return may_be_whole(items) ? items : kAtOnce; }
  static Schedule schedule_at(int32_t* data, int64_t items) {
    return {.data = data,
            .items = static_cast<int32_t>(items),
            .blocks = static_cast<int32_t>(kAtOnce)};
  }

  static const char* scheduled(const Work& work, int64_t items, int32_t* schedule, void* states,
                               void* stream) {
    if (items == 0) return nullptr;
    const PackedBlocks<Variant, Element> blocks{
        .work = work,
        .schedule = schedule_at(schedule, items),
        .states = PieceStates::at(states, kAtOnce, Kernel::kItemFloats)};
    const char* wrong = fill_bytes(blocks.states.done, 0, kAtOnce * sizeof(int32_t), stream);
    if (wrong != nullptr) return wrong;
    return start(dim3(static_cast<unsigned>(grid_of(items))), stream, blocks);
  }

  static const char* make_schedule(const Work& work, int64_t items, int32_t* schedule,
                                   void* stream) {
    if (items == 0) return nullptr;
    const Schedule made = schedule_at(schedule, items);
    const dim3 grid(static_cast<unsigned>((items + kCostWarps - 1) / kCostWarps));
    const char* wrong = launch(cost_kernel<Kernel, Items, Variant, Element>, grid,
                               kCostWarps * kWarp, 0, stream, work, made.costs(), made.items);
    if (wrong != nullptr) return wrong;
    return launch(deal_kernel, dim3(1), kDealThreads, kDealThreads * sizeof(int64_t), stream,
                  DealWork{.schedule = made,
                           .state_bytes = state_bytes(items),
                           .may_be_whole = may_be_whole(items)});
  }

 private:
  static const char* start(const dim3& grid, void* stream,
                           const PackedBlocks<Variant, Element>& blocks) {
    return launch(packed_kernel<Kernel, Items, Variant, Element>, grid, Kernel::kThreads,
                  kPackedSharedBytes<Kernel, Variant, Element>, stream, blocks);
  }
};

}  // namespace attnlang::cuda

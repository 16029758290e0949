// Schedules of packed calls: every block that runs at once gets the same number of key tiles, of
// one item or of several in turn, whatever the requests' lengths are and the mask hides.
//
// Items lie one after another on a line, each as long as the key tiles that its rows visit and some
// more, for its start, in whose time so many would be done; the line is cut into equal shares, one
// a block. An item that a cut goes through is done in pieces, whose states meet in key order. No
// cut leaves a piece of fewer tiles than are worth a merge. Everything is counted on the GPU, where
// lengths lie: the host waits for nothing, and a captured graph needs it for nothing. What one
// knows of a schedule on the host are bounds: no block has more than two pieces of items that it
// shares with others.
//
// Where a request's bits are not to depend on its company, items are cut each so many key tiles
// instead, and a block does the pieces that begin in its share of the line.
#pragma once

#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/order.h"
#include "attnlang/host/target.h"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

// The blocks that do pieces of an item: `count` of them from `block` on.
struct Pieces {
  int32_t block, count;
};

// The cuts: at the multiples of `share`, but for those that are near an item's begin or end, which
// move there.
struct Shares {
  int64_t share;  // above `least`
  int64_t least;  // tiles that are worth a merge
  int64_t start;  // of each item's units, those that are not tiles

  ATTNLANG_HD Pieces pieces(int64_t begin, int64_t end) const {
    const int64_t units = end - begin;
    const bool small = units < 2 * least + start;
    const int64_t head = small ? (units + 1) / 2 : start + least, tail = small ? head : least;
    // The first cut that does not move to the begin, and the last that does not move to the end.
    const int64_t first = (begin + head + share - 1) / share, last = (end - tail) / share;
    const bool whole = small || last < first;
    return {.block = static_cast<int32_t>(first - 1),
            .count = whole ? 1 : static_cast<int32_t>(last - first + 2)};
  }
  // The units of an item, from its begin on, that lie before a piece.
  ATTNLANG_HD int64_t before(int64_t begin, const Pieces& pieces, int piece) const {
    return piece == 0 ? 0 : (pieces.block + piece) * share - begin;
  }
};

// The schedule of one launch, as int32 in the GPU's memory: what python reads of it, then `Shares`,
// where each item begins, which item it is, the first item of each block, and costs.
struct Schedule {
  enum Entry {
    kind,
    chunks,
    count,
    workers,
    slots,
    largest,
    tiles,
    size,
    whole,                         // not 0: nothing is cut, a block has the item of its number
    header = (whole + 2) / 2 * 2,  // 64-bit numbers follow
  };
  static_assert(header > whole && header * sizeof(int32_t) % alignof(int64_t) == 0);
  // So many items for each block at once keep a GPU busy without cuts, whatever their lengths are,
  // and blocks at work together have keys in common.
  static constexpr int64_t kEnough = 4;
  static constexpr int32_t kKind = 0x61747302;
  static constexpr int64_t kSharesInts = sizeof(Shares) / sizeof(int32_t);

  int32_t* data;
  int32_t items, blocks;  // items that there may be; blocks at once
  int32_t split;          // key tiles of a piece; 0: as shares fall
  int32_t states;         // of pieces that there is room for, where `split` is not 0

  static ATTNLANG_HD int64_t ints(int64_t items, int64_t blocks) {
    return (header + kSharesInts + 2 * (items + 1) + items + blocks + items + 1) / 2 * 2;
  }
  ATTNLANG_HD Shares& shares() const { return *reinterpret_cast<Shares*>(data + header); }
  ATTNLANG_HD int64_t* begins() const {
    return reinterpret_cast<int64_t*>(data + header + kSharesInts);
  }
  ATTNLANG_HD int32_t* which() const { return data + header + kSharesInts + 2 * (items + 1); }
  ATTNLANG_HD int32_t* firsts() const { return which() + items; }
  ATTNLANG_HD int32_t* costs() const { return firsts() + blocks; }
};

// Pieces of `split` key tiles. The states of an item's pieces lie one after another, those of an
// item that begins later behind them: no item has more pieces than the numbers up to the next
// one's.
struct FixedPieces {
  int64_t share, split, start;  // start: as of `Shares`

  ATTNLANG_HD int64_t count(int64_t begin, int64_t end) const {
    return greatest<int64_t>((end - begin - start + split - 1) / split, 1);
  }
  // Where a piece begins on the line.
  ATTNLANG_HD int64_t place(int64_t begin, int64_t piece) const {
    return piece == 0 ? begin : begin + start + piece * split;
  }
  ATTNLANG_HD int64_t block(int64_t begin, int64_t piece) const {
    return place(begin, piece) / share;
  }
  ATTNLANG_HD int64_t state(int64_t begin, int64_t item) const { return begin / split + item; }
};

// The states of pieces: a block's of an item that it goes on with, and of one that it begins; where
// pieces are fixed, each has its own, from `first` on.
struct PieceStates {
  float *later, *first;
  int32_t* done;     // of items, by the block that begins them
  int32_t counters;  // of an item: how many groups of its rows are done each by themselves

  static int64_t bytes(int64_t blocks, int64_t floats, int64_t counters) {
    return blocks * (2 * floats * int64_t{sizeof(float)} + counters * int64_t{sizeof(int32_t)});
  }
  static PieceStates at(void* memory, int64_t blocks, int64_t floats, int32_t counters) {
    auto* later = static_cast<float*>(memory);
    float* first = later + blocks * floats;
    return {.later = later,
            .first = first,
            .done = reinterpret_cast<int32_t*>(first + blocks * floats),
            .counters = counters};
  }
  static int64_t fixed_bytes(int64_t states, int64_t floats, int64_t counters) {
    return states * (floats * int64_t{sizeof(float)} + counters * int64_t{sizeof(int32_t)});
  }
  static PieceStates fixed_at(void* memory, int64_t states, int64_t floats, int32_t counters) {
    auto* first = static_cast<float*>(memory);
    return {.later = nullptr,
            .first = first,
            .done = reinterpret_cast<int32_t*>(first + states * floats),
            .counters = counters};
  }
};

// What block `block` does of an item that has `floats` of state in a piece.
ATTNLANG_DEVICE Cut cut_of(const Schedule& schedule, const PieceStates& states, int block,
                           int64_t begin, const Pieces& pieces, int64_t floats) {
  const int piece = block - pieces.block;
  if (pieces.count == 1) return Cut::whole();
  const Shares& shares = schedule.shares();
  const auto tile = [&](int at) {
    const int64_t before = shares.before(begin, pieces, at) - shares.start;
    return static_cast<int32_t>(greatest<int64_t>(before, 0));
  };
  return {.part = piece,
          .count = pieces.count,
          .begin = tile(piece),
          .end = piece + 1 == pieces.count ? INT32_MAX : tile(piece + 1),
          .done = states.done + int64_t{pieces.block} * states.counters,
          .first = states.first + pieces.block * floats,
          .later = states.later + (pieces.block + 1) * floats};
}

// The same of fixed pieces, the states of whose first piece stand at `state`.
ATTNLANG_DEVICE Cut fixed_cut(const PieceStates& states, int64_t state, int64_t piece,
                              int64_t count, int64_t split, int64_t floats) {
  if (count == 1) return Cut::whole();
  float* first = states.first + state * floats;
  return {.part = static_cast<int32_t>(piece),
          .count = static_cast<int32_t>(count),
          .begin = static_cast<int32_t>(piece * split),
          .end = piece + 1 == count ? INT32_MAX : static_cast<int32_t>((piece + 1) * split),
          .done = states.done + state * states.counters,
          .first = first,
          .later = first + floats};
}

// What a schedule has a block do, one piece after another. A schedule made for other lengths
// touches no other memory than its own.
class DealtItems {
 public:
  // `at_once`: blocks of a multiprocessor.
  ATTNLANG_DEVICE DealtItems(const Schedule& schedule, const PieceStates& states, int64_t floats,
                             int at_once = 1)
      : schedule_(schedule),
        states_(states),
        floats_(floats),
        block_(static_cast<int>(blockIdx.x)),
        count_(0),
        next_(0),
        piece_(0),
        dealt_(false) {
    if (schedule.data == nullptr) return;
    // Neighbours of the line share a multiprocessor, if these are given blocks in turns: where
    // items are few, and every other block has none, each has one.
    const bool known = block_ < schedule.blocks;
    const int apart = schedule.blocks / at_once;
    if (known) block_ = block_ % apart * at_once + block_ / apart;
    // All at once: each is long on its way.
    const int32_t whole = schedule.data[Schedule::whole], count = schedule.data[Schedule::count];
    const int32_t first = schedule.firsts()[known ? block_ : 0];
    dealt_ = whole == 0;
    if (known) count_ = least(count, schedule.items), next_ = greatest(first, 0);
  }

  // Whether the schedule deals pieces out; if not, a block has the item of its number.
  ATTNLANG_DEVICE bool dealt() const { return dealt_; }

  // The next item, and what of it is the block's; false: there is none.
  ATTNLANG_DEVICE bool next(int& index, Cut& cut) {
    if (schedule_.split != 0) return next_fixed(index, cut);
    for (; next_ < count_; ++next_) {
      const int64_t begin = schedule_.begins()[next_], end = schedule_.begins()[next_ + 1];
      index = schedule_.which()[next_];
      const Pieces pieces = schedule_.shares().pieces(begin, end);
      if (pieces.block > block_) return false;
      const bool known = pieces.block >= 0 && pieces.block + pieces.count <= schedule_.blocks &&
                         block_ < pieces.block + pieces.count && 0 <= index &&
                         index < schedule_.items;
      if (!known) continue;
      cut = cut_of(schedule_, states_, block_, begin, pieces, floats_);
      ++next_;
      return true;
    }
    return false;
  }

 private:
  ATTNLANG_DEVICE bool next_fixed(int& index, Cut& cut) {
    const Shares& shares = schedule_.shares();
    const FixedPieces pieces{greatest<int64_t>(shares.share, 1), schedule_.split, shares.start};
    for (; next_ < count_; ++next_, piece_ = 0) {
      const int64_t begin = schedule_.begins()[next_];
      const int64_t count = pieces.count(begin, schedule_.begins()[next_ + 1]);
      const int64_t state = pieces.state(begin, next_);
      index = schedule_.which()[next_];
      const bool known = 0 <= index && index < schedule_.items && 0 <= state &&
                         state + (count == 1 ? 0 : count) <= schedule_.states;
      if (!known) continue;
      for (; piece_ < count; ++piece_) {
        const int64_t block = pieces.block(begin, piece_);
        if (block > block_) return false;
        if (block < block_) continue;
        cut = fixed_cut(states_, state, piece_, count, schedule_.split, floats_);
        ++piece_;
        return true;
      }
    }
    return false;
  }

  const Schedule& schedule_;
  const PieceStates& states_;
  const int64_t floats_;
  int block_, count_, next_, piece_;
  bool dealt_;
};

constexpr int kDealThreads = 256;

// A running sum over the threads of the block: of those before this one; `total` of all.
ATTNLANG_DEVICE int64_t sum_before(int64_t own, int64_t* shared, int64_t& total) {
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = own;
  __syncthreads();
  for (int step = 1; step < kDealThreads; step *= 2) {
    const int64_t other = thread >= step ? shared[thread - step] : 0;
    __syncthreads();
    shared[thread] += other;
    __syncthreads();
  }
  total = shared[kDealThreads - 1];
  const int64_t before = shared[thread] - own;
  __syncthreads();
  return before;
}

struct Dealt {
  int64_t chunks, items, slots, units;
};

// Writes what python reads of a schedule; `start`: where a block's work begins on the line.
template <class Start>
ATTNLANG_DEVICE void tell(const Schedule& schedule, const Dealt& dealt, const Start& start,
                          int64_t* shared, bool whole) {
  const int thread = static_cast<int>(threadIdx.x);
  int64_t largest = 0;
  for (int block = thread; block < schedule.blocks; block += kDealThreads) {
    largest = greatest(largest, start(block + 1) - start(block));
  }
  shared[thread] = largest;
  __syncthreads();
  for (int half = kDealThreads / 2; half > 0; half /= 2) {
    if (thread < half) shared[thread] = greatest(shared[thread], shared[thread + half]);
    __syncthreads();
  }
  if (thread != 0) return;
  largest = shared[0];
  int32_t* data = schedule.data;
  data[Schedule::kind] = Schedule::kKind;
  data[Schedule::chunks] = static_cast<int32_t>(dealt.chunks);
  data[Schedule::count] = static_cast<int32_t>(dealt.items);
  data[Schedule::workers] = schedule.blocks;
  data[Schedule::slots] = static_cast<int32_t>(dealt.slots);
  data[Schedule::largest] = static_cast<int32_t>(largest);
  data[Schedule::tiles] = static_cast<int32_t>(dealt.units);
  data[Schedule::size] = static_cast<int32_t>(Schedule::ints(schedule.items, schedule.blocks));
  data[Schedule::whole] = static_cast<int32_t>(whole);
}

// Fixed pieces of the items on the line.
ATTNLANG_DEVICE void deal_fixed(const Schedule& schedule, const FixedPieces& pieces, int64_t count,
                                int64_t units, int64_t* shared) {
  const int64_t* begins = schedule.begins();
  const int thread = static_cast<int>(threadIdx.x);
  const auto last = [&](int64_t item) {
    return pieces.block(begins[item], pieces.count(begins[item], begins[item + 1]) - 1);
  };
  int64_t chunks = 0, slots = 0;
  for (int64_t i = thread; i < count; i += kDealThreads) {
    const int64_t own = pieces.count(begins[i], begins[i + 1]);
    chunks += own, slots += own > 1 ? own : 0;
    const int64_t end = i + 1 == count ? schedule.blocks : last(i) + 1;
    for (int64_t block = i == 0 ? 0 : last(i - 1) + 1; block < end; ++block) {
      schedule.firsts()[block] = static_cast<int32_t>(block <= last(i) ? i : count);
    }
  }
  for (int block = thread; count == 0 && block < schedule.blocks; block += kDealThreads) {
    schedule.firsts()[block] = 0;
  }
  int64_t all_chunks = 0, all_slots = 0;
  __threadfence();
  sum_before(chunks, shared, all_chunks);
  sum_before(slots, shared, all_slots);
  const auto start = [&](int64_t block) {
    const int64_t item = block < schedule.blocks ? schedule.firsts()[block] : count;
    if (item >= count) return units;
    // The first piece that does not begin before the block's share.
    if (begins[item] >= block * pieces.share) return begins[item];
    const int64_t before = block * pieces.share - begins[item] - pieces.start;
    const int64_t piece = (before + pieces.split - 1) / pieces.split;
    return pieces.place(begins[item], greatest<int64_t>(piece, 1));
  };
  tell(schedule, {all_chunks, count, all_slots, units}, start, shared, false);
}

struct DealWork {
  Schedule schedule;  // with the costs of the items that there may be; 0: there is none
  int64_t least;      // tiles that are worth a merge
  int64_t start;      // what costs count for an item's start
  bool may_be_whole;  // there is a block for each item that there may be
};

// One block: from costs to a schedule.
[[maybe_unused]] static __global__ void __launch_bounds__(kDealThreads)
    deal_kernel(const __grid_constant__ DealWork work) {
  auto* shared = dynamic_shared<int64_t>();
  const Schedule& schedule = work.schedule;
  const int32_t* costs = schedule.costs();
  const int thread = static_cast<int>(threadIdx.x), items = schedule.items;
  const int each = (items + kDealThreads - 1) / kDealThreads;
  const int from = thread * each < items ? thread * each : items;
  const int to = from + each < items ? from + each : items;
  int64_t own = 0, live = 0;
  for (int i = from; i < to; ++i) own += costs[i], live += costs[i] > 0;
  int64_t units = 0, count = 0;
  int64_t begin = sum_before(own, shared, units);
  int64_t n = sum_before(live, shared, count);
  int64_t* begins = schedule.begins();
  for (int i = from; i < to; ++i) {
    if (costs[i] == 0) continue;
    begins[n] = begin, schedule.which()[n] = i;
    begin += costs[i], ++n;
  }
  const int64_t mean = (units + schedule.blocks - 1) / schedule.blocks;
  const Shares shares{
      .share = greatest(mean, work.least + 1), .least = work.least, .start = work.start};
  if (thread == 0) begins[count] = units, schedule.shares() = shares;
  __threadfence();
  __syncthreads();
  if (schedule.split != 0) {
    deal_fixed(schedule, FixedPieces{shares.share, schedule.split, shares.start}, count, units,
               shared);
    return;
  }
  // An item's last block goes on with the items after it; the blocks up to an item's last one that
  // no item before has begin with it.
  int64_t chunks = 0, slots = 0;
  for (int64_t i = thread; i < count; i += kDealThreads) {
    const auto last = [&](int64_t at) {
      const Pieces pieces = shares.pieces(begins[at], begins[at + 1]);
      return pieces.block + pieces.count - 1;
    };
    const Pieces pieces = shares.pieces(begins[i], begins[i + 1]);
    chunks += pieces.count, slots += pieces.count > 1 ? pieces.count : 0;
    for (int block = i == 0 ? 0 : last(i - 1) + 1; block <= last(i); ++block) {
      schedule.firsts()[block] = static_cast<int32_t>(i);
    }
    if (i != count - 1) continue;
    for (int block = last(i) + 1; block < schedule.blocks; ++block) {
      schedule.firsts()[block] = static_cast<int32_t>(count);
    }
  }
  for (int block = thread; count == 0 && block < schedule.blocks; block += kDealThreads) {
    schedule.firsts()[block] = 0;
  }
  int64_t all_chunks = 0, all_slots = 0;
  __threadfence();
  sum_before(chunks, shared, all_chunks);
  sum_before(slots, shared, all_slots);
  const auto start = [&](int block) {
    const int32_t item = block < schedule.blocks ? schedule.firsts()[block] : count;
    const Pieces pieces = item < count ? shares.pieces(begins[item], begins[item + 1]) : Pieces{};
    const int piece = item < count && pieces.block < block ? block - pieces.block : 0;
    return begins[item] + (piece == 0 ? 0 : shares.before(begins[item], pieces, piece));
  };
  tell(schedule, {all_chunks, count, all_slots, units}, start, shared,
       work.may_be_whole && count >= Schedule::kEnough * schedule.blocks);
}

}  // namespace attnlang::cuda

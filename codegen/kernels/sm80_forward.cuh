// Attention with mma.sync: warps of 16-row tiles over key tiles that asynchronous copies bring in,
// kStages of them in a ring.
//
// The warps of a block stand in a grid: kRowWarps share out the rows; kKeyWarps the keys of each
// tile, and join their states at the end (few rows, as in decoding: then a warp loads what it
// reads, and waits for no other); kValueWarps the entries of v, each for itself going through the
// whole first product (values too long for one warp's registers).
#pragma once

#include <type_traits>
#include <utility>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/mma.cuh"
#include "attnlang/device/narrow.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_combine.cuh"
#include "kernels/cuda_epilogue.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_scores.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm80_load.cuh"
#include "kernels/sm80_results.cuh"

namespace attnlang::cuda {

// How a block works; kBlocks: how many of them a multiprocessor is to hold at least.
struct Sm80Shape {
  int row_warps, key_warps, value_warps;
  int row_tiles;  // 16-row tiles of a warp
  int key_tile, stages, blocks;
  bool packed;         // rows may be of several heads
  bool paged = false;  // keys and values may lie in pages

  constexpr int warps() const { return row_warps * key_warps * value_warps; }
  constexpr int rows() const { return row_warps * row_tiles * 16; }
};

// PageElement: what pages hold, another type than Element where they are of 8-bit floats.
template <class Variant, class Element, int kD, int kDV, Sm80Shape kShape,
          class PageElement = Element>
class Sm80Forward {
 public:
  static constexpr int kRows = kShape.rows();
  static constexpr int kWarps = kShape.warps();
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kKeyTile = kShape.key_tile;
  static constexpr int kBlocks = kShape.blocks;
  // Key tiles whose part is worth its merge.
  static constexpr int kLeastPiece = (kShape.packed ? kLeastOfFew : kLeastOfMany) / kKeyTile;
  static constexpr int kCounters = 1;

  using Request = typename Variant::Request;
  using Params = typename Variant::Params;
  using Launch = Work<Variant, Element>;

 private:
  static constexpr int kStages = kShape.stages;
  static constexpr int kRowTiles = kShape.row_tiles;
  static constexpr int kWarpKeys = kKeyTile / kShape.key_warps;
  static constexpr int kWarpValues = kDV / kShape.value_warps;
  static constexpr bool kPacked = kShape.packed;
  // Rows that a transform made lie one after another.
  static constexpr bool kPagedKeys = kShape.paged && !Variant::kKey;
  static constexpr bool kPagedValues =
      kShape.paged && !Variant::kValue && !Variant::kValueSharesKey;
  // Where each warp reads only keys that it has loaded itself, it need not wait for the others.
  static constexpr bool kAlone = kWarps == kShape.key_warps;
  // Rows of pages are looked up a tile ahead: a table's entry is long on its way.
  static constexpr bool kSeeks = kAlone && (kPagedKeys || kPagedValues);
  static_assert(!kSeeks || kWarpKeys <= kWarp, "a lane a row");
  // 8-bit floats come as they are stored; otherwise they are converted as they are loaded.
  static constexpr bool kWidens = kPacked && kAlone && kIsNarrow<PageElement>;
  static constexpr bool kWidensKeys = kWidens && kPagedKeys;
  // Chunks of 8-bit floats have 16 entries.
  static constexpr int kWithin = kWidensKeys && kValueWithinKey<Variant, kD, kDV> % 16 != 0
                                     ? -1
                                     : kValueWithinKey<Variant, kD, kDV>;
  static constexpr bool kWidensValues = kWidens && (kWithin >= 0 ? kPagedKeys : kPagedValues);
  static constexpr bool kQueriesStay =
      kRowTiles == 1 && kD <= (kPacked ? 128 : 64);  // in registers
  static constexpr int kSteps = kD / 16;
  static_assert(kWarpKeys % 16 == 0 && kDV % kShape.value_warps == 0 && kWarpValues % 16 == 0);
  static_assert(kD % 16 == 0, "head dimensions are multiples of 16");
  static_assert(kStages >= 2);
  using Queries = SharedTile<Element, kD>;
  using KeyElement = std::conditional_t<kWidensKeys, PageElement, Element>;
  using ValueElement = std::conditional_t<kWidensValues, PageElement, Element>;
  using Keys = SharedTile<KeyElement, kD>;
  using Values = SharedTile<ValueElement, kDV>;
  using Results = SharedTile<Element, kDV>;
  using Rows = ThreadRows<Variant, kPacked>;

  // Bytes of shared memory: the ranges and a flag, then queries and stages, then over them what
  // the rows become.
  static constexpr int kHeader = (sizeof(TileRanges) + 16 + 127) / 128 * 128;
  static constexpr int kQueryBytes = Queries::bytes(kRows);
  static constexpr int kKeyBytes = Keys::bytes(kKeyTile);
  static constexpr int kStageBytes = kKeyBytes + (kWithin >= 0 ? 0 : Values::bytes(kKeyTile));
  static constexpr int kOutBytes = Results::bytes(kRows);
  static constexpr int kStateBytes =
      kShape.key_warps * kRows * kStateFloats<kDV> * static_cast<int>(sizeof(float));
  static constexpr int kResultBytes =
      kWarps * kResultFloats<Variant, kD, kDV> * static_cast<int>(sizeof(float));
  static constexpr int kMost(int a, int b) { return a > b ? a : b; }

 public:
  static constexpr int kSharedBytes = kHeader + kMost(kQueryBytes + kStages * kStageBytes,
                                                      kMost(kOutBytes, kStateBytes + kResultBytes));

  static ATTNLANG_DEVICE void run(const Launch& work) {
    run(work, item_of<kPacked, kRows>(work, static_cast<int>(blockIdx.x)));
  }

  // Floats of the states of an item's rows over some of its keys.
  static constexpr int64_t kItemFloats = int64_t{kRows} * kStateFloats<kDV>;

  // `item`: what block blockIdx.x works on; blockIdx.y is the part of its keys, unless a schedule
  // has another `cut`.
  static ATTNLANG_DEVICE void run(const Launch& work, const Item& item) {
    run(work, Variant::params(work.arguments), item);
  }
  // Where the values of the call are at hand.
  static ATTNLANG_DEVICE void run(const Launch& work, const Params& params, const Item& item,
                                  const Cut* cut = nullptr) {
    Sm80Forward block(work, params, item, cut);
    block.load_queries();
    block.go(std::make_integer_sequence<int, kRowTiles>{});
  }

  // The key tiles from the first to the last that the mask leaves. A warp's work.
  static ATTNLANG_DEVICE int tiles(const Launch& work, const Item& item) {
    const Params params = Variant::params(work.arguments);
    const Sm80Forward block(work, params, item, nullptr);
    const Request request = block.request_of(0);
    const TileSpan span =
        block.visited([&](int k0, int k1) { return block.verdict_of(request, k0, k1); });
    return span.end - span.begin;
  }

 private:
  ATTNLANG_DEVICE Sm80Forward(const Launch& work, const Params& params, const Item& item,
                              const Cut* cut)
      : work_(work),
        params_(params),
        item_(item),
        scheduled_(cut),
        extent_(work.problem.extent(item.b)),
        shared_(dynamic_shared<char>()) {
    const int warp = warp_index();
    lane_ = static_cast<int>(threadIdx.x) % kWarp;
    row_warp_ = warp % kShape.row_warps;
    key_warp_ = warp / kShape.row_warps % kShape.key_warps;
    value_warp_ = warp / (kShape.row_warps * kShape.key_warps);
    if (kPacked && work.selection.blocks != nullptr) {
      const int64_t row =
          (int64_t{item.b} * work.problem.kv_heads + item.h_kv) * item.queries + item.query_of(0);
      selected_ = work.selection.row(row, extent_.keys);
      keys_ = selected_.columns;
    } else {
      keys_ = extent_.keys;
    }
    if constexpr (kWidensKeys) key_scale_ = work.problem.pages.keys.scale(item.h_kv);
  }

  struct State {
    float acc[kRowTiles][kWarpValues / 2];
    RowState rows[kRowTiles][2];
  };

  // Made anew where it is needed: registers are dear in between.
  ATTNLANG_DEVICE Cut cut() const {
    return scheduled_ == nullptr ? Cut::even(work_.parts, kItemFloats) : *scheduled_;
  }

  // --- rows ---

  ATTNLANG_DEVICE int head_of(int r) const { return kPacked ? item_.head_of(r) : item_.head; }
  ATTNLANG_DEVICE int query_of(int r) const { return kPacked ? item_.query_of(r) : item_.row0 + r; }
  // The row whose scores stand for those of a tile's rows: no row of one head is far from it.
  ATTNLANG_DEVICE int anchor_of(int r) const {
    return kPacked ? query_of(r) : item_.row0 + item_.rows / 2;
  }
  ATTNLANG_DEVICE Request request_of(int r) const {
    const int row = r < item_.rows ? r : item_.rows - 1;
    return work_.problem.template request<Variant>(params_, extent_, head_of(row), anchor_of(row));
  }
  ATTNLANG_DEVICE typename Variant::Row row_of(const Request& request, int r) const {
    const int row = r < item_.rows ? r : item_.rows - 1;
    return Variant::row(request, query_of(row));
  }
  ATTNLANG_DEVICE Rows rows_of(int i) const {
    const int r = warp_part().first_row(i);
    if constexpr (kPacked) {
      const Request a = request_of(r), b = request_of(r + 8);
      return {.requests = {a, b}, .rows = {row_of(a, r), row_of(b, r + 8)}};
    } else {
      const Request a = request_of(r);
      return {.requests = {a}, .rows = {row_of(a, r), row_of(a, r + 8)}};
    }
  }

  // --- loads ---

  ATTNLANG_DEVICE TileRanges& ranges() const { return *reinterpret_cast<TileRanges*>(shared_); }
  ATTNLANG_DEVICE int* last_part() const {
    return reinterpret_cast<int*>(shared_ + sizeof(TileRanges));
  }
  ATTNLANG_DEVICE char* area() const { return shared_ + kHeader; }
  ATTNLANG_DEVICE Queries queries() const { return {reinterpret_cast<Element*>(area())}; }
  ATTNLANG_DEVICE char* stage(int s) const { return area() + kQueryBytes + s * kStageBytes; }
  ATTNLANG_DEVICE Keys keys(int s) const { return {reinterpret_cast<KeyElement*>(stage(s))}; }
  ATTNLANG_DEVICE Values values(int s) const {
    return {reinterpret_cast<ValueElement*>(stage(s) + kKeyBytes)};
  }

  ATTNLANG_DEVICE void load_queries() const {
    const VectorRows<const Element>& q = work_.problem.q;
    const auto row_of = [&](int r) -> const Element* {
      if (r >= item_.rows) return nullptr;
      return q.row(item_.b, head_of(r), query_of(r));
    };
    gather_rows<kRows, kThreads>(queries(), 0, row_of, q.stride[3], q.vectorised,
                                 static_cast<int>(threadIdx.x));
  }

  ATTNLANG_DEVICE bool selects() const { return kPacked && work_.selection.blocks != nullptr; }
  // The logical column that stands at j of the columns gone through.
  ATTNLANG_DEVICE int column_at(int j) const { return selects() ? selected_.column(j) : j; }

  // Where in its pool the row of this lane is, of a tile that is loaded later.
  ATTNLANG_DEVICE Pages::Slot seek(KeyTile tile) const {
    if constexpr (kSeeks) {
      const int column = tile.k0 + key_warp_ * kWarpKeys + lane_;
      const bool own = work_.problem.pages.size != 0 && tile.valid() && lane_ < kWarpKeys;
      if (own && column < keys_) return work_.problem.pages.sought(column);
    }
    return {};
  }

  // A tile's keys and values; what columns that no row may see hold is not even read.
  ATTNLANG_DEVICE void load_tile(const Request& request, KeyTile tile, const Pages::Slot& sought,
                                 int s) const {
    const Problem<Element>& problem = work_.problem;
    load_vectors<kWithin >= 0, kPagedKeys>(request, tile, sought, problem.k, problem.pages.keys,
                                           keys(s));
    if constexpr (kWithin < 0) {
      load_vectors<true, kPagedValues>(request, tile, sought, problem.v, problem.pages.values,
                                       values(s));
    }
  }

  // kHides: they are values, of which a weight of 0 must not meet NaN.
  template <bool kHides, bool kPaged, class Held, int kWidth>
  ATTNLANG_DEVICE void load_vectors(const Request& request, KeyTile tile,
                                    [[maybe_unused]] const Pages::Slot& sought,
                                    const VectorRows<const Element>& vectors,
                                    [[maybe_unused]] const Stored& stored,
                                    SharedTile<Held, kWidth> to) const {
    constexpr int kLoaders = kShape.row_warps * kShape.value_warps * kWarp;
    const int thread = (row_warp_ + value_warp_ * kShape.row_warps) * kWarp + lane_;
    const int first = key_warp_ * kWarpKeys, begin = tile.k0 + first;
    // 8-bit floats lie in pages, wherever they are read as they are.
    const bool paged = kPaged && (kIsNarrow<Held> || work_.problem.pages.size != 0);
    const bool hides = kHides && Variant::kColumnMask && tile.masked;
    const auto is_hidden = [&](int column) {
      if constexpr (kHides && Variant::kColumnMask) {
        return hides && !Variant::column_keep(request, Variant::column(request, column));
      }
      return false;
    };
    if constexpr (kPaged && kSeeks) {
      if (paged) {
        const Held* found = nullptr;
        const int column = begin + lane_;
        if (lane_ < kWarpKeys && column < keys_ && !is_hidden(column)) {
          found = reinterpret_cast<const Held*>(vectors.data) + sought.offset(vectors, item_.h_kv);
        }
        copy_found<kWarpKeys>(to, first, found, vectors.stride[3], vectors.vectorised, lane_);
        return;
      }
    }
    if constexpr (!kIsNarrow<Held>) {
      load_rows<kPaged, kLoaders>(tile, vectors, stored, to, first, thread, paged, hides,
                                  is_hidden);
    }
  }

  template <bool kPaged, int kLoaders, int kWidth, class IsHidden>
  ATTNLANG_DEVICE void load_rows(KeyTile tile, const VectorRows<const Element>& vectors,
                                 [[maybe_unused]] const Stored& stored,
                                 SharedTile<Element, kWidth> to, int first, int thread, bool paged,
                                 bool hides, const IsHidden& is_hidden) const {
    const int begin = tile.k0 + first;
    const Element* base = paged ? nullptr : vectors.row(item_.b, item_.h_kv, 0);
    if (!paged && vectors.vectorised && !selects() && !hides) {
      copy_rows<kWarpKeys, kLoaders>(to, first, base + begin * vectors.stride[2], vectors.stride[2],
                                     keys_ - begin, thread);
      return;
    }
    // Negative: the row becomes zeros.
    const auto column_of = [&](int r) -> int {
      const int j = tile.k0 + r;
      if (j >= keys_) return -1;
      const int column = column_at(j);
      return is_hidden(column) ? -1 : column;
    };
    if constexpr (kPaged && kIsNarrow<PageElement>) {
      if (paged && stored.converted) {
        const auto row_of = [&](int r) -> const char* {
          const int column = column_of(r);
          if (column < 0) return nullptr;
          return work_.problem.pages.stored_row(vectors, stored, item_.h_kv, column);
        };
        convert_rows<kWarpKeys, kLoaders>(to, first, row_of, vectors.stride[3], vectors.vectorised,
                                          stored, stored.scale(item_.h_kv), thread);
        return;
      }
    }
    const auto row_of = [&](int r) -> const Element* {
      const int column = column_of(r);
      if (column < 0) return nullptr;
      if (paged) return work_.problem.pages.row(vectors, item_.h_kv, column);
      return base + column * vectors.stride[2];
    };
    gather_rows<kWarpKeys, kLoaders>(to, first, row_of, vectors.stride[3], vectors.vectorised,
                                     thread);
  }

  static ATTNLANG_DEVICE void wait_for_loaders() {
    if constexpr (kAlone) __syncwarp();
    else __syncthreads();
  }

  // --- tiles ---

  // The verdict of all rows of the item together.
  ATTNLANG_DEVICE Verdict verdict_of(const Request& request, int k0, int k1) const {
    if constexpr (!kPacked) {
      return tile_verdict<Variant>(request, item_.row0, item_.row0 + item_.rows, k0, k1);
    } else {
      const int last = item_.rows - 1, first_head = item_.head_of(0);
      const int last_head = item_.head_of(last);
      Verdict all = Verdict::unknown;
      for (int h = first_head; h <= last_head; ++h) {
        const int q0 = h == first_head ? item_.query_of(0) : 0;
        const int q1 = h == last_head ? item_.query_of(last) + 1 : item_.queries;
        const Request of_head = work_.problem.template request<Variant>(params_, extent_, h, q0);
        const Verdict verdict = tile_verdict<Variant>(of_head, q0, q1, k0, k1);
        all = h == first_head ? verdict : join(all, verdict);
        if (is_unknown(all)) break;
      }
      return all;
    }
  }

  // One thread's work: the ranges of the item's tiles.
  ATTNLANG_DEVICE void find_item_ranges(const Request& request) const {
    if constexpr (kPacked) {
      ranges().set_unknown((keys_ + kKeyTile - 1) / kKeyTile);
      // The verdict of what is selected might be costly, and says little: each element is asked.
      if (selects()) ranges().set_all_visited();
    } else {
      find_ranges<Variant>(ranges(), request, item_.row0, item_.row0 + item_.rows, keys_, kKeyTile);
    }
  }

  template <class VerdictOf>
  ATTNLANG_DEVICE TileSpan visited(const VerdictOf& verdicts) const {
    const TileSpan all{0, (keys_ + kKeyTile - 1) / kKeyTile};
    if (!Variant::kMask || selects()) return all;
    return all.visited(kKeyTile, keys_, verdicts);
  }

  template <int... kTile>
  ATTNLANG_DEVICE void go(std::integer_sequence<int, kTile...>) const {
    const Rows rows[kRowTiles] = {rows_of(kTile)...};
    const Request request = request_of(0);
    if (Variant::kMask && threadIdx.x == 0) find_item_ranges(request);
    if constexpr (Variant::kMask) __syncthreads();
    State state;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (float& sum : state.acc[i]) sum = 0.0f;
    }
    const auto verdicts = [&](int k0, int k1) { return verdict_of(request, k0, k1); };
    TileSpan span{0, (keys_ + kKeyTile - 1) / kKeyTile};
    if (const Cut cut = this->cut(); cut.count > 1) {
      span = visited(verdicts);
      span = cut.begin < 0 ? span.part(cut.part, cut.count) : span.slice(cut.begin, cut.end);
    }
    KeyTiles<Variant::kMask, kKeyTile, decltype(verdicts)> list(ranges(), span.begin, span.end,
                                                                keys_, verdicts);
    go_through(request, rows, list, state);
    finish(rows, state);
  }

  template <class List>
  ATTNLANG_DEVICE void go_through(const Request& request, const Rows (&rows)[kRowTiles], List& list,
                                  State& state) const {
    const bool always_masked = Variant::kMask && selects();
    // The ring: tile `turn` is computed while the kStages - 1 after it are on their way. Turns
    // below 0 fill it. The queries come with the first tile; all warps loaded them.
    KeyTile ahead[kStages - 1] = {};
    KeyTile coming = list.next();
    Pages::Slot sought = seek(coming);
    uint32_t q[kQueriesStay ? kSteps : 1][kRowTiles][4];
    int stage = 0;  // where the tile goes that is loaded next
    for (int turn = 1 - kStages;; ++turn) {
      if (turn >= 0) {
        if (!ahead[0].valid()) break;
        cp_async_wait<kStages - 2>();
        wait_for_loaders();  // the tile is there, and every warp is done with the one before
        if (turn == 0) {
          if constexpr (kAlone) __syncthreads();
          load_kept_queries(q);
        }
      }
      KeyTile next = coming;
      next.masked = next.masked || always_masked;
      const Pages::Slot slot = kSeeks ? work_.problem.pages.bounded_slot(sought) : sought;
      coming = list.next();
      sought = seek(coming);
      if (next.valid()) load_tile(request, next, slot, stage);
      cp_async_commit();
      stage = stage + 1 == kStages ? 0 : stage + 1;
      if (turn >= 0) {
        if (ahead[0].masked) compute<true>(rows, ahead[0].k0, stage, q, state);
        else compute<false>(rows, ahead[0].k0, stage, q, state);
      }
#pragma unroll
      for (int s = 0; s + 2 < kStages; ++s) ahead[s] = ahead[s + 1];
      ahead[kStages - 2] = next;
    }
    cp_async_wait<0>();
  }

  // --- products ---

  ATTNLANG_DEVICE void load_query_step(uint32_t (&a)[kRowTiles][4], int step) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const int row = (row_warp_ * kRowTiles + i) * 16;
      if constexpr (kWidensKeys) load_a_for_narrow(a[i], queries(), row, step, lane_);
      else load_a(a[i], queries(), row, step, lane_);
    }
  }

  template <int kKept>
  ATTNLANG_DEVICE void load_kept_queries(uint32_t (&q)[kKept][kRowTiles][4]) const {
    if constexpr (kQueriesStay) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) load_query_step(q[step], step);
    }
  }

  // The dots of a stage's keys with the entries of kAtOnce steps from `step` on, as far as there
  // are.
  template <int kAtOnce>
  ATTNLANG_DEVICE void multiply_keys(float (&dots)[kRowTiles][kWarpKeys / 2],
                                     const uint32_t (*a)[kRowTiles][4], int s, int step) const {
    const int first = key_warp_ * kWarpKeys;
    if constexpr (!kWidensKeys) {
      multiply_rows(dots, a[0], keys(s), first, step, lane_);
    } else {
      static_assert(kAtOnce == 2 && kRowTiles == 1);
      if (step + 1 < kSteps) {
        const uint32_t* const both[2] = {a[0][0], a[1][0]};
        multiply_narrow_rows<Element, 2>(dots[0], both, keys(s), first, step, lane_);
      } else {
        const uint32_t* const one[1] = {a[0][0]};
        multiply_narrow_rows<Element, 1>(dots[0], one, keys(s), first, step, lane_);
      }
    }
  }

  template <bool kMasked, int kKept>
  ATTNLANG_DEVICE void compute(const Rows (&rows)[kRowTiles], int k0, int s,
                               const uint32_t (&q)[kKept][kRowTiles][4], State& state) const {
    const int first = key_warp_ * kWarpKeys;
    float weights[kRowTiles][kWarpKeys / 2] = {};
    constexpr int kAtOnce = kWidensKeys ? 2 : 1;  // steps
#pragma unroll
    for (int step = 0; step < kSteps; step += kAtOnce) {
      if constexpr (kQueriesStay) {
        multiply_keys<kAtOnce>(weights, q + step, s, step);
      } else {
        uint32_t a[kAtOnce][kRowTiles][4];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (step + i < kSteps) load_query_step(a[i], step + i);
        }
        multiply_keys<kAtOnce>(weights, a, s, step);
      }
    }
    if constexpr (kWidensKeys) {
      for (float& dot : weights[0]) dot *= key_scale_;
    }
    const int lane_column = k0 + first + 2 * (lane_ % 4);
    const auto column_of = [&](int n, int c) { return column_at(lane_column + 8 * n + c); };
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      weigh<kMasked>(rows[i], column_of, end_of_columns(), weights[i], state.rows[i], state.acc[i]);
    }
    const int column = value_warp_ * kWarpValues;
#pragma unroll
    for (int step = 0; step < kWarpKeys / 16; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) pack_a<Element>(a[i], weights[i], step);
      const int row = first + 16 * step;
      if constexpr (kWidensValues) {
        if constexpr (kWithin >= 0) {
          multiply_narrow_columns<Element, kWithin>(state.acc[0], a[0], keys(s), row, lane_);
        } else {
          multiply_narrow_columns<Element, 0>(state.acc[0], a[0], values(s), row, lane_);
        }
      } else if constexpr (kWithin >= 0) {
        multiply_columns<kWithin>(state.acc, a, keys(s), row, column, lane_);
      } else {
        multiply_columns<0>(state.acc, a, values(s), row, column, lane_);
      }
    }
  }

  // Columns from it on do not exist. A selection's own end is a column that never is.
  ATTNLANG_DEVICE int end_of_columns() const { return selects() ? kNoColumn : keys_; }

  template <bool kMasked, class ColumnOf>
  ATTNLANG_DEVICE void weigh(const Rows& rows, const ColumnOf& column_of, int end,
                             float (&weights)[kWarpKeys / 2], RowState (&state)[2],
                             float (&acc)[kWarpValues / 2]) const {
    if constexpr (Variant::kSoftmax) {
      float top[2] = {-kInfinity, -kInfinity};
      float factors[Variant::kFactor ? kWarpKeys / 2 : 1];
      score_fragment<Variant, kMasked>(rows, column_of, end, weights, factors, top);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float scale = softmax_row<Variant::kFactor, kWeighted<Variant>>(i, top[i], weights,
                                                                              factors, state[i]);
        scale_row(i, scale, acc);
      }
    } else {
      const bool wants_max = work_.problem.max.data != nullptr;
      weigh_fragment<Variant, kMasked>(rows, column_of, end, wants_max, weights, state);
    }
  }

  // --- results ---

  ATTNLANG_DEVICE void finish(const Rows (&rows)[kRowTiles], State& state) const {
    __syncthreads();  // what the stages held is read
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        RowState& row = state.rows[i][j];
        row.sum = quad_sum(row.sum);
        if constexpr (kWeighted<Variant>) row.weighted = quad_sum(row.weighted);
        if constexpr (!Variant::kSoftmax) row.max = quad_max_or_nan(row.max);
      }
    }
    if constexpr (!kPacked && kShape.key_warps == 1 && !Variant::kOut) {
      if (cut().count == 1 && work_.problem.wide_out.data == nullptr) {
        const Results tile = {reinterpret_cast<Element*>(area())};
        write_tile<Variant>(work_.problem, item_, warp_part(), rows, state.rows, state.acc, tile);
        return;
      }
    }
    if constexpr (kWidensValues) {
      const float scale = work_.problem.pages.values.scale(item_.h_kv);
      for (float& sum : state.acc[0]) sum *= scale;
    }
    auto* states = reinterpret_cast<float*>(area());
    save_states<kDV, kWidensValues>(warp_part(), state.rows, state.acc,
                                    states + key_warp_ * kRows * kStateFloats<kDV>);
    __syncthreads();
    const auto anchor = [&](int r) { return anchor_of(r); };
    combine_rows<kShape.key_warps, kRows, kWarps, Variant, Element, kD, kDV>(
        work_, params_, item_, cut(), states, states + kStateBytes / sizeof(float), anchor,
        last_part());
  }

  ATTNLANG_DEVICE WarpPart warp_part() const {
    return {.lane = lane_,
            .row0 = row_warp_ * kRowTiles * 16,
            .column = value_warp_ * kWarpValues,
            .leads = value_warp_ == 0};
  }

  const Launch& work_;
  const Params& params_;
  const Item item_;
  const Cut* const scheduled_;  // null: parts are even
  const Extent extent_;
  char* const shared_;
  int lane_, row_warp_, key_warp_, value_warp_;
  int keys_;  // columns to go through: the request's, or those that are selected
  Selection::Row selected_;
  float key_scale_ = 1.0f;  // of dots with 8-bit floats
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    sm80_kernel(const __grid_constant__ typename Kernel::Launch work) {
  Kernel::run(work);
}

// Null, or what is wrong.
template <class Kernel>
const char* launch_items(const typename Kernel::Launch& work, int64_t items, void* stream) {
  if (work.parts.count > 1) {
    const char* wrong = fill_bytes(work.parts.done, 0, items * sizeof(int32_t), stream);
    if (wrong != nullptr) return wrong;
  }
  const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(work.parts.count));
  return launch(sm80_kernel<Kernel>, grid, Kernel::kThreads, Kernel::kSharedBytes, stream, work);
}

}  // namespace attnlang::cuda

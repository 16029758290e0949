// A block of the forward with mma.sync: its item's rows, its room in shared memory, what it loads
// there, and which key tiles it goes through.
#pragma once

#include <type_traits>

#include "attnlang/device/launch.cuh"
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
class Sm80ForwardBlock {
 public:
  static constexpr int kRows = kShape.rows();
  static constexpr int kWarps = kShape.warps();
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kKeyTile = kShape.key_tile;
  static constexpr int kBlocks = kShape.blocks;

  using Request = typename Variant::Request;
  using Params = typename Variant::Params;
  using Launch = Work<Variant, Element>;

 protected:
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
  // Products with what is widened are in halves: with queries times a power of two, and with
  // weights where none is above 1, times kWeightScale, for the smallest ones' digits.
  static constexpr bool kHalvesWeights = kWidensValues && Variant::kSoftmax && !Variant::kFactor;
  using KeyProduct = std::conditional_t<kWidensKeys, Half, Element>;
  using ValueProduct = std::conditional_t<kHalvesWeights, Half, Element>;
  static constexpr float kWeightScale = 0x1p15f;
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

  // Bytes of shared memory: the ranges, a flag and what the rows' dots are multiplied by, then
  // queries and stages, then over them what the rows become.
  static constexpr int kScaleBytes = kWidensKeys ? kRows * static_cast<int>(sizeof(float)) : 0;
  static constexpr int kHeader = (sizeof(TileRanges) + 16 + kScaleBytes + 127) / 128 * 128;
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

 protected:
  ATTNLANG_DEVICE Sm80ForwardBlock(const Launch& work, const Params& params, const Item& item)
      : work_(work),
        params_(params),
        item_(item),
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
  }

  // --- rows ---

  ATTNLANG_DEVICE WarpPart warp_part() const {
    return {.lane = lane_,
            .row0 = row_warp_ * kRowTiles * 16,
            .column = value_warp_ * kWarpValues,
            .leads = value_warp_ == 0};
  }
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
  ATTNLANG_DEVICE float* scales() const {
    return reinterpret_cast<float*>(shared_ + sizeof(TileRanges) + 16);
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

  // What products with 8-bit keys take of the queries, once these are there; all threads call it.
  ATTNLANG_DEVICE void halve_queries() const {
    const float scale = work_.problem.pages.keys.scale(item_.h_kv);
    for (int r = warp_index(); r < kRows; r += kWarps) {
      const float back = turn_into_halves(queries(), r, lane_);
      if (lane_ == 0) scales()[r] = back * scale;
    }
    __syncthreads();
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

  const Launch& work_;
  const Params& params_;
  const Item item_;
  const Extent extent_;
  char* const shared_;
  int lane_, row_warp_, key_warp_, value_warp_;
  int keys_;  // columns to go through: the request's, or those that are selected
  Selection::Row selected_;
};

}  // namespace attnlang::cuda

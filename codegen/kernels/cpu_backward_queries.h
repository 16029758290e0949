// The queries of one head as the backward's products read them, and what its rows are worth.
#pragma once

#include <algorithm>

#include "attnlang/cpu/math.h"
#include "attnlang/cpu/parallel.h"
#include "attnlang/host/gradients.h"
#include "kernels/cpu_backward_operands.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_tile.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

template <class Element>
Element* gradient_row(const Tensor& t, int64_t b, int64_t h, int64_t i) {
  return static_cast<Element*>(t.data) + b * t.stride[0] + h * t.stride[1] + i * t.stride[2];
}
inline float row_value(const Tensor& t, int64_t b, int64_t h, int64_t i) {
  return static_cast<const float*>(t.data)[b * t.stride[0] + h * t.stride[1] + i * t.stride[2]];
}

// The rows [q0, q0 + 64) of a functor.
template <class Variant>
void load_rows(const typename Variant::Request& request, int64_t q0, typename Variant::Row* rows) {
  for (int m = 0; m < kQueryTile; m += kLanes) {
    rows[m / kLanes] = Variant::row(request, splat_i(static_cast<int32_t>(q0) + m) + iota_i());
  }
}

// How many vectors of a panel are worked on where `lanes` of them are needed: as many as products
// are compiled for.
constexpr int panel_vectors(int64_t lanes) {
  return lanes <= kLanes ? 1 : lanes <= 2 * kLanes ? 2 : kPanelVectors;
}
// The lanes of whole panels and a last one.
constexpr int64_t padded_lanes(int64_t lanes) {
  const int64_t whole = lanes / kPanel * kPanel;
  return whole == lanes ? whole : whole + panel_vectors(lanes - whole) * kLanes;
}

// Of a cache of 1 MiB or more; the rest is for keys and scores.
constexpr int64_t kBlockBytes = 640 * 1024;

// The query tiles of one (request, head): queries and what reached their outputs, each twice, as
// the products of `Operands` read them: d, or rows, may come in pairs.
template <class Operands, int kD, int kDV>
struct HeadQueries {
  static constexpr int kEntries = Operands::kEntries;
  static constexpr int64_t kAcross = kQueryTile / kEntries * int64_t{kPanel};

  // As many rows, whole tiles, as kBlockBytes hold, with their gradients.
  static constexpr int64_t kRowBytes = (kD + 2 * (kD + kDV) / kEntries) * sizeof(float);
  static constexpr int64_t kBlock =
      std::max<int64_t>(1, kBlockBytes / kRowBytes / kQueryTile) * kQueryTile;

  Buffer<float> queries, grads;            // [tile][panel][d][kPanel], lanes are rows
  Buffer<float> grad_rests;                // what entries of `grads` lack
  Buffer<int32_t> has_rest;                // of a tile: whether that is anything
  Buffer<float> query_rows, grad_rows;     // [tile][panel of d][row][kPanel], lanes are entries
  Buffer<float> base, delta, sink, shift;  // of a row: see `row_terms`

  explicit HeadQueries(int64_t tiles)
      : queries(tiles * kQueryTile * depth(kD)),
        grads(tiles * kQueryTile * depth(kDV)),
        grad_rests(kEntries > 1 ? tiles * kQueryTile * depth(kDV) : 1),
        has_rest(tiles),
        query_rows(tiles * kAcross * wide(kD)),
        grad_rows(tiles * kAcross * wide(kDV)),
        base(tiles * kQueryTile),
        delta(tiles * kQueryTile),
        sink(tiles * kQueryTile),
        shift(tiles * kQueryTile),
        q_(kQueryTile * padded_lanes(kD)),
        grad_(kQueryTile * padded_lanes(kDV)) {}

  bool complete() const {
    return queries && grads && grad_rests && has_rest && query_rows && grad_rows && base && delta &&
           sink && shift && q_ && grad_;
  }

  static constexpr int depth(int width) { return (width + kEntries - 1) / kEntries; }
  // Panels of entries.
  static constexpr int64_t wide(int width) { return (width + kPanel - 1) / kPanel; }

  // Packs the rows of a tile both ways, and what `row_terms` needs of each: `base` holds the lse,
  // `delta` out . grad, `shift` what reached the lse. Rows that see nothing count as zero, whatever
  // they hold.
  template <bool kSoftmax, class Element>
  void load(const Problem<Element>& problem, const Gradients& g, int64_t b, int64_t h,
            int64_t tile) {
    alignas(64) float out[padded(kDV)] = {};
    const int64_t rows = std::min<int64_t>(kQueryTile, problem.queries - tile * kQueryTile);
    const int lanes = static_cast<int>(padded_lanes(rows));
    for (int m = 0; m < lanes; ++m) {
      const int64_t i = tile * kQueryTile + m;
      float* q = q_.data() + m * padded_lanes(kD);
      float* grad = grad_.data() + m * padded_lanes(kDV);
      float lse = -kInfinity, dot = 0, lse_grad = 0;
      if (i < problem.queries) {
        lse = kSoftmax ? row_value(g.lse, b, h, i) : 0.0f;
        if (g.lse_grad.data != nullptr) lse_grad = row_value(g.lse_grad, b, h, i);
      }
      if (lse == -kInfinity) {
        std::fill_n(q, padded_lanes(kD), 0.0f);
        std::fill_n(grad, padded_lanes(kDV), 0.0f);
        lse_grad = 0;
      } else {
        row_to_float(q, problem.q_row(b, h, i), problem.call.q.stride[3], kD);
        row_to_float(grad, gradient_row<float>(g.out_grad, b, h, i), g.out_grad.stride[3], kDV);
        std::fill(q + kD, q + padded_lanes(kD), 0.0f);
        std::fill(grad + kDV, grad + padded_lanes(kDV), 0.0f);
        if constexpr (kSoftmax) {
          row_to_float(out, gradient_row<float>(g.out, b, h, i), g.out.stride[3], kDV);
          F products{};
          for (int e = 0; e < kDV; e += kLanes) products += load_f(out + e) * load_f(grad + e);
          dot = sum(products);
        }
      }
      base[i] = lse;
      delta[i] = dot;
      shift[i] = lse_grad;
    }
    pack_lanes<kD>(q_.data(), tile, lanes, queries);
    pack_entries<kD>(q_.data(), tile, lanes, query_rows);
    pack_lanes<kDV>(grad_.data(), tile, lanes, grads);
    pack_entries<kDV>(grad_.data(), tile, lanes, grad_rows);
    bool rest = false;
    for (int m = 0; m < lanes; ++m) {
      rest |= Operands::leave_rest(grad_.data() + m * padded_lanes(kDV), padded_lanes(kDV));
    }
    has_rest[tile] = rest;
    if (rest) pack_lanes<kDV>(grad_.data(), tile, lanes, grad_rests);
  }

  // With L = log2(2^lse + 2^sink): `base` makes weights of scores; `delta` is what a weight's
  // gradient is taken relative to; `sink` and `shift` are what reaches those two.
  template <class Variant>
  void row_terms(const typename Variant::Request& request, const typename Variant::Row& row,
                 int64_t at) {
    if constexpr (!Variant::kSoftmax) {
      store(base.data() + at, F{});
    } else {
      const F lse = load_f(base.data() + at) * kLog2E;
      const F dot = load_f(delta.data() + at), lse_grad = load_f(shift.data() + at);
      const M empty = lse == -kInfinity;
      F lacks{}, whole = lse, ratio = splat_f(1.0f);  // ratio: 2^(L - lse)
      if constexpr (Variant::kShift) lacks = Variant::shift(request, row);
      if constexpr (Variant::kSink) {
        const F sunk = Variant::sink(request, row);
        const F top = max(lse, sunk);
        whole = top + log2(exp2(lse - top) + exp2(sunk - top));
        ratio = exp2(whole - lse);
        const F weight = select(sunk == kInfinity, splat_f(1.0f), exp2(sunk - whole));
        store(sink.data() + at, empty ? F{} : -weight * dot);
      }
      store(base.data() + at, empty ? splat_f(-kInfinity) : lacks - whole);
      const F reached = select(lse_grad == 0.0f, F{}, lse_grad * ratio);
      store(delta.data() + at, empty ? F{} : dot - reached);
      store(shift.data() + at, empty ? F{} : dot - dot / ratio + lse_grad);
    }
  }

 private:
  // rows: [count][padded_lanes(kWidth)], count whole vectors.
  template <int kWidth>
  static void pack_lanes(const float* rows, int64_t tile, int count, Buffer<float>& to) {
    constexpr int kDepth = depth(kWidth);
    load_panels<kDepth>(to.data() + tile * kQueryTile * kDepth, count, [&](int m, float* out) {
      Operands::template pack_row<padded(kWidth)>(out, rows + m * padded_lanes(kWidth));
    });
  }
  template <int kWidth>
  static void pack_entries(const float* rows, int64_t tile, int count, Buffer<float>& to) {
    constexpr int64_t kRow = padded_lanes(kWidth);
    float* across = to.data() + tile * wide(kWidth) * kAcross;
    for (int m = 0; m < count; m += kEntries) {
      const float* joined[] = {rows + m * kRow, rows + (m + kEntries - 1) * kRow};
      for (int d = 0; d < kRow; d += kLanes) {
        store(across + d / kPanel * kAcross + m / kEntries * kPanel + d % kPanel,
              Operands::join(joined, d));
      }
    }
  }

  Buffer<float> q_, grad_;  // the rows of a tile
};

}  // namespace attnlang::cpu

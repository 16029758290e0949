// Packed calls: requests of any lengths, whose rows lie one after another.
//
// Each request is a call of its own to the kernels of dense calls: `b` is its number, its tensors
// start at its rows. The work items of all requests are cut up and handed out together. Cuts
// depend on lengths and masks alone, and states merge in key order: a result is the same, bit for
// bit, on any number of threads.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>
#include <vector>

#include "attnlang/cpu/parallel.h"
#include "attnlang/host/chunk.h"
#include "kernels/cpu_decode.h"
#include "kernels/cpu_forward.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_schedule.h"

namespace attnlang::cpu {

// The rows [begin, begin + count) of an axis.
[[gnu::cold]] inline void take_rows(Tensor& tensor, int32_t axis, int64_t begin, int64_t count) {
  if (tensor.data == nullptr) return;
  const int64_t bytes = begin * tensor.stride[axis] * element_size(tensor.dtype);
  tensor.data = static_cast<char*>(tensor.data) + bytes;
  tensor.size[axis] = count;
}

// Copies one element of every index of `axes` of a tensor, the last axis fastest.
[[gnu::cold]] inline char* copy_axes(const Tensor& t, const int32_t* axes, int count,
                                     const char* from, char* to) {
  const int64_t bytes = element_size(t.dtype);
  if (count == 0) return static_cast<char*>(std::memcpy(to, from, bytes)) + bytes;
  for (int64_t i = 0; i < t.size[axes[0]]; ++i) {
    to = copy_axes(t, axes + 1, count - 1, from + i * t.stride[axes[0]] * bytes, to);
  }
  return to;
}

// Request b of a packed call, as a call: strides of 0 make its number harmless. What has pages
// beside k and v is gathered.
class RequestCall {
 public:
  [[gnu::cold]] RequestCall(const Call& whole, int64_t b)
      : call_(whole), tensors_(whole.tensors, whole.tensors + whole.packed->tensor_count) {
    const Packed& packed = *whole.packed;
    const auto [queries, keys] = lengths_of(whole, b);
    const int64_t row = packed.q_indptr[b];
    const int64_t column = packed.kv_indptr.data == nullptr ? 0 : packed.kv_indptr[b];
    for (Tensor* rows : {&call_.q, &call_.out, &call_.lse}) {
      take_rows(*rows, 2, row, queries);
      rows->stride[0] = 0;
    }
    for (Tensor* rows : {&call_.k, &call_.v}) {
      if (packed.is_paged()) {
        rows->size[2] = keys;
      } else {
        take_rows(*rows, 2, column, keys);
        rows->stride[0] = 0;
      }
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const PackedAxis& axis = packed.tensors[i];
      if (axis.rows == PackedAxis::queries) take_rows(tensors_[i], axis.axis, row, queries);
      if (axis.rows == PackedAxis::keys) take_rows(tensors_[i], axis.axis, column, keys);
      if (axis.rows == PackedAxis::pages) gather(tensors_[i], axis, b, keys);
    }
    call_.tensors = tensors_.data();
    if (call_.kv_lens.data == nullptr) call_.kv_lens.value = keys;
  }
  RequestCall(const RequestCall&) = delete;
  RequestCall& operator=(const RequestCall&) = delete;

  const Call& call() const { return call_; }

  // Brings k and v out of their pages, for those who read them through the call.
  template <class Element, int kWidth, int kValueWidth>
  [[gnu::cold]] void gather_keys(int64_t b) {
    if (!call_.packed->is_paged()) return;
    const int64_t keys = call_.k.size[2], heads = call_.k.size[1];
    Element* k = room<Element>(heads * keys * kWidth);
    Element* v = room<Element>(heads * keys * kValueWidth);
    const Pages<Element> pages{.call = call_, .b = b};
    std::vector<Element> converted(kMaxKeyTile * (kWidth + kValueWidth));
    KvRows<Element> rows;
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t k0 = 0; k0 < keys; k0 += kMaxKeyTile) {
        const int n = static_cast<int>(std::min<int64_t>(kMaxKeyTile, keys - k0));
        pages.template locate<kWidth, kValueWidth>(h, k0, n, converted.data(),
                                                   converted.data() + kMaxKeyTile * kWidth, rows);
        for (int j = 0; j < n; ++j) {
          for (int d = 0; d < kWidth; ++d) {
            k[((h * keys) + k0 + j) * kWidth + d] = rows.k[j][d * rows.k_inner];
          }
          for (int d = 0; d < kValueWidth; ++d) {
            v[((h * keys) + k0 + j) * kValueWidth + d] = rows.v[j][d * rows.v_inner];
          }
        }
      }
    }
    call_.k = dense<Element>(k, heads, keys, kWidth);
    call_.v = dense<Element>(v, heads, keys, kValueWidth);
    packed_ = *call_.packed;
    packed_.page_indices.data = nullptr;
    call_.packed = &packed_;
  }

 private:
  template <class Element>
  Element* room(int64_t count) {
    gathered_.emplace_back(count * sizeof(Element));
    return reinterpret_cast<Element*>(gathered_.back().data());
  }

  template <class Element>
  static Tensor dense(Element* data, int64_t heads, int64_t rows, int64_t width) {
    return {.data = data,
            .dtype = dtype_of<Element>(),
            .rank = 4,
            .size = {1, heads, rows, width},
            .stride = {0, rows * width, width, 1}};
  }

  // Brings a paged tensor's rows together.
  [[gnu::cold]] void gather(Tensor& t, const PackedAxis& paged, int64_t b, int64_t keys) {
    const int64_t bytes = element_size(t.dtype);
    int32_t axes[kMaxRank];
    int count = 0;
    int64_t width = 1;
    for (int32_t axis = 0; axis < t.rank; ++axis) {
      if (axis == paged.axis || t.stride[axis] == 0) continue;
      axes[count++] = axis;
      width *= t.size[axis];
    }
    char* rows = room<char>(keys * width * bytes);
    const char* data = static_cast<const char*>(t.data);
    for_slots(*call_.packed, b, 0, keys, [&](int64_t j, int64_t page, int64_t slot) {
      const int64_t at = page * paged.page_stride + slot * t.stride[paged.axis];
      copy_axes(t, axes, count, data + at * bytes, rows + j * width * bytes);
    });
    t.data = rows;
    t.size[paged.axis] = keys, t.stride[paged.axis] = width;
    for (int64_t stride = 1; count-- > 0; stride *= t.size[axes[count]]) {
      t.stride[axes[count]] = stride;
    }
  }

  Call call_;
  Packed packed_;
  std::vector<Tensor> tensors_;
  std::deque<std::vector<char>> gathered_;
};

// Whether a functor reads k or v through the call.
template <class Variant>
constexpr bool loads_keys() {
  if constexpr (requires { Variant::kLoadsKeys; }) return Variant::kLoadsKeys;
  else return false;
}

template <class Variant, class Element, int kD, int kDV>
class PackedRun {
 public:
  [[gnu::cold]] explicit PackedRun(const Call& call) : packed_(*call.packed) {
    for (int64_t b = 0; b < packed_.requests; ++b) {
      if (lengths_of(call, b).queries > 0) requests_.emplace_back(call, b);
    }
    for (Request& request : requests_) {
      (request.prefill ? any_prefill_ : any_decode_) = true;
      for (int64_t i = 0; i < request.items(); ++i) items_.push_back({&request, i});
    }
  }

  [[gnu::cold]] int run(char* error) {
    if (packed_.costs != nullptr) {
      tell(*packed_.costs);
      return 0;
    }
    if (packed_.chunks == nullptr) cut();
    else if (!follow()) return fail(error, "the schedule is of another call");
    for (Request& request : requests_) {
      if (request.prefill) request.prefill->prepare();
    }
    const int threads = thread_count(static_cast<int64_t>(pieces_.size()));
    Buffer<typename Prefill::Scratch> prefill(any_prefill_ ? threads : 0);
    Buffer<typename Decoding::Scratch> decode(any_decode_ ? threads : 0);
    Buffer<typename Prefill::State> prefill_states(any_prefill_ ? slots_ : 0);
    Buffer<typename Decoding::State> decode_states(any_decode_ ? slots_ : 0);
    if (!prefill || !decode || !prefill_states || !decode_states) {
      return fail(error, "out of memory for %d threads", threads);
    }
    const auto run_piece = [](const auto& algorithm, int64_t index, const Piece& piece,
                              auto& scratch, auto& states) {
      const auto item = algorithm.item(index);
      auto& state = piece.slot < 0 ? scratch.state : states[piece.slot];
      algorithm.run(item, piece.begin, piece.end, scratch, state);
      if (piece.slot < 0) algorithm.finish(item, state);
    };
    parallel_for(static_cast<int64_t>(pieces_.size()), threads, [&](int64_t i, int thread) {
      const Piece& piece = pieces_[order_.empty() ? i : order_[i]];
      const auto& [request, index] = items_[piece.item];
      if (request->prefill) {
        run_piece(*request->prefill, index, piece, prefill[thread], prefill_states);
      } else {
        run_piece(*request->decode, index, piece, decode[thread], decode_states);
      }
    });
    const auto merge = [](const auto& algorithm, int64_t index, const Merge& merge, auto& states) {
      using Algorithm = std::remove_cvref_t<decltype(algorithm)>;
      const auto item = algorithm.item(index);
      for (int32_t slot = merge.first + 1; slot < merge.end; ++slot) {
        Algorithm::merge(states[merge.first], states[slot], item);
      }
      algorithm.finish(item, states[merge.first]);
    };
    parallel_for(static_cast<int64_t>(merges_.size()), threads, [&](int64_t i, int) {
      const auto& [request, index] = items_[merges_[i].item];
      if (request->prefill) merge(*request->prefill, index, merges_[i], prefill_states);
      else merge(*request->decode, index, merges_[i], decode_states);
    });
    return 0;
  }

 private:
  using Prefill = Forward<Variant, Element, kD, kDV>;
  using Decoding = Decode<Variant, Element, kD, kDV>;

  // Few rows are decoded, more are a prefill.
  struct Request {
    RequestCall own;
    Problem<Element> problem;
    typename Variant::Params params;
    std::optional<Prefill> prefill;
    std::optional<Decoding> decode;

    [[gnu::cold]] Request(const Call& call, int64_t b)
        : own(call, b), problem(prepared(own, b), b), params(Variant::params(own.call())) {
      if (problem.queries > kDecodeQueries) prefill.emplace(problem, params);
      else decode.emplace(problem, params);
    }
    int64_t items() const { return prefill ? prefill->items() : decode->items(); }
    int64_t keys() const { return problem.kv_len(problem.first); }

    static const Call& prepared(RequestCall& own, [[maybe_unused]] int64_t b) {
      using Width = Widths<Variant, kD, kDV>;
      if constexpr (loads_keys<Variant>()) {
        own.gather_keys<Element, Width::kHead, Width::kValue>(b);
      }
      return own.call();
    }
  };

  struct Item {
    Request* request;
    int64_t index;  // of the request's items

    template <class Function>
    int64_t ask(const Function& f) const {
      if (request->prefill) return f(*request->prefill, request->prefill->item(index));
      return f(*request->decode, request->decode->item(index));
    }
    int64_t tiles() const {
      return ask(
          [](const auto& algorithm, const auto& item) { return tile_count(algorithm, item); });
    }
    int64_t begin_of(int64_t tile) const {
      return ask([&](const auto& algorithm, const auto& item) {
        return tile_begin(algorithm, item, tile, request->keys());
      });
    }
  };

  // Keys [begin, end) of an item.
  struct Piece {
    int64_t item, begin, end;
    int32_t slot;  // of its state; -1: the whole item
  };

  // The states of an item in key order: slots [first, end).
  struct Merge {
    int64_t item;
    int32_t first, end;
  };

  [[gnu::cold]] void tell(Costs& costs) const {
    const int64_t count = costs.items = static_cast<int64_t>(items_.size());
    if (costs.capacity < count) return;
    parallel_for(count, thread_count(count),
                 [&](int64_t i, int) { costs.data[i] = static_cast<int32_t>(items_[i].tiles()); });
  }

  // Cuts long items, so that there are enough pieces, and orders them, costly ones first.
  [[gnu::cold]] void cut() {
    const int64_t count = static_cast<int64_t>(items_.size());
    std::vector<int64_t> costs;
    for (int64_t i = 0; i < count; ++i) {
      const Request& request = *items_[i].request;
      const int64_t keys = request.keys(), rows = request.prefill ? kQueryTile : kDecodeRows;
      const KeyParts cut = KeyParts::of(count, keys, kKeyTile);
      if (cut.parts > 1) merges_.push_back({i, slots_, slots_ + int32_t(cut.parts)});
      for (int64_t part = 0; part < cut.parts; ++part) {
        const int64_t begin = std::min(cut.begin(part), keys);
        const int64_t end = part + 1 == cut.parts ? keys : std::min(cut.begin(part + 1), keys);
        pieces_.push_back({i, begin, end, cut.parts == 1 ? -1 : slots_++});
        costs.push_back(rows * (end - begin));
      }
    }
    order_ = longest_first(static_cast<int64_t>(costs.size()), 1, 1,
                           [&](int64_t i) { return costs[i]; });
  }

  // Takes pieces and their order from a schedule; false where it is none of this call. The pieces
  // of an item go from its first key to its last, whatever the mask hides by now.
  [[gnu::cold]] bool follow() {
    const int64_t count = packed_.chunk_count, items = static_cast<int64_t>(items_.size());
    for (int64_t i = 0; i < count; ++i) slots_ += packed_.chunks[i].slot >= 0;
    std::vector<int64_t> of_slot(slots_, -1);  // chunks
    std::vector<bool> done(items_.size());
    for (int64_t i = 0; i < count; ++i) {
      const Chunk& chunk = packed_.chunks[i];
      if (chunk.item < 0 || chunk.item >= items || chunk.slot >= slots_) return false;
      const Item& item = items_[chunk.item];
      const int64_t begin = chunk.slot < 0 || chunk.first == 0 ? 0 : item.begin_of(chunk.first);
      pieces_.push_back({chunk.item, begin, item.request->keys(), chunk.slot});
      if (chunk.slot < 0) {
        if (done[chunk.item]) return false;
        done[chunk.item] = true;
      } else {
        if (of_slot[chunk.slot] >= 0) return false;
        of_slot[chunk.slot] = i;
      }
    }
    for (int32_t slot = 0; slot < slots_; ++slot) {
      const Chunk& chunk = packed_.chunks[of_slot[slot]];
      if (chunk.first == 0) {
        if (done[chunk.item]) return false;
        done[chunk.item] = true;
        merges_.push_back({chunk.item, slot, slot + 1});
        continue;
      }
      if (slot == 0) return false;
      const Chunk& before = packed_.chunks[of_slot[slot - 1]];
      if (before.item != chunk.item || before.first + before.count != chunk.first) return false;
      pieces_[of_slot[slot - 1]].end = pieces_[of_slot[slot]].begin;
      merges_.back().end = slot + 1;
    }
    return std::find(done.begin(), done.end(), false) == done.end();
  }

  const Packed& packed_;
  std::deque<Request> requests_;  // each keeps its place
  std::vector<Item> items_;
  std::vector<Piece> pieces_;
  std::vector<Merge> merges_;
  std::vector<int64_t> order_;  // empty: that of the pieces
  int32_t slots_ = 0;
  bool any_prefill_ = false, any_decode_ = false;
};

}  // namespace attnlang::cpu

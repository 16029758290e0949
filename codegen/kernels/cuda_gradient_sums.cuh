// Where the gradients of parameters are added up on a GPU: exactly, so that any order gives the
// same bits.
//
// An entry is a number in fixed point that holds every float32: digits of 24 bits in words of 64,
// which leaves room for 2^39 additions before a word could overflow. Adding is one or two integer
// atomics; at the end the number is rounded once. Entries that no two elements of a launch share
// (`Store`) are added to where they lie instead, and launches follow each other.
#pragma once

#include <cmath>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/gradients.h"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"
#include "kernels/cuda_transforms.cuh"

namespace attnlang::cuda {

using ExactWord = unsigned long long;

constexpr int kDigitBits = 24;
constexpr int kDigits = 12;               // from 2^-149 on
constexpr int kExactWords = kDigits + 1;  // the last one says what was not finite
constexpr ExactWord kSawNan = 1, kSawPlus = 2, kSawMinus = 4;

// How a tensor's gradient is stored. `exact`: as above. Otherwise the index holds the row and the
// column themselves, so that of one request and head no two elements meet in an entry: all launch
// at once where the index holds both, else each of what it does not hold has a launch of its own.
enum class Store { exact, at_once, each_request, each_head, each_request_and_head };

ATTNLANG_DEVICE void add_exactly(ExactWord* words, float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t exponent = bits >> 23 & 255u;
  const bool negative = bits >> 31 != 0;
  uint32_t mantissa = bits & 0x7fffffu;
  if (exponent == 255u) {
    atomicOr(words + kDigits, mantissa != 0 ? kSawNan : negative ? kSawMinus : kSawPlus);
    return;
  }
  if (exponent != 0) mantissa |= 0x800000u;
  const uint32_t position = exponent == 0 ? 0u : exponent - 1;  // of the lowest bit
  const ExactWord shifted = ExactWord{mantissa} << position % kDigitBits;
  const ExactWord low = shifted & ((1u << kDigitBits) - 1), high = shifted >> kDigitBits;
  ExactWord* word = words + position / kDigitBits;
  if (low != 0) atomicAdd(word, negative ? ExactWord{0} - low : low);
  if (high != 0) atomicAdd(word + 1, negative ? ExactWord{0} - high : high);
}

// The number, rounded to nearest even.
ATTNLANG_DEVICE float round_exact(const ExactWord* words) {
  const ExactWord seen = words[kDigits];
  if (seen != 0) {
    if ((seen & kSawNan) != 0 || seen == (kSawPlus | kSawMinus))
      return __uint_as_float(0x7fc00000u);
    return seen == kSawPlus ? kInfinity : -kInfinity;
  }
  constexpr int64_t kMask = (1 << kDigitBits) - 1;
  int64_t top = 0;  // what is carried out of the highest digit says the sign
  for (int i = 0; i < kDigits; ++i) top = (static_cast<int64_t>(words[i]) + top) >> kDigitBits;
  const bool negative = top < 0;
  // Digits from the lowest to the highest; the last two that are not 0 and whether more are there.
  int64_t carry = 0, high = 0, low = 0;
  bool more = false;
  int place = 0;
  for (int i = 0; i < kDigits + 2; ++i) {
    int64_t digit = carry;
    if (i < kDigits) {
      const auto word = static_cast<int64_t>(words[i]);
      digit += negative ? -word : word;
    }
    carry = digit >> kDigitBits;
    digit &= kMask;
    if (digit == 0 && high == 0) continue;
    // `high` is digit i - 1 so far.
    if (digit != 0) {
      const bool adjacent = place == i - 1 && high != 0;
      more = more || low != 0 || (!adjacent && high != 0);
      low = adjacent ? high : 0;
      high = digit;
      place = i;
    }
  }
  const double significand =
      static_cast<double>((high << kDigitBits | low) << 1 | static_cast<int64_t>(more));
  const float value = static_cast<float>(::ldexp(significand, kDigitBits * (place - 1) - 150));
  return negative ? -value : value;
}

// A float32 tensor that is added to; indices are clamped, as those of reads are.
template <int kRank>
struct SumView {
  float* result = nullptr;     // null: not wanted
  ExactWord* exact = nullptr;  // null: entries are added to where they lie
  int64_t size[kRank == 0 ? 1 : kRank] = {}, stride[kRank == 0 ? 1 : kRank] = {};

  ATTNLANG_HD bool wanted() const { return result != nullptr; }

  template <class... Index>
    requires(sizeof...(Index) == kRank)
  ATTNLANG_DEVICE void add(float value, Index... index) const {
    int64_t offset = 0;
    [[maybe_unused]] int axis = 0;
    ((offset += clamp_index(index, size[axis]) * stride[axis], ++axis), ...);
    if (exact != nullptr) add_exactly(exact + offset * kExactWords, value);
    else result[offset] += value;
  }
};

// Where the sum of one parameter lies.
struct SumPlace {
  float* result;
  ExactWord* exact;
};

template <int kRank>
SumView<kRank> sum_view(const Tensor& tensor, const SumPlace& place) {
  SumView<kRank> view{.result = place.result, .exact = place.exact};
  for (int i = 0; i < kRank; ++i) {
    view.size[i] = tensor.size[i], view.stride[i] = tensor.stride[i];
  }
  return view;
}

// What one element gives, where it gives something.
template <int kRank, class... Index>
ATTNLANG_DEVICE void scatter(const SumView<kRank>& sums, float value, int, Index... index) {
  if (value != 0.0f) sums.add(value, index...);
}

// Of a dense tensor; requests whose rows lie one after another have no axis in memory.
inline int64_t count_elements(const Tensor& tensor) {
  int64_t n = 1;
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.stride[i] != 0) n *= tensor.size[i];
  }
  return n;
}

__global__ void __launch_bounds__(128)
    finish_sums_kernel(const ExactWord* exact, float* result, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) result[i] = round_exact(exact + i * kExactWords);
}

// The sums of a call: one target a run-time scalar, then one a tensor. A target of no entry is not
// wanted.
template <class Variant>
class GradientSums {
 public:
  GradientSums(const Gradients& gradients, Workspace& workspace) {
    int64_t words = 0;
    each(gradients, [&](int, const Tensor& t, Store store) {
      if (store == Store::exact) words += count_elements(t) * kExactWords;
    });
    bytes_ = words * static_cast<int64_t>(sizeof(ExactWord));
    words_ = static_cast<ExactWord*>(workspace.take(bytes_));
  }

  typename Variant::Sums sums(const Gradients& gradients) const {
    SumPlace places[kTargets + 1] = {};
    ExactWord* next = words_;
    each(gradients, [&](int i, const Tensor& t, Store store) {
      places[i] = {.result = static_cast<float*>(t.data), .exact = nullptr};
      if (store != Store::exact) return;
      places[i].exact = next;
      next += count_elements(t) * kExactWords;
    });
    return Variant::sums(gradients, [&](int i) { return places[i]; });
  }

  static bool any(const Gradients& gradients) {
    bool found = false;
    each(gradients, [&](int, const Tensor&, Store) { found = true; });
    return found;
  }

  // Whether launches must follow each other, one a request (a head), for some tensor's sake.
  static bool apart(const Gradients& gradients, bool requests) {
    bool found = false;
    each(gradients, [&](int, const Tensor&, Store store) {
      found = found || store == Store::each_request_and_head ||
              store == (requests ? Store::each_request : Store::each_head);
    });
    return found;
  }

  // Sums and results to zero.
  const char* start(const Gradients& gradients, void* stream) const {
    const char* wrong = fill_bytes(words_, 0, static_cast<size_t>(bytes_), stream);
    each(gradients, [&](int, const Tensor& t, Store store) {
      if (wrong != nullptr || store == Store::exact) return;
      const auto bytes = static_cast<size_t>(count_elements(t)) * sizeof(float);
      wrong = fill_bytes(t.data, 0, bytes, stream);
    });
    return wrong;
  }

  const char* finish(const Gradients& gradients, void* stream) const {
    constexpr int kThreads = 128;
    const char* wrong = nullptr;
    const ExactWord* next = words_;
    each(gradients, [&](int, const Tensor& t, Store store) {
      if (wrong != nullptr || store != Store::exact) return;
      const int64_t count = count_elements(t);
      const dim3 grid(static_cast<unsigned>((count + kThreads - 1) / kThreads));
      wrong = launch(finish_sums_kernel, grid, kThreads, 0, stream, next,
                     static_cast<float*>(t.data), count);
      next += count * kExactWords;
    });
    return wrong;
  }

 private:
  static constexpr int kTargets = Variant::kScalarCount + Variant::kTensorCount;

  // visit(number, tensor, store) for each target that is wanted.
  template <class Visit>
  static void each(const Gradients& gradients, const Visit& visit) {
    for (int i = 0; i < kTargets; ++i) {
      const bool scalar = i < Variant::kScalarCount;
      const Tensor& t =
          scalar ? gradients.scalars[i] : gradients.tensors[i - Variant::kScalarCount];
      if (t.data == nullptr || count_elements(t) == 0) continue;
      visit(i, t, scalar ? Store::exact : Variant::kStores[i - Variant::kScalarCount]);
    }
  }

  ExactWord* words_;
  int64_t bytes_;
};

}  // namespace attnlang::cuda

// Where the gradients of parameters are added up, and in which order.
//
// Threads take slabs: all work of one key head. A tensor that every read indexes by the head is
// added to where it lies, for no two slabs meet there; any other has a copy a slab, and the copies
// are added in the order of the slabs. So a gradient is the same, bit for bit, on any number of
// threads.
#pragma once

#include <algorithm>
#include <vector>

#include "attnlang/cpu/parallel.h"
#include "attnlang/cpu/simd.h"
#include "attnlang/host/gradients.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::cpu {

// A float32 tensor that is added to; indices are clamped, as those of reads are.
template <int kRank>
struct SumView {
  float* data = nullptr;
  int64_t size[kRank == 0 ? 1 : kRank] = {}, stride[kRank == 0 ? 1 : kRank] = {};

  bool wanted() const { return data != nullptr; }

  template <class... Index>
    requires(sizeof...(Index) == kRank)
  void add(float value, Index... index) const {
    int64_t offset = 0;
    int axis = 0;
    ((offset += clamp_index(index, size[axis]) * stride[axis], ++axis), ...);
    data[offset] += value;
  }
};

template <int kRank>
SumView<kRank> sum_view(const Tensor& tensor, float* data) {
  SumView<kRank> view{.data = data};
  for (int i = 0; i < kRank; ++i) {
    view.size[i] = tensor.size[i], view.stride[i] = tensor.stride[i];
    if (tensor.size[i] == 0) view.data = nullptr;  // nothing to add to
  }
  return view;
}

template <Scalar T>
T lane_of(T x, int) {
  return x;
}
inline int64_t lane_of(I x, int i) { return x[i]; }
inline int64_t lane_of(L x, int i) { return x[i]; }

// Adds the first `count` lanes, each at its own index.
template <int kRank, class... Index>
void scatter(const SumView<kRank>& sums, F values, int count, Index... index) {
  for (int i = 0; i < count; ++i) {
    if (values[i] != 0.0f) sums.add(values[i], lane_of(index, i)...);
  }
}

// The elements in memory: where a stride is 0, an axis repeats them.
inline int64_t count_elements(const Tensor& tensor) {
  int64_t last = 0;
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.size[i] == 0) return 0;
    last += (tensor.size[i] - 1) * tensor.stride[i];
  }
  return last + 1;
}

// The targets of a call: one a run-time scalar, then one a tensor.
class GradientSums {
 public:
  // `owned[i]`: tensor i is indexed by the head.
  GradientSums(const Gradients& gradients, int scalars, int tensors, const bool* owned,
               int64_t slabs) {
    for (int i = 0; i < scalars; ++i) add(gradients.scalars[i], false, slabs);
    for (int i = 0; i < tensors; ++i) add(gradients.tensors[i], owned[i], slabs);
  }

  bool any() const { return any_; }

  // Where slab `slab` adds to target i; null: not wanted.
  float* at(int i, int64_t slab) {
    Target& target = targets_[i];
    if (target.result == nullptr || target.copies.empty()) return target.result;
    return target.copies.data() + slab * target.count;
  }

  void finish() {
    for (Target& target : targets_) {
      if (target.copies.empty()) continue;
      const int64_t slabs = static_cast<int64_t>(target.copies.size()) / target.count;
      for (int64_t slab = 0; slab < slabs; ++slab) {
        const float* copy = target.copies.data() + slab * target.count;
        for (int64_t i = 0; i < target.count; ++i) target.result[i] += copy[i];
      }
    }
  }

 private:
  struct Target {
    float* result;
    int64_t count;
    std::vector<float> copies;
  };

  void add(const Tensor& tensor, bool owned, int64_t slabs) {
    Target target{.result = static_cast<float*>(tensor.data), .count = 0, .copies = {}};
    if (target.result != nullptr) {
      any_ = true;
      target.count = count_elements(tensor);
      if (!owned && slabs > 1) target.copies.resize(target.count * slabs);
    }
    targets_.push_back(std::move(target));
  }

  std::vector<Target> targets_;
  bool any_ = false;
};

}  // namespace attnlang::cpu

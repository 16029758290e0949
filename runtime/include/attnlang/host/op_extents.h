// The sizes of a call: read from q, k, v, solved from the tensor parameters, and compared with the
// declared shapes. Kernels trust them, so a wrong one is refused here whoever calls the op.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "attnlang/host/call.h"
#include "attnlang/host/op_spec.h"

namespace attnlang::op {

constexpr int64_t kPositionLimit = int64_t{1} << 30;  // of lengths, offsets and bound sizes

[[noreturn]] inline void refuse_argument(const char* name, const std::string& why) {
  throw std::runtime_error(std::string("`") + name + "`: " + why);
}

class CallExtents final : public Extents {
 public:
  CallExtents(const Call& call, const Spec& spec, const Tensor* tensors, int64_t* bound_sizes)
      : spec_(spec), tensors_(tensors), packed_(call.packed != nullptr) {
    bound = bound_sizes;
    expect_rank("q", call.q, 4);
    expect_rank("k", call.k, 4);
    expect_rank("v", call.v, 4);
    B = requests_of(call), HQ = call.q.size[1], Q = call.q.size[2], D = call.q.size[3];
    HKV = call.k.size[1], KV = call.k.size[2], DV = call.v.size[3];
    const bool paged = packed_ && call.packed->is_paged();
    const int64_t batch = paged ? call.k.size[0] : call.q.size[0];
    expect_shape("k", call.k, batch, HKV, KV, D);
    out = DV;
    expect_shape("v", call.v, batch, HKV, KV, DV);
    if (is_page_dtype(call.q.dtype)) refuse_argument("q", "a dtype of pages");
    const bool converted = paged && is_page_dtype(call.k.dtype);
    if (call.k.dtype != call.q.dtype && !converted) {
      refuse_argument(
          "k", paged ? "expected the dtype of q, or one of pages" : "expected the dtype of q");
    }
    if (call.v.dtype != call.k.dtype) refuse_argument("v", "expected the dtype of k");
    if (HKV == 0 ? HQ != 0 : HQ % HKV != 0) {
      refuse_argument("q", "expected a multiple of the " + std::to_string(HKV) + " heads of k");
    }
    if (D < 1 || DV < 1) refuse_argument("q", "expected a head dim of 1 or more");
    if (Q >= kPositionLimit || KV >= kPositionLimit)
      refuse_argument("q", "expected lengths below 2 ** 30");
  }

  void solve(int64_t& size, int32_t tensor, int32_t axis, int64_t factor,
             int64_t offset) const override {
    const Tensor& t = tensors_[tensor];
    if (t.data == nullptr) return;
    const int64_t rest = t.size[axis] - offset;
    if (rest < 0 || rest % factor != 0 || rest / factor >= kPositionLimit) {
      refuse_argument(spec_.tensor_names[tensor], "dimension " + std::to_string(axis) +
                                                      " cannot be " + std::to_string(t.size[axis]));
    }
    size = rest / factor;
  }

  void expect(int32_t tensor, int32_t axis, int64_t size) const override {
    const Tensor& t = tensors_[tensor];
    if (packed_ && axis == spec_.tensors[tensor].row_axis) return;  // `op_packed.h` compares it
    if (t.data != nullptr && t.size[axis] != size) {
      refuse_argument(spec_.tensor_names[tensor], "expected " + std::to_string(size) +
                                                      " in dimension " + std::to_string(axis) +
                                                      ", found " + std::to_string(t.size[axis]));
    }
  }

 private:
  static void expect_rank(const char* name, const Tensor& t, int32_t rank) {
    if (t.rank != rank) refuse_argument(name, "expected " + std::to_string(rank) + " dimensions");
  }

  static void expect_shape(const char* name, const Tensor& t, int64_t s0, int64_t s1, int64_t s2,
                           int64_t s3) {
    if (t.size[0] == s0 && t.size[1] == s1 && t.size[2] == s2 && t.size[3] == s3) return;
    refuse_argument(name, "expected shape [" + std::to_string(s0) + ", " + std::to_string(s1) +
                              ", " + std::to_string(s2) + ", " + std::to_string(s3) + "]");
  }

  const Spec& spec_;
  const Tensor* tensors_;
  bool packed_;
};

}  // namespace attnlang::op

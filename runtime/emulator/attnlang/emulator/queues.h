// Asynchronous work that was issued and has not completed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace attnlang::emulator {

// A tensor in global memory and the box that one copy moves; dimension 0 is contiguous.
struct alignas(64) TensorMap {
  const std::byte* base = nullptr;
  int32_t rank = 0, element_bytes = 0;
  uint64_t sizes[5] = {}, strides[5] = {};  // strides in bytes
  uint32_t box[5] = {};
};

// cp.async: groups complete in the order of their commits.
struct Copy {
  std::byte* to;          // null: an arrival at a barrier instead
  const std::byte* from;  // null: zeros
  uint32_t bytes;
  uint32_t barrier;
  uint64_t group;
};
struct CopyQueue {
  std::deque<Copy> pending;
  uint64_t open_group = 0;
};

// TMA loads complete in any order, each on its barrier.
struct PendingLoad {
  TensorMap map;
  uint32_t offset, barrier;
  std::array<int, 5> at;
  int thread;
};

// Stores of the copy engine first read shared memory, then write global memory: the box of a map,
// or bytes as they lie, which may be floats to add.
struct PendingStore {
  TensorMap map;
  std::byte* to;   // null: the box
  uint32_t bytes;  // there
  bool adds;
  uint32_t offset;
  std::array<int, 5> at;
  uint64_t group;
  bool has_read;
  std::vector<std::byte> data;
};
struct StoreQueue {
  std::deque<PendingStore> pending;
  uint64_t open_group = 0;
};

// wgmma. While products that add to registers d are in flight, d holds poison and its values are
// kept here.
struct Product {
  float* d;
  uint64_t a, b;  // descriptors
  std::array<uint32_t, 4> a_registers;
  int n;
  bool a_in_registers, transpose_b, half, accumulate;
  uint64_t group;
  uint64_t issuers_fence, any_fence;  // the last fence_async_shared when it was issued
  uint64_t signature() const {
    uint64_t h = b;
    for (uint64_t x : {a_in_registers ? uint64_t{0} : a, static_cast<uint64_t>(n),
                       uint64_t{a_in_registers} * 8 + transpose_b * 4 + half * 2 + accumulate}) {
      h = (h ^ x) * 0x9e3779b97f4a7c15u;
      h ^= h >> 29;
    }
    return h;
  }
};
struct Accumulator {
  float* d;
  std::vector<float> values;
  int in_flight;
  uint64_t last_group;
};
struct ProductQueue {
  std::deque<Product> pending;
  std::vector<Accumulator> accumulators;
  uint64_t open_group = 0;
  bool fenced = false;  // a wgmma_fence since the last commit
};

}  // namespace attnlang::emulator

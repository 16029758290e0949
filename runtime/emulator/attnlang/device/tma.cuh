// The emulator's twin of attnlang/device/tma.cuh, which says what these do.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/emulator/tma.h"

namespace attnlang::cuda {

using TensorMap = emulator::TensorMap;

inline const char* make_tensor_map(TensorMap* map, DType dtype, const void* base, int rank,
                                   const uint64_t* sizes, const uint64_t* strides_bytes,
                                   const uint32_t* box) {
  if (dtype != DType::bf16 && dtype != DType::f16) return "a tensor map takes bf16 or f16";
  if (rank < 3 || rank > 5) return "a tensor map has 3 to 5 dimensions";
  *map = {.base = static_cast<const std::byte*>(base), .rank = rank, .element_bytes = 2};
  map->strides[0] = 2;
  for (int i = 0; i < rank; ++i) {
    map->sizes[i] = sizes[i];
    map->box[i] = box[i];
    if (i > 0) map->strides[i] = strides_bytes[i - 1];
  }
  return emulator::check_tensor_map(*map);
}

inline void tma_prefetch(const TensorMap*) {}

template <int kRank>
void tma_load(void* shared, const TensorMap* map, uint64_t* barrier, int c0, int c1, int c2,
              int c3 = 0, int c4 = 0) {
  static_assert(kRank >= 3 && kRank <= 5);
  emulator::issue_load(*map, kRank, shared, barrier, {c0, c1, c2, c3, c4});
}
template <int kRank>
void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3 = 0,
               int c4 = 0) {
  static_assert(kRank >= 3 && kRank <= 5);
  emulator::issue_store(*map, kRank, shared, {c0, c1, c2, c3, c4});
}
inline void bulk_store(void* global, const void* shared, int bytes) {
  emulator::issue_bulk("bulk_store", global, shared, bytes, false);
}
inline void bulk_add(float* global, const void* shared, int bytes) {
  emulator::issue_bulk("bulk_add", global, shared, bytes, true);
}
inline void tma_store_commit() { ++emulator::cta().thread().stores.open_group; }
template <int kPending>
void tma_store_wait() {
  emulator::wait_stores(kPending, false);
}
template <int kPending>
void tma_store_wait_read() {
  emulator::wait_stores(kPending, true);
}

}  // namespace attnlang::cuda

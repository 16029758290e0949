// The copy engine: boxes of tensors between global memory and swizzled rows of shared memory.
//
// A load happens when every thread is stuck, or before; a store reads and writes at its waits, or
// before.
#pragma once

#include <atomic>

#include "attnlang/emulator/barriers.h"
#include "attnlang/emulator/report.h"

namespace attnlang::emulator {

constexpr uint32_t kRowBytes = 128;  // of a swizzled row: the inner extent of every box

// Where the 128-byte swizzle puts what has this address. Shared memory starts at a multiple of
// 1024.
constexpr uint32_t swizzled(uint32_t address) { return address ^ ((address >> 3) & 0x70u); }

inline const char* check_tensor_map(const TensorMap& map) {
  if (map.rank < 3 || map.rank > 5) return "a tensor map has 3 to 5 dimensions";
  if (reinterpret_cast<uintptr_t>(map.base) % 16 != 0) return "the base must be 16-byte aligned";
  if (map.base == nullptr) return "the base is null";
  if (map.box[0] * map.element_bytes != kRowBytes) return "box[0] must cover 128 bytes";
  for (int i = 0; i < map.rank; ++i) {
    if (map.sizes[i] == 0 || map.sizes[i] > (uint64_t{1} << 32)) return "a size is not 1 to 2^32";
    if (map.box[i] == 0 || map.box[i] > 256) return "a box has 1 to 256 elements a dimension";
    if (i > 0 && map.strides[i] % 16 != 0) return "strides must be multiples of 16 bytes";
    if (i > 0 && map.strides[i] >= (uint64_t{1} << 40)) return "a stride is 2^40 bytes or more";
  }
  return nullptr;
}

inline uint32_t rows_of(const TensorMap& map) {
  uint32_t rows = 1;
  for (int i = 1; i < map.rank; ++i) rows *= map.box[i];
  return rows;
}

// The bytes of row `row` of the box at `at` that are in the tensor: [first, end) of the 128; null
// where none is.
inline std::byte* row_in_tensor(const TensorMap& map, const std::array<int, 5>& at, uint32_t row,
                                uint32_t& first, uint32_t& end) {
  auto* p = const_cast<std::byte*>(map.base);
  for (int i = 1; i < map.rank; ++i) {
    const int64_t x = int64_t{at[i]} + row % map.box[i];
    row /= map.box[i];
    if (x < 0 || x >= static_cast<int64_t>(map.sizes[i])) return nullptr;
    p += x * static_cast<int64_t>(map.strides[i]);
  }
  const int64_t begin = std::max<int64_t>(at[0], 0);
  const int64_t stop = std::min<int64_t>(int64_t{at[0]} + map.box[0], map.sizes[0]);
  if (begin >= stop) return nullptr;
  first = static_cast<uint32_t>((begin - at[0]) * map.element_bytes);
  end = static_cast<uint32_t>((stop - at[0]) * map.element_bytes);
  return p + int64_t{at[0]} * map.element_bytes;
}

inline uint32_t checked_box(const char* operation, const TensorMap& map, int rank,
                            const void* shared) {
  Cta& c = cta();
  if (const char* error = check_tensor_map(map)) c.fail("%s: %s", operation, error);
  if (map.rank != rank) c.fail("%s: %d coordinates for a map of %d", operation, rank, map.rank);
  return checked_offset(operation, shared, rows_of(map) * kRowBytes, 128);
}

inline void issue_load(const TensorMap& map, int rank, void* shared, uint64_t* barrier,
                       const std::array<int, 5>& at) {
  Cta& c = cta();
  const uint32_t offset = checked_box("tma_load", map, rank, shared);
  const uint32_t barrier_offset = checked_offset("tma_load", barrier, 8, 8);
  mbarrier_at("tma_load", barrier_offset);
  c.loads.push_back({map, offset, barrier_offset, at, c.thread().number});
}

inline bool advance_loads(Cta& c) {
  if (c.loads.empty()) return false;
  const auto chosen = c.loads.begin() + c.random().below(static_cast<uint32_t>(c.loads.size()));
  const PendingLoad load = *chosen;
  c.loads.erase(chosen);
  const uint32_t rows = rows_of(load.map);
  for (uint32_t row = 0; row < rows; ++row) {
    uint32_t first = 0, end = 0;
    std::byte line[kRowBytes] = {};
    if (const std::byte* p = row_in_tensor(load.map, load.at, row, first, end)) {
      std::memcpy(line + first, p + first, end - first);
    }
    for (uint32_t b = 0; b < kRowBytes; b += 16) {
      const uint32_t to = swizzled(load.offset + row * kRowBytes + b);
      std::memcpy(c.shared().base() + to, line + b, 16);
      c.shared().record_async_write(to, 16, c.now());
    }
  }
  c.tick();
  advance_mbarrier("tma_load", load.barrier, 0, -int64_t{rows} * kRowBytes);
  return true;
}

inline void issue_store(const TensorMap& map, int rank, const void* shared,
                        const std::array<int, 5>& at) {
  StoreQueue& queue = cta().thread().stores;
  const uint32_t offset = checked_box("tma_store", map, rank, shared);
  queue.pending.push_back({.map = map,
                           .to = nullptr,
                           .bytes = 0,
                           .adds = false,
                           .offset = offset,
                           .at = at,
                           .group = queue.open_group,
                           .has_read = false,
                           .data = {}});
}

inline void issue_bulk(const char* operation, void* global, const void* shared, int bytes,
                       bool adds) {
  Cta& c = cta();
  if (bytes <= 0 || bytes % 16 != 0) {
    c.fail("%s: %d bytes; a multiple of 16 is expected", operation, bytes);
  }
  if (global == nullptr || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    c.fail("%s: the address in global memory is not a multiple of 16 bytes", operation);
  }
  StoreQueue& queue = c.thread().stores;
  queue.pending.push_back({.map = {},
                           .to = static_cast<std::byte*>(global),
                           .bytes = static_cast<uint32_t>(bytes),
                           .adds = adds,
                           .offset = checked_offset(operation, shared, bytes, 16),
                           .at = {},
                           .group = queue.open_group,
                           .has_read = false,
                           .data = {}});
}

inline void read_store(Cta& c, Thread& thread, PendingStore& store) {
  if (store.has_read) return;
  store.has_read = true;
  const bool box = store.to == nullptr;
  const uint32_t bytes = box ? rows_of(store.map) * kRowBytes : store.bytes;
  store.data.resize(bytes);
  const auto fenced = [&](int writer, uint64_t time) {
    return c.threads()[writer].last_fence > time || thread.last_fence > time;
  };
  for (uint32_t b = 0; b < bytes; b += 16) {
    const uint32_t at = box ? swizzled(store.offset + b) : store.offset + b;
    SharedMemory::Unfenced problem;
    if (!c.shared().read_async(at, c.now(), c.last_fence, fenced, problem)) {
      fail_unfenced(c, &thread,
                    box          ? "tma_store"
                    : store.adds ? "bulk_add"
                                 : "bulk_store",
                    problem);
    }
    std::memcpy(store.data.data() + b, c.shared().base() + at, 16);
  }
}

inline void write_store(const PendingStore& store) {
  if (store.adds) {
    for (uint32_t b = 0; b < store.bytes; b += sizeof(float)) {
      float x;
      std::memcpy(&x, store.data.data() + b, sizeof x);
      std::atomic_ref<float>(*reinterpret_cast<float*>(store.to + b)).fetch_add(x);
    }
    return;
  }
  if (store.to != nullptr) {
    std::memcpy(store.to, store.data.data(), store.bytes);
    return;
  }
  const uint32_t rows = rows_of(store.map);
  for (uint32_t row = 0; row < rows; ++row) {
    uint32_t first = 0, end = 0;
    if (std::byte* p = row_in_tensor(store.map, store.at, row, first, end)) {
      std::memcpy(p + first, store.data.data() + row * kRowBytes + first, end - first);
    }
  }
}

inline void wait_stores(int pending_groups, bool read_only) {
  Cta& c = cta();
  Thread& me = c.thread();
  StoreQueue& queue = me.stores;
  for (PendingStore& store : queue.pending) {
    if (store.group + static_cast<uint64_t>(pending_groups) >= queue.open_group) break;
    read_store(c, me, store);
  }
  if (read_only) return;
  while (!queue.pending.empty() &&
         queue.pending.front().group + static_cast<uint64_t>(pending_groups) < queue.open_group) {
    write_store(queue.pending.front());
    queue.pending.pop_front();
  }
}

// The oldest committed store reads, or writes when it has read.
inline bool advance_stores(Cta& c, Thread& thread) {
  StoreQueue& queue = thread.stores;
  if (queue.pending.empty()) return false;
  PendingStore& store = queue.pending.front();
  if (!store.has_read) {
    read_store(c, thread, store);
  } else {
    write_store(store);
    queue.pending.pop_front();
  }
  return true;
}

}  // namespace attnlang::emulator

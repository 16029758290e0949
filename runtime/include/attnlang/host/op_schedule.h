// A schedule as a tensor: what a planned call does in which order, made once and followed often.
//
// int32: a header, then the chunks of `chunk.h` in the order in which they begin. It knows for
// which lengths and heads it was made.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "attnlang/host/balance.h"
#include "attnlang/host/call.h"
#include "attnlang/host/op_extents.h"

namespace attnlang::op {

struct ScheduleHeader {
  static constexpr int32_t kKind = 0x61747301;
  int32_t kind;  // kKind
  int32_t chunks;
  int32_t items;
  int32_t workers;
  int32_t slots;      // states of pieces
  int32_t largest;    // key tiles of the busiest worker
  uint32_t shape[2];  // of the call
};
constexpr int64_t kHeaderInts = sizeof(ScheduleHeader) / sizeof(int32_t);
constexpr int64_t kChunkInts = sizeof(Chunk) / sizeof(int32_t);
constexpr int64_t kUnitKeys = 64;  // of a cost unit

// A number that calls of other lengths or heads do not have, but by an unlikely accident.
inline uint64_t shape_of(const Call& call) {
  const Packed& packed = *call.packed;
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](int64_t x) { hash = (hash ^ static_cast<uint64_t>(x)) * 0x100000001b3u; };
  for (const int64_t x : {packed.requests, call.q.size[1], call.k.size[1]}) add(x);
  for (int64_t b = 0; b < packed.requests; ++b) {
    add(packed.q_indptr[b + 1]);
    add(packed.kv_indptr[b + 1]);
  }
  return hash ^ (hash >> 29);
}

// The schedule of items by their costs. Chunks of `split_tokens` keys, where that is not 0, depend
// on their own request alone.
inline std::vector<int32_t> make_schedule(const Call& call, const std::vector<int32_t>& costs,
                                          int64_t workers, int64_t split_tokens) {
  const int64_t limit = split_tokens == 0 ? 0 : std::max<int64_t>(1, split_tokens / kUnitKeys);
  std::vector<Chunk> chunks;
  balance(costs.data(), static_cast<int64_t>(costs.size()), static_cast<int>(workers),
          static_cast<int32_t>(std::min<int64_t>(limit, INT32_MAX)), chunks);
  std::vector<int32_t> rank(chunks.size()), load(workers), turns(workers);
  std::vector<Chunk> order(chunks.size());
  ScheduleHeader header{.kind = ScheduleHeader::kKind,
                        .chunks = static_cast<int32_t>(chunks.size()),
                        .items = static_cast<int32_t>(costs.size()),
                        .workers = static_cast<int32_t>(workers)};
  for (size_t i = 0; i < chunks.size(); ++i) {
    rank[i] = turns[chunks[i].worker]++;
    header.slots += chunks[i].slot >= 0;
    header.largest = std::max(header.largest, load[chunks[i].worker] += chunks[i].count);
  }
  // Every worker's first chunk, every worker's second one and so on.
  std::vector<int64_t> begins(2 + *std::max_element(turns.begin(), turns.end()));
  for (const int32_t r : rank) ++begins[r + 1];
  for (size_t r = 1; r < begins.size(); ++r) begins[r] += begins[r - 1];
  for (size_t i = 0; i < chunks.size(); ++i) order[begins[rank[i]]++] = chunks[i];
  const uint64_t shape = shape_of(call);
  header.shape[0] = static_cast<uint32_t>(shape),
  header.shape[1] = static_cast<uint32_t>(shape >> 32);
  std::vector<int32_t> schedule(kHeaderInts + kChunkInts * chunks.size());
  std::memcpy(schedule.data(), &header, sizeof header);
  if (!order.empty()) {
    std::memcpy(schedule.data() + kHeaderInts, order.data(), order.size() * sizeof(Chunk));
  }
  return schedule;
}

// Gives a call the chunks of a schedule that was made for it. One of a GPU's kernels stands in its
// memory, for them to read.
inline void follow_schedule(const Tensor& t, const char* name, const Call& call, Packed& packed,
                            bool on_gpu) {
  const int64_t least = on_gpu ? 0 : kHeaderInts;
  if (t.dtype != DType::i32 || t.rank != 1 || t.stride[0] != 1 || t.size[0] < least) {
    refuse_argument(name, "expected what the schedule op returns");
  }
  if (on_gpu) {
    packed.chunks = static_cast<const Chunk*>(t.data), packed.chunk_count = t.size[0];
    return;
  }
  ScheduleHeader header;
  std::memcpy(&header, t.data, sizeof header);
  if (header.kind != ScheduleHeader::kKind || header.chunks < 0 ||
      kHeaderInts + kChunkInts * header.chunks != t.size[0]) {
    refuse_argument(name, "expected what the schedule op returns");
  }
  const uint64_t shape = shape_of(call);
  if (header.shape[0] != static_cast<uint32_t>(shape) ||
      header.shape[1] != static_cast<uint32_t>(shape >> 32)) {
    refuse_argument(name, "made for other lengths or heads");
  }
  packed.chunks = reinterpret_cast<const Chunk*>(static_cast<const int32_t*>(t.data) + kHeaderInts);
  packed.chunk_count = header.chunks;
}

}  // namespace attnlang::op

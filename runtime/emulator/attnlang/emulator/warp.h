// Collective operations of a warp: the last lane to come computes for all.
#pragma once

#include <cstring>

#include "attnlang/emulator/cta.h"

namespace attnlang::emulator {

// One address per type: what tells one kind of collective from another.
template <class T>
inline constexpr char kKind = 0;

// Each lane of `mask` brings `in` and receives what combine(in of all lanes, out of all lanes) puts
// into its `out`. Entries of lanes outside the mask are stale.
template <class Out, class In, class Combine>
Out meet(const char* operation, uint32_t mask, const In& in, Combine combine) {
  Cta& c = cta();
  Thread& me = c.thread();
  Warp& warp = *me.warp;
  const uint32_t bit = 1u << me.lane;
  const void* kind = &kKind<Combine>;
  if ((mask & bit) == 0) c.fail("%s: the lane is not in its own mask %08x", operation, mask);
  Meeting* meeting = nullptr;
  for (Meeting& m : warp.meetings) {
    if (m.arrived == 0) {
      if (meeting == nullptr) meeting = &m;
    } else if (m.kind == kind && m.mask == mask) {
      meeting = &m;
      break;
    } else if ((m.mask & mask) != 0) {
      c.fail(
          "divergent warp: this lane is at %s (mask %08x), lanes %08x of its warp at %s (mask "
          "%08x)",
          operation, mask, m.arrived, m.operation, m.mask);
    }
  }
  if (meeting == nullptr)
    c.fail("%s: more than 4 groups of lanes of a warp meet at once", operation);
  Out out{};
  if (meeting->arrived == 0) {
    meeting->mask = mask;
    meeting->kind = kind;
    meeting->operation = operation;
  }
  meeting->in[me.lane] = &in;
  meeting->out[me.lane] = &out;
  meeting->arrived |= bit;
  if (meeting->arrived == mask) {
    combine(meeting->in, meeting->out);
    meeting->arrived = 0;
    c.wake(warp, mask & ~bit);
  } else {
    c.block(operation);
  }
  return out;
}

constexpr uint32_t kFullMask = 0xffffffffu;

// What lane `lane` brought or shall receive.
template <class T>
const T& from(const std::array<const void*, kWarpSize>& in, int lane) {
  return *static_cast<const T*>(in[lane]);
}
template <class T>
T& to(const std::array<void*, kWarpSize>& out, int lane) {
  return *static_cast<T*>(out[lane]);
}

}  // namespace attnlang::emulator

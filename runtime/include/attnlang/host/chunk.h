// A piece of a packed call's work: plain data, which a schedule is made of.
#pragma once

#include <cstdint>

namespace attnlang {

// The units [first, first + count) of an item, in key order.
struct Chunk {
  int32_t item;
  int32_t first;
  int32_t count;
  int32_t worker;
  int32_t slot;  // -1: the whole item, written out by its worker; else its place among the states
};

}  // namespace attnlang

// wgmma: each warp computes its 16 rows when it waits, or before; until then the accumulators hold
// poison.
//
// A warp is the unit, not the warpgroup: that its neighbours have finished is nothing it may rely
// on.
#pragma once

#include "attnlang/emulator/matrix.h"
#include "attnlang/emulator/tma.h"

namespace attnlang::emulator {

constexpr float kRegisterPoison = std::bit_cast<float>(0x7fff7fffu);
constexpr int kMaxColumns = 256, kDepth = 16;

// --- descriptors ---

struct Operand {
  uint32_t start, leading, stride;  // bytes
};

inline Operand checked_operand(Cta& c, uint64_t descriptor, bool transposed, int rows) {
  if (descriptor >> 62 != 1)
    c.fail("wgmma: the descriptor %016llx has no 128-byte swizzle",
           static_cast<unsigned long long>(descriptor));
  const Operand operand{static_cast<uint32_t>(descriptor & 0x3fff) << 4,
                        static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4,
                        static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4};
  if ((operand.start >> 7 & 7) != 0) {
    c.fail("wgmma: the operand at address %u starts in the middle of 8 swizzled rows (1024 bytes)",
           operand.start);
  }
  // Of few columns a product may read one half of the rows' 64.
  const int step = !transposed ? 32 : rows <= 32 ? 64 : kRowBytes;
  if (operand.start % kRowBytes % step != 0) {
    c.fail("wgmma: the operand starts at byte %u of its rows of 128", operand.start % kRowBytes);
  }
  if (operand.stride == 0 || operand.stride % 1024 != 0) {
    c.fail("wgmma: groups of 8 rows lie %u bytes apart; a multiple of 1024 is expected",
           operand.stride);
  }
  if (transposed && rows > 64 && (operand.leading == 0 || operand.leading % 1024 != 0)) {
    c.fail("wgmma: 64 columns lie %u bytes apart; a multiple of 1024 is expected", operand.leading);
  }
  return operand;
}

// --- execution ---

// Reads operands of one product through the async proxy.
class OperandReader {
 public:
  OperandReader(Cta& c, uint64_t issuers_fence, uint64_t any_fence, const Thread& issuer)
      : c_(c), issuers_fence_(issuers_fence), any_fence_(any_fence), issuer_(issuer) {}

  // The 8 elements at an address before swizzling.
  const uint16_t* eight(uint32_t address) {
    const uint32_t offset = swizzled(address) - SharedMemory::kFirstAddress;
    if (address < SharedMemory::kFirstAddress || offset + 16 > c_.shared().bytes()) {
      c_.fail_at(&issuer_, "wgmma: an operand reaches address %u, outside the shared memory",
                 address);
    }
    SharedMemory::Unfenced problem;
    const auto fenced = [this](int writer, uint64_t time) {
      return c_.threads()[writer].last_fence > time || issuers_fence_ > time;
    };
    if (!c_.shared().read_async(offset, c_.now(), any_fence_, fenced, problem)) {
      fail_unfenced(c_, &issuer_, "wgmma", problem);
    }
    return reinterpret_cast<const uint16_t*>(c_.shared().base() + offset);
  }

 private:
  Cta& c_;
  uint64_t issuers_fence_, any_fence_;
  const Thread& issuer_;
};

template <class Element>
void read_rows(OperandReader& reader, const Operand& operand, int first, int rows,
               float (*to)[kDepth]) {
  for (int row = 0; row < rows; ++row) {
    const uint32_t at = operand.start + static_cast<uint32_t>(first + row) / 8 * operand.stride +
                        static_cast<uint32_t>(first + row) % 8 * kRowBytes;
    for (int half = 0; half < 2; ++half) {
      const uint16_t* eight = reader.eight(at + half * 16);
      for (int i = 0; i < 8; ++i) to[row][half * 8 + i] = element_value<Element>(eight[i]);
    }
  }
}

struct alignas(32) WarpTile {
  float a[16][kDepth], b[kDepth][kMaxColumns], b_rows[kMaxColumns][kDepth], d[16][kMaxColumns];
};

template <class Element>
void read_b(OperandReader& reader, const Operand& operand, bool transposed, int n, WarpTile& tile) {
  if (!transposed) {
    read_rows<Element>(reader, operand, 0, n, tile.b_rows);
    for (int column = 0; column < n; ++column) {
      for (int k = 0; k < kDepth; ++k) tile.b[k][column] = tile.b_rows[column][k];
    }
    return;
  }
  for (int k = 0; k < kDepth; ++k) {
    for (int column = 0; column < n; column += 8) {
      const uint16_t* eight =
          reader.eight(operand.start + column / 64 * operand.leading + k / 8 * operand.stride +
                       k % 8 * kRowBytes + column % 64 * 2);
      for (int i = 0; i < 8; ++i) tile.b[k][column + i] = element_value<Element>(eight[i]);
    }
  }
}

inline void multiply_tile(WarpTile& tile, int n) {
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < n; column += 16) {
      Eight sums[2];
      std::memcpy(sums, &tile.d[row][column], sizeof sums);
      for (int k = 0; k < kDepth; ++k) {
        Eight b[2];
        std::memcpy(b, &tile.b[k][column], sizeof b);
        sums[0] += tile.a[row][k] * b[0];
        sums[1] += tile.a[row][k] * b[1];
      }
      std::memcpy(&tile.d[row][column], sums, sizeof sums);
    }
  }
}

inline Accumulator& accumulator_of(Thread& thread, const float* d) {
  for (Accumulator& accumulator : thread.products.accumulators) {
    if (accumulator.d == d) return accumulator;
  }
  __builtin_unreachable();
}

template <class Element>
void read_operands(Cta& c, Thread* lanes, const Product& product, WarpTile& tile) {
  uint64_t issuers_fence = ~uint64_t{0};
  for (int l = 0; l < kWarpSize; ++l) {
    issuers_fence = std::min(issuers_fence, lanes[l].products.pending.front().issuers_fence);
  }
  OperandReader reader(c, issuers_fence, product.any_fence, lanes[0]);
  read_b<Element>(reader, checked_operand(c, product.b, product.transpose_b, product.n),
                  product.transpose_b, product.n, tile);
  if (!product.a_in_registers) {
    read_rows<Element>(reader, checked_operand(c, product.a, false, 64),
                       lanes[0].number / 32 % 4 * 16, 16, tile.a);
    return;
  }
  for (int l = 0; l < kWarpSize; ++l) {
    const auto& registers = lanes[l].products.pending.front().a_registers;
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + i % 2 * 8, k = l % 4 * 2 + i / 2 * 8;
      tile.a[row][k] = element_value<Element>(registers[i]);
      tile.a[row][k + 1] = element_value<Element>(registers[i] >> 16);
    }
  }
}

// The oldest product of a warp, all of whose lanes have issued it.
[[gnu::visibility("hidden")]] inline void execute_product(Cta& c, Warp& warp) {
  static thread_local WarpTile tile;
  Thread* lanes = &c.threads()[warp.number * kWarpSize];
  const Product product = lanes[0].products.pending.front();
  for (int l = 1; l < kWarpSize; ++l) {
    if (lanes[l].products.pending.front().signature() != product.signature()) {
      c.fail_at(&lanes[l], "wgmma: shape, descriptors or flags differ from those of lane 0");
    }
  }
  auto& log = c.product_log[warp.number / 4];
  if (warp.products_executed == log.size()) log.push_back(product.signature());
  if (log[warp.products_executed] != product.signature()) {
    c.fail_at(&lanes[0],
              "wgmma: shape, descriptors or flags differ from those of another warp of the "
              "warpgroup");
  }
  ++warp.products_executed;

  if (product.half) read_operands<Half>(c, lanes, product, tile);
  else read_operands<Bf16>(c, lanes, product, tile);
  const auto each = [&](auto&& visit) {
    for (int l = 0; l < kWarpSize; ++l) {
      Accumulator& own = accumulator_of(lanes[l], lanes[l].products.pending.front().d);
      for (int i = 0; i < product.n / 2; ++i) {
        visit(own.values[i], tile.d[l / 4 + i / 2 % 2 * 8][i / 4 * 8 + l % 4 * 2 + i % 2]);
      }
    }
  };
  const bool accumulate = product.accumulate;
  each([accumulate](float& own, float& shared) { shared = accumulate ? own : 0.0f; });
  multiply_tile(tile, product.n);
  each([](float& own, float& shared) { own = shared; });
  for (int l = 0; l < kWarpSize; ++l) {
    Thread& lane = lanes[l];
    --accumulator_of(lane, lane.products.pending.front().d).in_flight;
    lane.products.pending.pop_front();
  }
}

inline bool advance_products(Cta& c, Warp& warp) {
  const Thread* lanes = &c.threads()[warp.number * kWarpSize];
  for (int l = 0; l < kWarpSize; ++l) {
    if (lanes[l].products.pending.empty()) return false;
  }
  execute_product(c, warp);
  return true;
}

// --- issue and wait ---

inline void issue_product(float* d, int n, uint64_t a, const uint32_t* a_registers, uint64_t b,
                          bool transpose_b, bool half, bool accumulate) {
  Cta& c = cta();
  Thread& me = c.thread();
  ProductQueue& queue = me.products;
  if (!queue.fenced) {
    c.fail(
        "wgmma: no wgmma_fence since the last wgmma_commit (or at all): registers are not ordered");
  }
  Accumulator* own = nullptr;
  for (Accumulator& accumulator : queue.accumulators) {
    if (accumulator.d == d) own = &accumulator;
  }
  if (own == nullptr) {
    queue.accumulators.push_back({d, std::vector<float>(d, d + n / 2), 0, 0});
    own = &queue.accumulators.back();
    std::fill(d, d + n / 2, kRegisterPoison);
  } else if (static_cast<int>(own->values.size()) != n / 2) {
    c.fail("wgmma: registers of a product of %zu columns are in flight", own->values.size() * 2);
  }
  ++own->in_flight;
  own->last_group = queue.open_group;
  Product product{.d = d,
                  .a = a,
                  .b = b,
                  .a_registers = {},
                  .n = n,
                  .a_in_registers = a_registers != nullptr,
                  .transpose_b = transpose_b,
                  .half = half,
                  .accumulate = accumulate,
                  .group = queue.open_group,
                  .issuers_fence = me.last_fence,
                  .any_fence = c.last_fence};
  if (a_registers != nullptr) std::copy(a_registers, a_registers + 4, product.a_registers.begin());
  queue.pending.push_back(product);
}

inline void commit_products() {
  ProductQueue& queue = cta().thread().products;
  ++queue.open_group;
  queue.fenced = false;
}

// Puts the values of finished accumulators back into the thread's registers.
inline void retire(Cta& c, Thread& thread, uint64_t before_group) {
  auto& accumulators = thread.products.accumulators;
  for (size_t i = 0; i < accumulators.size();) {
    Accumulator& own = accumulators[i];
    if (own.last_group >= before_group) {
      ++i;
      continue;
    }
    for (size_t r = 0; r < own.values.size(); ++r) {
      if (std::bit_cast<uint32_t>(own.d[r]) != std::bit_cast<uint32_t>(kRegisterPoison)) {
        c.fail_at(&thread, "accumulator register %zu was written while a wgmma had it", r);
      }
      own.d[r] = own.values[r];
    }
    accumulators.erase(accumulators.begin() + static_cast<ptrdiff_t>(i));
  }
}

inline void wait_products(int pending_groups) {
  meet<bool>("wgmma_wait", kFullMask, pending_groups, [](auto& in, auto&) {
    Cta& c = cta();
    Warp& warp = *c.thread().warp;
    Thread* lanes = &c.threads()[warp.number * kWarpSize];
    const int64_t allowed = from<int>(in, 0);
    const int64_t before = static_cast<int64_t>(lanes[0].products.open_group) - allowed;
    for (int l = 0; l < kWarpSize; ++l) {
      if (lanes[l].products.pending.size() != lanes[0].products.pending.size() ||
          lanes[l].products.open_group != lanes[0].products.open_group ||
          from<int>(in, l) != allowed) {
        c.fail_at(&lanes[l], "wgmma_wait: other products were issued than by lane 0");
      }
    }
    while (!lanes[0].products.pending.empty() &&
           static_cast<int64_t>(lanes[0].products.pending.front().group) < before) {
      execute_product(c, warp);
    }
    if (before <= 0) return;
    for (int l = 0; l < kWarpSize; ++l) retire(c, lanes[l], static_cast<uint64_t>(before));
  });
}

}  // namespace attnlang::emulator

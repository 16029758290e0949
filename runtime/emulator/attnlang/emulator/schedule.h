// Which thread of a CTA runs next, by seed.
//
// Seed 0: warps in turn, lanes in turn, asynchronous work only when nothing else can run. Any other
// seed: warps, lanes and the moments of asynchronous work at random, the same for the same seed and
// CTA.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace attnlang::emulator {

// Of the whole process; ATTNLANG_EMULATOR_SEED is read once, set_seed overrules it.
[[gnu::visibility("hidden")]] inline std::atomic<uint64_t>& seed() {
  static std::atomic<uint64_t> value = [] {
    const char* text = std::getenv("ATTNLANG_EMULATOR_SEED");
    return text == nullptr ? uint64_t{0} : std::strtoull(text, nullptr, 10);
  }();
  return value;
}
inline void set_seed(uint64_t value) { seed() = value; }

class Random {
 public:
  Random(uint64_t seed, uint64_t cta) : enabled_(seed != 0) {
    state_ = (seed * 0x9e3779b97f4a7c15u) ^ ((cta + 1) * 0xbf58476d1ce4e5b9u);
    if (state_ == 0) state_ = 1;
    for (int i = 0; i < 4; ++i) next();
  }
  bool enabled() const { return enabled_; }
  // 0 to n - 1; always 0 under seed 0.
  uint32_t below(uint32_t n) {
    return enabled_ ? static_cast<uint32_t>((next() >> 32) * n >> 32) : 0;
  }
  // True once in n; never under seed 0.
  bool once_in(uint32_t n) { return enabled_ && below(n) == 0; }

 private:
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1du;
  }
  bool enabled_;
  uint64_t state_;
};

}  // namespace attnlang::emulator

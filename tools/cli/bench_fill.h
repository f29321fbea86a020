// tools/cli/bench_fill.h - what benches put into contexts: random tokens, and random K and V in
// place of a text that was read.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace strata::cli {

/// The same values from the same start: two contexts that are filled alike hold the same bits.
class RandomDraw {
 public:
  std::vector<int32_t> tokens(uint32_t n, uint32_t vocab_size);
  float value();  // around 0, standard deviation 0.05

 private:
  uint64_t next();
  uint64_t state_ = 0x243F6A8885A308D3u;
};

/// Throws Error(kCancelled) where the flag is set; null is never.
void check_bench_cancelled(const std::atomic<bool>* cancel);

/// Appends `tokens` with blocks of small normal-like K and V, stored as the walk stores them: a
/// diffuse softmax, as after a real prefill. A position's K and V depend on nothing but it.
/// Errors: kCancelled, between chunks; those of KvCache::open_rows.
void fill_random(engine::Engine& engine, engine::Sequence& sequence,
                 std::span<const int32_t> tokens, const std::atomic<bool>* cancel);

}  // namespace strata::cli

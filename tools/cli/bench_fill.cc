#include "tools/cli/bench_fill.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/host_memory.h"

namespace strata::cli {
namespace {

// As many different blocks, spread over streams and text so that those which an index prefers lie
// anywhere.
constexpr uint32_t kPatterns = 1024;

uint32_t pattern_of(uint32_t block, uint32_t layer, uint32_t head) {
  uint64_t mixed = (uint64_t{layer} << 48 | uint64_t{head} << 32 | block) * 0x9E3779B97F4A7C15u;
  mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93u;
  return static_cast<uint32_t>(mixed >> 32) % kPatterns;
}

HostMemory draw_patterns(engine::Engine& engine) {
  const KvLayout& layout = engine.cache().layout();
  HostMemory patterns = HostMemory::reserve(uint64_t{kPatterns} * layout.block_bytes);
  RandomDraw draw;
  std::vector<float> k(layout.head_dim), v(layout.head_dim);
  for (uint32_t pattern = 0; pattern < kPatterns; ++pattern)
    for (uint32_t row = 0; row < kBlockPositions; ++row) {
      std::ranges::generate(k, [&] { return draw.value(); });
      std::ranges::generate(v, [&] { return draw.value(); });
      engine.kernels().store_kv(layout, patterns.data() + uint64_t{pattern} * layout.block_bytes,
                                row, k.data(), v.data());
    }
  return patterns;
}

}  // namespace

uint64_t RandomDraw::next() {  // an LCG's high bits are enough to spread embedding rows
  return state_ = state_ * 6364136223846793005u + 1442695040888963407u;
}

std::vector<int32_t> RandomDraw::tokens(uint32_t n, uint32_t vocab_size) {
  std::vector<int32_t> tokens(n);
  for (auto& token : tokens) token = static_cast<int32_t>((next() >> 33) % vocab_size);
  return tokens;
}

float RandomDraw::value() {  // the sum of four uniform values
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(next() >> 40) * 0x1p-24f - 0.5f;
  return sum * 0.0866f;
}

void check_bench_cancelled(const std::atomic<bool>* cancel) {
  if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
    throw Error(ErrorCode::kCancelled, "the bench was stopped", "strata bench");
}

void fill_random(engine::Engine& engine, engine::Sequence& sequence,
                 std::span<const int32_t> tokens, const std::atomic<bool>* cancel) {
  const HostMemory patterns = draw_patterns(engine);
  engine::KvCache& cache = engine.cache();
  const ModelShape& shape = cache.shape();
  const uint32_t block_bytes = cache.layout().block_bytes;
  while (!tokens.empty()) {
    check_bench_cancelled(cancel);
    const uint32_t first = sequence.n_pos();
    const auto n =
        static_cast<uint32_t>(std::min<uint64_t>(engine.context().chunk_rows, tokens.size()));
    cache.open_rows(sequence, n);
    // Layers go to different threads: what takes time is the first touch of the arena's pages.
    engine.pool().for_each(shape.n_layers, 1, [&](uint64_t begin, uint64_t end, uint32_t) {
      for (auto layer = static_cast<uint32_t>(begin); layer < end; ++layer)
        for (uint32_t head = 0; head < shape.layers[layer].n_kv_heads; ++head)
          for (uint32_t pos = first / kBlockPositions * kBlockPositions; pos < first + n;
               pos += kBlockPositions) {
            if (cache.block_id(sequence, layer, head, pos) == tiers::kNoBlock) continue;
            const uint32_t pattern = pattern_of(pos / kBlockPositions, layer, head);
            std::memcpy(cache.open_block(sequence, layer, head, pos),
                        patterns.data() + uint64_t{pattern} * block_bytes, block_bytes);
          }
    });
    cache.close_rows(sequence, tokens.first(n));
    sequence.set_n_exact(sequence.n_pos());  // as if it had been read
    tokens = tokens.subspan(n);
  }
}

}  // namespace strata::cli

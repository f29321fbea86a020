#include "engine/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "cpu_attn/kernels.h"

namespace strata::engine {
namespace {

constexpr uint32_t kChunk = 64;

/// Layer 0 attends everything, layer 1 a window of 40; two KV heads of 16 dimensions each.
ModelShape shape() {
  ModelShape out{.architecture = "llama",
                 .n_layers = 2,
                 .d_model = 64,
                 .head_dim = 16,
                 .vocab_size = 10,
                 .n_ctx_train = 4096,
                 .layers = {}};
  out.layers.push_back({.n_heads = 4, .n_kv_heads = 2, .d_ff = 16});
  out.layers.push_back(
      {.kind = LayerKind::kWindow, .n_heads = 4, .n_kv_heads = 2, .d_ff = 16, .window = 40});
  return out;
}

KvCacheOptions budget(uint64_t bytes) { return {.budget_bytes = bytes, .chunk_rows = kChunk}; }

/// Appends n rows whose blocks carry a mark of their position in every stream.
void append(KvCache& cache, Sequence& sequence, uint32_t n) {
  while (n > 0) {
    const uint32_t rows = std::min(n, kChunk);
    cache.open_rows(sequence, rows);
    for (uint32_t layer = 0; layer < 2; ++layer)
      for (uint32_t head = 0; head < 2; ++head)
        for (uint32_t pos = sequence.n_pos(); pos < sequence.n_pos() + rows; ++pos)
          cache.open_block(sequence, layer, head, pos)[pos % kBlockPositions] =
              static_cast<std::byte>(pos + layer * 7 + head * 3);
    const std::vector<int32_t> tokens(rows, 1);
    cache.close_rows(sequence, tokens);
    n -= rows;
  }
}

void expect_marks(const KvCache& cache, const Sequence& sequence) {
  for (uint32_t layer = 0; layer < 2; ++layer)
    for (uint32_t head = 0; head < 2; ++head)
      for (uint32_t pos = 0; pos < sequence.n_pos(); ++pos) {
        const std::byte* block = cache.block(sequence, layer, head, pos);
        const bool needed = layer == 0 || pos + 40 > sequence.n_pos();
        if (needed) {
          ASSERT_NE(block, nullptr) << "layer " << layer << " position " << pos;
        }
        if (block != nullptr) {
          EXPECT_EQ(block[pos % kBlockPositions],
                    static_cast<std::byte>(pos + layer * 7 + head * 3))
              << layer << " " << pos;
        }
      }
}

TEST(KvCache, EveryPositionKeepsItsBytesAndAllBlocksComeBack) {
  KvCache cache(shape(), budget(1 << 20));
  {
    Sequence sequence = cache.make_sequence();
    append(cache, sequence, 1000);
    expect_marks(cache, sequence);
  }
  EXPECT_EQ(cache.pool().n_free(), cache.pool().n_slots());
}

TEST(KvCache, AWindowedLayerHoldsWindowAndOneChunk) {
  const uint64_t bytes = kv_bytes_for_context(shape(), KvCodec::kF16, KvCodec::kF16, 1000, kChunk);
  KvCache cache(shape(), budget(bytes));
  Sequence sequence = cache.make_sequence();
  append(cache, sequence, 1000);
  const uint64_t block = cache.layout().block_bytes;
  EXPECT_EQ(bytes / block, 2 * 32 + 2 * 5u);  // 1000 positions; 39 + 64 positions at any offset
  EXPECT_LE(cache.pool().peak_used() * block, bytes);
  EXPECT_EQ(cache.block(sequence, 1, 0, 0), nullptr);
}

TEST(KvCache, ForksShareBlocksUntilOneOfThemAppends) {
  KvCache cache(shape(), budget(1 << 20));
  Sequence first = cache.make_sequence();
  append(cache, first, 50);
  const uint32_t used = cache.pool().n_slots() - cache.pool().n_free();
  Sequence second = first.fork();
  EXPECT_EQ(cache.pool().n_slots() - cache.pool().n_free(), used);
  EXPECT_EQ(cache.block(first, 0, 0, 49), cache.block(second, 0, 0, 49));
  cache.open_rows(second, 1);
  EXPECT_NE(cache.block(first, 0, 0, 49), cache.block(second, 0, 0, 49));
  EXPECT_EQ(cache.block(first, 0, 0, 31), cache.block(second, 0, 0, 31));
  cache.open_block(second, 0, 0, 50)[50 % 32] = std::byte{99};
  append(cache, first, 1);
  EXPECT_EQ(cache.block(first, 0, 0, 50)[50 % 32], std::byte{50});
  EXPECT_EQ(cache.block(second, 0, 0, 50)[50 % 32], std::byte{99});
  expect_marks(cache, first);
}

TEST(KvCache, TruncateKeepsTheFrontAndAppendsGoOn) {
  KvCache cache(shape(), budget(1 << 20));
  Sequence sequence = cache.make_sequence();
  append(cache, sequence, 300);
  EXPECT_EQ(sequence.truncate(270), 270u);
  EXPECT_EQ(sequence.n_pos(), 270u);
  append(cache, sequence, 200);
  expect_marks(cache, sequence);
}

TEST(KvCache, TruncateOfAForkLeavesTheOther) {
  KvCache cache(shape(), budget(1 << 20));
  Sequence first = cache.make_sequence();
  append(cache, first, 100);
  Sequence second = first.fork();
  EXPECT_EQ(second.truncate(90), 90u);
  append(cache, second, 40);
  expect_marks(cache, first);
  expect_marks(cache, second);
}

TEST(KvCache, TruncateBehindALostWindowSaysThatNothingIsKept) {
  KvCache cache(shape(), budget(1 << 20));
  Sequence sequence = cache.make_sequence();
  append(cache, sequence, 1000);
  EXPECT_EQ(sequence.truncate(500), 0u);
  EXPECT_EQ(sequence.n_pos(), 0u);
  EXPECT_EQ(cache.pool().n_free(), cache.pool().n_slots());
  append(cache, sequence, 100);
  expect_marks(cache, sequence);
}

TEST(KvCache, AStepThatDoesNotFitChangesNothing) {
  KvCache cache(shape(), budget(20 * 2048));
  Sequence sequence = cache.make_sequence();
  append(cache, sequence, 100);
  const uint32_t n_free = cache.pool().n_free();
  Sequence other = cache.make_sequence();
  try {
    append(cache, other, 64);
    FAIL() << "fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  }
  EXPECT_EQ(cache.pool().n_free(), n_free);
  EXPECT_EQ(other.n_pos(), 0u);
  expect_marks(cache, sequence);
}

/// A restored context that the index has not taken in yet: a second index of it would need rows of
/// its own for all of it, and there is room for two slots of 4,096 positions more.
TEST(KvCache, AForkWithoutAnIndexNeedsNoRoomForRows) {
  constexpr uint32_t kIndexedPositions = 3 * 4096;
  const index::SelectorSource selectors(
      index::Method::kQuest, index_shape(shape(), KvCodec::kF16, KvCodec::kF16, kIndexedPositions),
      cpu_attn::choose_kernels(""));
  KvCacheOptions options = budget(uint64_t{16} << 20);
  options.n_ctx = kIndexedPositions;
  options.selectors = &selectors;
  KvCache cache(shape(), options);
  Sequence sequence = cache.make_sequence();
  append(cache, sequence, kIndexedPositions);
  ASSERT_EQ(sequence.n_indexed(), 0u);
  EXPECT_THROW((void)sequence.fork(), Error);
  const Sequence again = sequence.fork(/*has_index=*/false);
  EXPECT_EQ(again.index(), nullptr);
  expect_marks(cache, again);
  EXPECT_EQ(sequence.index()->n_blocks(), kIndexedPositions / kBlockPositions);
}

}  // namespace
}  // namespace strata::engine

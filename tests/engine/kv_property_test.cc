// Random histories of sequences against a model that writes every position's token into its blocks:
// whatever was shared, cut, copied or refused, each sequence reads its own tokens, every block has
// as many references as tables name it, and none is lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/kv_cache.h"

namespace strata::engine {
namespace {

constexpr uint32_t kDrawnChunk = 40;

/// A full layer and windows shorter than a block, longer, and of one position.
ModelShape shape() {
  ModelShape out{.architecture = "llama",
                 .n_layers = 4,
                 .d_model = 64,
                 .head_dim = 8,
                 .vocab_size = 10,
                 .n_ctx_train = 4096,
                 .layers = {}};
  out.layers.push_back({.n_heads = 2, .n_kv_heads = 2, .d_ff = 16});
  for (const uint32_t window : {20u, 70u, 1u})
    out.layers.push_back(
        {.kind = LayerKind::kWindow, .n_heads = 2, .n_kv_heads = 1, .d_ff = 16, .window = window});
  return out;
}

class History {
 public:
  History(uint64_t seed, uint64_t budget_blocks)
      : random_(seed), cache_(shape(), options(budget_blocks)) {}

  void run(uint32_t n_steps) {
    for (uint32_t i = 0; i < n_steps && !::testing::Test::HasFatalFailure(); ++i) {
      step();
      check();
    }
    EXPECT_GT(n_refused_ + n_rewound_, 0u) << "nothing was ever refused or lost: a larger test";
    texts_.clear();
    EXPECT_EQ(cache_.pool().n_free(), cache_.pool().n_slots());
  }

 private:
  struct Text {
    Sequence sequence;
    std::vector<int32_t> tokens;
  };

  static KvCacheOptions options(uint64_t budget_blocks) {
    const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape().head_dim);
    return {.budget_bytes = budget_blocks * layout.block_bytes, .chunk_rows = kDrawnChunk};
  }
  uint32_t draw(uint32_t below) { return static_cast<uint32_t>(random_() % below); }
  Text& any() { return texts_[draw(static_cast<uint32_t>(texts_.size()))]; }

  template <class Visit>
  void for_streams(Visit visit) const {
    for (uint32_t layer = 0; layer < shape().n_layers; ++layer)
      for (uint32_t head = 0; head < shape().layers[layer].n_kv_heads; ++head) visit(layer, head);
  }

  const std::byte* row(const Text& text, uint32_t layer, uint32_t head, uint32_t pos) const {
    const std::byte* block = cache_.block(text.sequence, layer, head, pos);
    return block == nullptr ? nullptr : block + pos % kBlockPositions * sizeof(int32_t);
  }
  /// The same, to be written: an open block.
  std::byte* open_row(const Text& text, uint32_t layer, uint32_t head, uint32_t pos) {
    return cache_.open_block(text.sequence, layer, head, pos) +
           pos % kBlockPositions * sizeof(int32_t);
  }
  static int32_t mark(int32_t token, uint32_t layer, uint32_t head) {
    return token * 16 + static_cast<int32_t>(layer * 2 + head);
  }

  void step() {
    const uint32_t choice = draw(20);
    if (texts_.empty() || (choice == 0 && texts_.size() < 8))
      texts_.push_back({cache_.make_sequence(), {}});
    else if (choice < 10)
      append(any());
    else if (choice < 13 && texts_.size() < 8)
      fork();
    else if (choice < 16)
      truncate(any());
    else if (choice == 16)
      abandon(any());
    else if (choice == 17)
      texts_.erase(texts_.begin() + draw(static_cast<uint32_t>(texts_.size())));
    else if (choice == 18)
      any() = Text{cache_.make_sequence(), {}};
    else
      std::swap(texts_.front(), texts_.back());
  }

  void fork() {
    const Text& origin = any();
    texts_.push_back({origin.sequence.fork(), origin.tokens});
  }

  /// True where the rows were opened; a refusal must have changed nothing (check() sees the rest).
  bool open(Text& text, uint32_t n) {
    const uint32_t n_free = cache_.pool().n_free();
    const auto before = blocks(text);
    try {
      cache_.open_rows(text.sequence, n);
      return true;
    } catch (const Error& error) {
      ++n_refused_;
      EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
      EXPECT_NE(std::string(error.what()).find(std::to_string(cache_.pool().budget_bytes())),
                std::string::npos);
      EXPECT_NE(error.remedy().find("--kv-dram"), std::string::npos);
      EXPECT_EQ(cache_.pool().n_free(), n_free);
      EXPECT_EQ(blocks(text), before);
      return false;
    }
  }

  void append(Text& text) {
    const uint32_t n = 1 + draw(draw(2) ? kDrawnChunk : 3);
    if (!open(text, n)) return;
    std::vector<int32_t> more;
    for (uint32_t i = 0; i < n; ++i) more.push_back(++n_tokens_);
    const auto begin = static_cast<uint32_t>(text.tokens.size());
    for_streams([&](uint32_t layer, uint32_t head) {
      for (uint32_t i = 0; i < n; ++i) {
        const int32_t value = mark(more[i], layer, head);
        std::memcpy(open_row(text, layer, head, begin + i), &value, sizeof value);
      }
    });
    cache_.close_rows(text.sequence, more);
    text.tokens.insert(text.tokens.end(), more.begin(), more.end());
  }

  /// A step that failed after it had written.
  void abandon(Text& text) {
    const uint32_t n = 1 + draw(kDrawnChunk);
    if (!open(text, n)) return;
    const auto begin = static_cast<uint32_t>(text.tokens.size());
    for_streams([&](uint32_t layer, uint32_t head) {
      for (uint32_t i = 0; i < n; ++i)
        std::memset(open_row(text, layer, head, begin + i), 0xEE, sizeof(int32_t));
    });
    cache_.abandon_rows(text.sequence);
  }

  void truncate(Text& text) {
    const auto size = static_cast<uint32_t>(text.tokens.size());
    const uint32_t wanted =
        draw(3) == 0 ? draw(size + 2) : size - std::min(size, draw(kDrawnChunk + 1));
    // What the next row would attend, and the block it goes to, must still be held.
    bool is_held = true;
    for (uint32_t layer = 0; layer < shape().n_layers; ++layer) {
      const uint32_t window = shape().layers[layer].window;
      const uint32_t first = window == 0 || wanted + 1 <= window ? 0 : wanted + 1 - window;
      for (uint32_t pos = first; pos <= wanted && pos < size; ++pos)
        is_held = is_held && row(text, layer, 0, pos) != nullptr;
    }
    const uint32_t kept = text.sequence.truncate(wanted);
    if (wanted >= size) {
      EXPECT_EQ(kept, size);
      return;
    }
    EXPECT_EQ(kept, is_held ? wanted : 0u);
    if (kept != wanted) ++n_rewound_;
    text.tokens.resize(kept);
  }

  /// The blocks of a text, stream by stream; kNoBlock where a window has let go.
  std::vector<tiers::BlockId> blocks(const Text& text) const {
    std::vector<tiers::BlockId> out;
    for_streams([&](uint32_t layer, uint32_t head) {
      for (uint32_t pos = 0; pos < text.sequence.n_pos(); pos += kBlockPositions)
        out.push_back(cache_.block_id(text.sequence, layer, head, pos));
    });
    return out;
  }

  void check() {
    std::map<tiers::BlockId, uint32_t> references;
    for (const Text& text : texts_) {
      ASSERT_EQ(text.sequence.tokens(), text.tokens);
      check_rows(text);
      for (const tiers::BlockId block : blocks(text))
        if (block != tiers::kNoBlock) ++references[block];
    }
    const tiers::BlockPool& pool = cache_.pool();
    ASSERT_EQ(pool.n_slots() - pool.n_free(), references.size());
    ASSERT_LE(uint64_t{pool.peak_used()} * pool.block_bytes(), pool.budget_bytes());
    std::set<const std::byte*> places;
    for (const auto& [block, count] : references) {
      ASSERT_EQ(cache_.store().references(block), count);
      ASSERT_TRUE(places.insert(cache_.store().bytes(block)).second);
    }
  }

  void check_rows(const Text& text) const {
    const auto size = static_cast<uint32_t>(text.tokens.size());
    for_streams([&](uint32_t layer, uint32_t head) {
      const uint32_t window = shape().layers[layer].window;
      for (uint32_t pos = 0; pos < size; ++pos) {
        const std::byte* at = row(text, layer, head, pos);
        if (at == nullptr) {
          ASSERT_TRUE(window > 0 && pos + window <= size) << "layer " << layer << " lost " << pos;
          continue;
        }
        int32_t value = 0;
        std::memcpy(&value, at, sizeof value);
        ASSERT_EQ(value, mark(text.tokens[pos], layer, head)) << "layer " << layer << " at " << pos;
      }
    });
  }

  std::mt19937_64 random_;
  KvCache cache_;
  std::vector<Text> texts_;
  int32_t n_tokens_ = 0;
  uint32_t n_refused_ = 0;
  uint32_t n_rewound_ = 0;
};

TEST(KvProperty, EveryTextReadsItsOwnTokensAndNoBlockIsLost) {
  for (const uint64_t budget_blocks : {60u, 150u, 400u}) {
    const uint64_t seed = std::random_device{}();
    SCOPED_TRACE(seed);
    SCOPED_TRACE(budget_blocks);
    History(seed, budget_blocks).run(1500);
  }
}

/// Law L2: the figure a plan is made with suffices for one sequence, however it is cut and fed.
TEST(KvProperty, TheBytesOfAContextSufficeForItWhateverTheHistory) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (const uint32_t n_ctx : {1u, 31u, 33u, 200u, 777u}) {
    const uint32_t chunk = std::min(kDrawnChunk, n_ctx);
    KvCacheOptions options{.chunk_rows = chunk, .n_ctx = n_ctx};
    options.budget_bytes =
        kv_bytes_for_context(shape(), options.k_codec, options.v_codec, n_ctx, chunk);
    KvCache cache(shape(), options);
    Sequence sequence = cache.make_sequence();
    for (int i = 0; i < 2000; ++i) {
      const uint32_t room = n_ctx - sequence.n_pos();
      if (room == 0 || random() % 8 == 0) {
        sequence.truncate(static_cast<uint32_t>(random() % (n_ctx + 1)));
        continue;
      }
      const auto n = static_cast<uint32_t>(1 + random() % std::min(room, chunk));
      ASSERT_NO_THROW(cache.open_rows(sequence, n)) << "at " << sequence.n_pos() << " of " << n_ctx;
      if (random() % 6 == 0)
        cache.abandon_rows(sequence);
      else
        cache.close_rows(sequence, std::vector<int32_t>(n, 1));
    }
    EXPECT_LE(uint64_t{cache.pool().peak_used()} * cache.pool().block_bytes(),
              options.budget_bytes);
  }
}

/// A windowed layer promises a truncate() by a chunk after any steps that were walked.
TEST(KvProperty, ATruncateByOneChunkIsAlwaysHeld) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  KvCache cache(shape(), {.budget_bytes = uint64_t{4} << 20, .chunk_rows = kDrawnChunk});
  for (int i = 0; i < 200; ++i) {
    Sequence sequence = cache.make_sequence();
    const auto wanted = static_cast<uint32_t>(kDrawnChunk + random() % 400);
    while (sequence.n_pos() < wanted) {
      const auto n = static_cast<uint32_t>(1 + random() % kDrawnChunk);
      cache.open_rows(sequence, n);
      cache.close_rows(sequence, std::vector<int32_t>(n, 1));
    }
    const uint32_t target = sequence.n_pos() - static_cast<uint32_t>(random() % (kDrawnChunk + 1));
    ASSERT_EQ(sequence.truncate(target), target);
  }
}

}  // namespace
}  // namespace strata::engine

#include "engine/device_kv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "tests/gpu_emu/emulated_device.h"

namespace strata::engine {
namespace {

constexpr uint32_t kChunk = 64;
constexpr uint32_t kContext = 640;
constexpr uint32_t kMirroredRows = 8;  // steps of at most so many write to both places

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

/// A text in the cache, and the mark that each of its rows was written with.
struct Text {
  Sequence sequence;
  std::vector<uint8_t> marks;
};

/// Texts whose rows are "computed" on the device: a row is a byte of its block.
class DeviceTexts {
 public:
  explicit DeviceTexts(uint64_t slots_bytes)
      : device_(OpenDevice::open(table(), 0)),
        stream_(Stream::create(device_)),
        cache_(shape(), {.budget_bytes = 6 * context_bytes(), .chunk_rows = kChunk}),
        kv_(device_, cache_, slots_bytes, kContext) {}

  static uint64_t context_bytes() {
    return kv_bytes_for_context(shape(), KvCodec::kF16, KvCodec::kF16, kContext, kChunk);
  }
  Text text() { return {cache_.make_sequence(), {}}; }
  const DeviceKvCounts& counts() const { return kv_.counts(); }
  /// Of all streams.
  std::vector<tiers::BlockId> blocks(const Text& text) const {
    std::vector<tiers::BlockId> all;
    for (uint32_t layer = 0; layer < 2; ++layer)
      for (uint32_t head = 0; head < 2; ++head)
        std::ranges::copy(cache_.stream_blocks(text.sequence, layer, head).blocks,
                          std::back_inserter(all));
    return all;
  }
  bool has_copy(tiers::BlockId block) const { return kv_.has_copy(block); }
  /// Room for rows that no step writes.
  void open(Text& text, uint32_t n_rows) { cache_.open_rows(text.sequence, n_rows); }

  /// `chosen`: full blocks of layer 0 that the rows choose.
  void step(Text& text, uint32_t n_rows, uint8_t mark, std::span<const uint32_t> chosen = {}) {
    const uint32_t first = text.sequence.n_pos();
    cache_.open_rows(text.sequence, n_rows);
    kv_.begin_step(stream_, text.sequence, n_rows);
    stream_.wait();
    expect_chosen(text, chosen);
    expect_attended(first + n_rows);
    for (uint32_t i = 0; i < n_rows; ++i) text.marks.push_back(static_cast<uint8_t>(mark + i));
    const bool is_mirrored = n_rows <= kMirroredRows;
    for_attended(first, first, [&](uint32_t layer, uint32_t head, uint32_t pos) {
      EXPECT_EQ(read(entry(layer, head, pos, false), pos), mark_of(text, layer, head, pos))
          << "on the device, layer " << layer << ", " << pos;
    });
    for_attended(first + n_rows, first, [&](uint32_t layer, uint32_t head, uint32_t pos) {
      if (pos < first) return;
      const uint8_t value = mark_of(text, layer, head, pos);
      write(entry(layer, head, pos, false), pos, value);
      if (is_mirrored) write(entry(layer, head, pos, true), pos, value);
    });
    kv_.end_step(stream_, is_mirrored);
    stream_.wait();
    cache_.close_rows(text.sequence, std::vector<int32_t>(n_rows, 1));
    expect_at_home(text);
  }

 private:
  /// The emulated device, which looks whether one launch sets an entry to two values.
  static const DeviceTable& table() {
    static const DeviceTable watched = [] {
      DeviceTable table = gpu_emu::emulated_device();
      table.kernels.set_words = [](DeviceStream* stream, const DeviceSetWordsArgs& args) {
        std::map<uint32_t, uint64_t> values;
        for (uint32_t i = 0; i < args.n; ++i)
          EXPECT_EQ(values.emplace(args.index[i], args.value[i]).first->second, args.value[i]);
        return gpu_emu::emulated_device().kernels.set_words(stream, args);
      };
      return table;
    }();
    return watched;
  }
  /// What is fetched of chosen blocks is theirs.
  void expect_chosen(const Text& text, std::span<const uint32_t> chosen) {
    for (uint32_t head = 0; head < 2; ++head)
      for (const uint32_t block : chosen) kv_.choose(cache_.stream_idx(0, head), block);
    std::vector<std::byte*> fetched;
    for (uint32_t head = 0; head < 2; ++head)
      for (const uint32_t block : chosen)
        fetched.push_back(kv_.fetch(cache_.stream_idx(0, head), block));
    kv_.flush_chosen(stream_);
    stream_.wait();
    for (uint32_t i = 0; i < fetched.size(); ++i) {
      const auto head = static_cast<uint32_t>(i / chosen.size());
      const uint32_t pos = chosen[i % chosen.size()] * kBlockPositions + i % kBlockPositions;
      EXPECT_EQ(read(fetched[i], pos), mark_of(text, 0, head, pos)) << "chosen, " << pos;
    }
  }
  /// What the rows attend is counted as the tables have it.
  void expect_attended(uint32_t end) {
    const DeviceKvCounts before = kv_.counts();
    kv_.attend_all();
    uint64_t n = 0, n_far = 0;
    for (uint32_t head = 0; head < 2; ++head)
      for (uint32_t pos = 0; pos < end; pos += kBlockPositions) {
        ++n;
        if (entry(0, head, pos, false) == entry(0, head, pos, true)) ++n_far;
      }
    const uint64_t block_bytes = cache_.layout().block_bytes;
    EXPECT_EQ(kv_.counts().attended_bytes - before.attended_bytes, n * block_bytes);
    EXPECT_EQ(kv_.counts().far_bytes - before.far_bytes, n_far * block_bytes);
  }
  /// Positions before `end` that a row at `row` or later may attend.
  template <class Visit>
  static void for_attended(uint32_t end, uint32_t row, const Visit& visit) {
    for (uint32_t layer = 0; layer < 2; ++layer)
      for (uint32_t head = 0; head < 2; ++head)
        for (uint32_t pos = layer == 0 || row < 40 ? 0 : row - 39; pos < end; ++pos)
          visit(layer, head, pos);
  }
  static uint8_t mark_of(const Text& text, uint32_t layer, uint32_t head, uint32_t pos) {
    return static_cast<uint8_t>(text.marks[pos] + layer * 7 + head * 3);
  }
  std::byte* entry(uint32_t layer, uint32_t head, uint32_t pos, bool is_home) {
    const DeviceKvTables tables = kv_.tables(layer);
    std::byte* const* table = is_home ? tables.homes : tables.blocks;
    std::byte* block = nullptr;
    stream_.copy(&block, table + head * tables.stride + pos / kBlockPositions, sizeof block);
    stream_.wait();
    return block;
  }
  uint8_t read(const std::byte* block, uint32_t pos) {
    uint8_t value = 0;
    stream_.copy(&value, block + pos % kBlockPositions, 1);
    stream_.wait();
    return value;
  }
  void write(std::byte* block, uint32_t pos, uint8_t value) {
    stream_.copy(block + pos % kBlockPositions, &value, 1);
    stream_.wait();
  }
  void expect_at_home(const Text& text) {
    const uint32_t n_pos = text.sequence.n_pos();
    for_attended(n_pos, n_pos, [&](uint32_t layer, uint32_t head, uint32_t pos) {
      const std::byte* block = cache_.block(text.sequence, layer, head, pos);
      ASSERT_NE(block, nullptr);
      EXPECT_EQ(static_cast<uint8_t>(block[pos % kBlockPositions]), mark_of(text, layer, head, pos))
          << "at home, " << pos;
    });
  }

  OpenDevice device_;
  Stream stream_;
  KvCache cache_;
  DeviceKv kv_;
};

TEST(DeviceKv, RowsAreOnTheDeviceAndAtHome) {
  DeviceTexts texts(DeviceTexts::context_bytes());
  Text text = texts.text();
  for (const uint32_t n_rows : {64u, 31u, 1u, 1u, 8u, 64u, 3u}) texts.step(text, n_rows, 5);
  EXPECT_EQ(texts.counts().fetched_bytes, 0u);  // all that was read had been written there
  EXPECT_EQ(texts.counts().hit_rate(), 1);
}

TEST(DeviceKv, WithoutMemoryBlocksAreUsedAtHome) {
  DeviceTexts texts(0);
  Text text = texts.text();
  for (const uint32_t n_rows : {64u, 31u, 1u, 40u}) texts.step(text, n_rows, 9);
  EXPECT_EQ(texts.counts().fetched_bytes + texts.counts().written_bytes, 0u);
  EXPECT_EQ(texts.counts().hit_rate(), 0);
}

constexpr uint64_t kHeads = 2;
uint64_t block_bytes() { return KvLayout::make(KvCodec::kF16, KvCodec::kF16, 16).block_bytes; }
uint64_t windowed_slots() {
  return kHeads * stream_blocks_max(shape().layers[1], kContext, kChunk);
}

/// Two pairs of blocks are chosen in turns, beside one that was not for long: the pairs stay.
TEST(DeviceKv, WhatWasChosenLongestAgoGivesWay) {
  DeviceTexts texts((windowed_slots() + kHeads * 7) * block_bytes());
  Text text = texts.text();
  for (int i = 0; i < 7; ++i) texts.step(text, kChunk, 3);
  const auto choose = [&](uint32_t i) {
    const uint32_t pair = i % 2 * 2;
    texts.step(text, 1, 1, std::vector{pair, pair + 1, 4 + i % 9});
  };
  for (uint32_t i = 0; i < 10; ++i) choose(i);
  const uint64_t before = texts.counts().missed_bytes;
  for (uint32_t i = 10; i < 30; ++i) choose(i);
  EXPECT_LE(texts.counts().missed_bytes - before, 20 * kHeads * block_bytes());
}

/// The windows of a text that takes no steps are no more worth than what is chosen.
TEST(DeviceKv, CopiesOfAnIdleTextGiveWay) {
  DeviceTexts texts((2 * windowed_slots() + kHeads) * block_bytes());
  Text idle = texts.text();
  Text text = texts.text();
  for (int i = 0; i < 4; ++i) texts.step(text, kChunk, 3);
  for (int i = 0; i < 2; ++i) texts.step(idle, kChunk, 5);
  for (int i = 0; i < 4; ++i) texts.step(text, 1, 1, std::vector{0u, 1u, 2u});
  const uint64_t before = texts.counts().missed_bytes;
  for (int i = 0; i < 4; ++i) texts.step(text, 1, 1, std::vector{0u, 1u, 2u});
  EXPECT_EQ(texts.counts().missed_bytes, before);
}

/// Steps, forks, cuts and ends of several texts in an order by chance, choices among them, with
/// more and less memory on the device than they need.
TEST(DeviceKv, FollowsForksAndCuts) {
  for (const uint64_t share : {0u, 1u, 2u, 12u}) {
    const uint64_t seed = std::random_device{}();
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    DeviceTexts texts(DeviceTexts::context_bytes() * share / 4);
    std::vector<Text> all;
    all.push_back(texts.text());
    for (int i = 0; i < 120 && !::testing::Test::HasFailure(); ++i) {
      Text& text = all[random() % all.size()];
      const uint32_t n_pos = text.sequence.n_pos();
      const uint64_t choice = random() % 10;
      if (choice == 0 && all.size() < 4) {
        Text copy{text.sequence.fork(), text.marks};
        all.push_back(std::move(copy));
      } else if (choice == 1 && n_pos > 0) {
        text.marks.resize(text.sequence.truncate(static_cast<uint32_t>(random() % n_pos)));
      } else if (choice == 2 && all.size() > 1) {
        std::swap(text, all.back());
        all.pop_back();
      } else {
        const auto n_rows = static_cast<uint32_t>(random() % 3 == 0 ? 1 + random() % kChunk : 1);
        std::vector<uint32_t> chosen;
        for (uint32_t block = 0; block < n_pos / kBlockPositions; ++block)
          if (n_rows <= kMirroredRows && random() % 4 == 0) chosen.push_back(block);
        if (n_pos + n_rows <= kContext)
          texts.step(text, n_rows, static_cast<uint8_t>(random()), chosen);
      }
    }
  }
}

/// A block that is taken anew is another, whose copy there is none of.
TEST(DeviceKv, ACopyIsOfABlockAndNotOfItsNumber) {
  DeviceTexts texts(DeviceTexts::context_bytes());
  tiers::BlockId block{};
  {
    Text first = texts.text();
    texts.step(first, kChunk, 1);
    block = texts.blocks(first).front();
    EXPECT_TRUE(texts.has_copy(block));
  }
  Text all = texts.text();
  texts.open(all, kChunk);
  const std::vector<tiers::BlockId> blocks = texts.blocks(all);
  ASSERT_NE(std::ranges::find(blocks, block), blocks.end());
  for (const tiers::BlockId of : blocks) EXPECT_FALSE(texts.has_copy(of));
}

}  // namespace
}  // namespace strata::engine

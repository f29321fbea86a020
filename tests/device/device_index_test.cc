// Rows of indexes in a device's memory: whatever becomes of texts and of their rows at home, a step
// finds the rows of its text there, and what was there already is not copied again.
#include "engine/device_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "cpu_attn/kernels.h"
#include "tests/device/watched_device.h"

namespace strata::engine {
namespace {

constexpr uint32_t kIndexedStep = 256;  // rows at most
constexpr uint32_t kIndexed = 9000;     // positions of a text: three slots of a stream
constexpr uint32_t kIndexedTexts = 4;   // at most, and what is shared by none counts for each
constexpr uint32_t kRowsOfStep = 2;     // that choose
// Before the first of them is asked, of a text of two slots behind one of one slot: rows in runs,
// and a table.
constexpr uint32_t kCopiesOfAStep = 5;

/// Layers 0 and 2 attend everything, layer 1 a window; two KV heads of 16 dimensions each.
ModelShape indexed_shape() {
  ModelShape out{.architecture = "llama",
                 .n_layers = 3,
                 .d_model = 64,
                 .head_dim = 16,
                 .vocab_size = 10,
                 .n_ctx_train = 16384,
                 .layers = {}};
  const LayerShape full{.n_heads = 4, .n_kv_heads = 2, .d_ff = 16};
  out.layers = {full, full, full};
  out.layers[1].kind = LayerKind::kWindow;
  out.layers[1].window = 40;
  return out;
}

/// Texts of random keys, whose indexes a device follows.
class IndexedTexts {
 public:
  IndexedTexts()
      : device_(opened()),
        stream_(Stream::create(device_)),
        selectors_(
            index::Method::kRabitq,
            index_shape(indexed_shape(), KvCodec::kF16, KvCodec::kF16, kIndexed, 2 * kIndexedTexts),
            cpu_attn::choose_kernels()),
        cache_(indexed_shape(), options(selectors_)),
        index_(device_, cache_, kIndexed) {}

  Sequence text() { return cache_.make_sequence(); }
  const DeviceIndex& index() const { return index_; }
  uint64_t tile_bytes() const { return selectors_.memory()->tile_bytes(); }
  uint32_t n_streams() const { return cache_.n_index_streams(); }

  /// To the end of so many blocks more, of random keys: the first may be open.
  void append(Sequence& sequence, uint32_t n_blocks, std::mt19937_64& random) {
    for (uint32_t n = 0; n_blocks > 0; n_blocks -= n) {
      n = std::min(n_blocks, kIndexedStep / kBlockPositions);
      const uint32_t first = sequence.n_pos() / kBlockPositions;
      const uint32_t n_rows = n * kBlockPositions - sequence.n_pos() % kBlockPositions;
      cache_.open_rows(sequence, n_rows);
      for (index::StreamIdx row = 0; row < n_streams(); ++row)
        for (uint32_t block = first; block < first + n; ++block) {
          const uint32_t layer = cache_.layer_of_index_stream(row);
          std::byte* bytes = cache_.open_block(sequence, layer, row - cache_.index_stream(layer, 0),
                                               block * kBlockPositions);
          std::span halves(reinterpret_cast<uint16_t*>(bytes), cache_.layout().block_bytes / 2);
          for (uint16_t& half : halves)  // in [1, 2) or its negative
            half = static_cast<uint16_t>((random() & 0x83ff) | 0x3c00);
          sequence.index()->observe(row, block, bytes);
        }
      cache_.close_rows(sequence, std::vector<int32_t>(n_rows, 1));
      sequence.set_n_indexed(first + n);
    }
  }

  /// The same text with an index that is read from a file, as far as that has whole extents, by
  /// readers who work beside each other.
  Sequence loaded(const Sequence& from) {
    Sequence to = from.fork(/*has_index=*/false);
    to.attach_index(selectors_.make());
    const uint32_t n_segments = from.index()->n_segments(0), n_full = to.n_pos() / kBlockPositions;
    ThreadPool pool(3);
    pool.for_each(uint64_t{n_streams()} * n_segments, 1, [&](uint64_t i, uint64_t end, uint32_t) {
      std::vector<std::byte> segment(to.index()->segment_bytes());
      for (; i < end; ++i) {
        const auto row = static_cast<index::StreamIdx>(i / n_segments);
        from.index()->copy_segment(row, static_cast<uint32_t>(i % n_segments), segment);
        to.index()->load_segment(row, static_cast<uint32_t>(i % n_segments), segment);
      }
    });
    for (index::StreamIdx row = 0; row < n_streams(); ++row) {
      const uint32_t layer = cache_.layer_of_index_stream(row);
      const auto all =
          cache_.stream_blocks(from, layer, row - cache_.index_stream(layer, 0)).blocks;
      for (uint32_t block = n_segments * kExtentBlocks; block < n_full; ++block)
        to.index()->observe(row, block, cache_.store().bytes(all[block]));
    }
    to.set_n_indexed(n_full);
    return to;
  }

  bool has_rows(const Sequence& sequence) {
    index_.begin_step(stream_, sequence);
    return index_.has_rows();
  }
  /// A step finds the rows that are at home.
  void expect_rows(const Sequence& sequence) {
    index_.begin_step(stream_, sequence);
    ASSERT_TRUE(index_.has_rows());
    const uint32_t n_tiles =
        (sequence.n_pos() / kBlockPositions + kExtentBlocks - 1) / kExtentBlocks;
    expected_ = &sequence;
    n_tiles_ = 0;
    for (const uint32_t layer : {0u, 2u}) {
      layer_ = layer;
      const BlockWeights weights =
          index_.scan(stream_, layer, kRowsOfStep, reinterpret_cast<const float*>(this));
      stream_.wait();
      EXPECT_GE(weights.stride, n_tiles * kExtentBlocks);
      // Of the last query of the last KV head: what the kernel has left there has come.
      if (n_tiles == 0) continue;
      EXPECT_EQ(weights.values[7 * weights.stride], 7.0f + static_cast<float>(layer));
    }
    EXPECT_EQ(n_tiles_, n_streams() * n_tiles);
  }

 private:
  static KvCacheOptions options(const index::SelectorSource& selectors) {
    KvCacheOptions of{.chunk_rows = kIndexedStep, .n_ctx = kIndexed, .selectors = &selectors};
    of.budget_bytes =
        2 * kIndexedTexts *
        kv_bytes_for_context(indexed_shape(), KvCodec::kF16, KvCodec::kF16, kIndexed, kIndexedStep);
    return of;
  }
  /// One whose scan looks at rows: the queries, which it does not read, say for which texts.
  static OpenDevice opened() {
    testing::watch() = {};
    static const DeviceTable looking = [] {
      DeviceTable table = testing::watched_device();
      table.kernels.scan_codes = [](DeviceStream*, const DeviceScanArgs& args) {
        return reinterpret_cast<IndexedTexts*>(const_cast<float*>(args.q))->look(args);
      };
      return table;
    }();
    return OpenDevice::open(looking, 0);
  }
  int look(const DeviceScanArgs& args) {
    EXPECT_EQ(args.n_queries, 2 * kRowsOfStep);
    EXPECT_EQ(args.n_kv_heads, 2u);
    for (uint32_t head = 0; head < args.n_kv_heads; ++head) {
      const auto home =
          expected_->index()->rotated_codes()->tiles(cache_.index_stream(layer_, head));
      for (uint32_t i = 0; i < args.n_tiles; ++i, ++n_tiles_)
        EXPECT_EQ(std::memcmp(args.tiles[head * args.tile_stride + i], home[i], tile_bytes()), 0)
            << "layer " << layer_ << " head " << head << " tile " << i;
      for (uint32_t query = 0; query < args.n_queries; ++query)
        args.block_scores[(head * args.n_queries + query) * args.score_stride] =
            static_cast<float>(head * args.n_queries + query + layer_);
    }
    return 0;
  }

  OpenDevice device_;
  Stream stream_;
  index::SelectorSource selectors_;
  KvCache cache_;
  DeviceIndex index_;
  const Sequence* expected_ = nullptr;
  uint32_t layer_ = 0, n_tiles_ = 0;
};

TEST(DeviceIndex, FollowsTextsThatForkAreCutAndGrowAgain) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  IndexedTexts all;
  std::vector<Sequence> texts;
  texts.push_back(all.text());
  for (uint32_t round = 0; round < 400; ++round) {
    const size_t at = random() % texts.size();
    switch (random() % 5) {
      case 0:
        if (texts.size() < kIndexedTexts)
          texts.push_back(texts[at].fork());
        else
          texts.erase(texts.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 1:
        texts[at].truncate(static_cast<uint32_t>(random() % (texts[at].n_pos() + 1)));
        break;
      case 2:
        if (texts.size() < kIndexedTexts) texts.push_back(all.loaded(texts[at]));
        break;
      default: {
        const uint32_t n = 1 + static_cast<uint32_t>(random() % 40);
        if (texts[at].n_pos() + n * kBlockPositions <= kIndexed) all.append(texts[at], n, random);
      }
    }
    if (random() % 3 == 0) all.expect_rows(texts[random() % texts.size()]);
  }
  for (const Sequence& text : texts) all.expect_rows(text);
}

/// A token that closes no block costs nothing, one that does a tile of each stream, a text that had
/// its turn before a table.
TEST(DeviceIndex, CopiesWhatHasChanged) {
  std::mt19937_64 random(1);
  IndexedTexts all;
  Sequence first = all.text(), second = all.text();
  all.append(first, 140, random);  // a slot and a bit
  all.append(second, 20, random);
  const auto copied = [&](const Sequence& text) {
    const uint64_t before = all.index().counts().row_bytes;
    all.expect_rows(text);
    return (all.index().counts().row_bytes - before) / all.tile_bytes() / all.n_streams();
  };
  EXPECT_EQ(copied(first), 18u);
  EXPECT_EQ(copied(first), 0u);
  EXPECT_EQ(copied(second), 3u);
  EXPECT_EQ(copied(first), 0u);
  all.append(first, 1, random);
  EXPECT_EQ(copied(first), 1u);
  EXPECT_EQ(copied(second), 0u);
  Sequence fork = second.fork();
  EXPECT_EQ(copied(fork), 0u);
  all.append(fork, 1, random);  // in a slot of its own
  EXPECT_EQ(copied(fork), 3u);
}

/// Of another memory, and of another method.
TEST(DeviceIndex, HasNothingOfATextWhoseRowsAreElsewhere) {
  std::mt19937_64 random(2);
  IndexedTexts all;
  Sequence text = all.text();
  all.append(text, 3, random);
  for (const index::Method method : {index::Method::kRabitq, index::Method::kQuest}) {
    const index::SelectorSource other(
        method, index_shape(indexed_shape(), KvCodec::kF16, KvCodec::kF16, kIndexed),
        cpu_attn::choose_kernels());
    Sequence elsewhere = text.fork(/*has_index=*/false);
    elsewhere.attach_index(other.make());
    EXPECT_FALSE(all.has_rows(elsewhere));
  }
  EXPECT_TRUE(all.has_rows(text));
  EXPECT_FALSE(all.has_rows(text.fork(/*has_index=*/false)));
  EXPECT_EQ(all.index().counts().row_bytes, all.n_streams() * all.tile_bytes());
}

/// What was refused is not taken for copied: of rows of two slots in runs, and of the table.
TEST(DeviceIndex, CopiesAgainWhatADeviceHadNoRoomToCopy) {
  uint32_t n_refused = 0;
  for (;; ++n_refused) {
    SCOPED_TRACE(n_refused);
    std::mt19937_64 random(3);
    IndexedTexts all;
    Sequence other = all.text(), text = all.text();
    all.append(other, 20, random);
    all.append(text, 150, random);
    all.expect_rows(other);
    testing::watch().refused_copy = n_refused + 1;
    try {
      all.expect_rows(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    }
    if (testing::watch().refused_copy > 0) break;  // there were fewer
    // Weights of a layer are brought behind the table: then the rows are there.
    EXPECT_EQ(all.index().has_rows(), n_refused >= kCopiesOfAStep);
    testing::watch().refused_copy = 0;
    all.expect_rows(text);
    all.append(text, 1, random);
    all.expect_rows(text);
    all.expect_rows(other);
  }
  EXPECT_EQ(n_refused, kCopiesOfAStep + 2);
}

/// What is said of memory is what is taken.
TEST(DeviceIndex, TakesTheMemoryThatIsPlanned) {
  const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, indexed_shape().head_dim);
  for (const uint32_t n_answers : {1u, 3u}) {
    SCOPED_TRACE(n_answers);
    testing::watch() = {};
    const OpenDevice device = OpenDevice::open(testing::watched_device(), 0);
    const index::SelectorSource selectors(
        index::Method::kRabitq,
        index_shape(indexed_shape(), KvCodec::kF16, KvCodec::kF16, kIndexed, n_answers),
        cpu_attn::choose_kernels());
    KvCacheOptions of{.chunk_rows = kIndexedStep, .n_ctx = kIndexed, .selectors = &selectors};
    of.budget_bytes =
        kv_bytes_for_context(indexed_shape(), KvCodec::kF16, KvCodec::kF16, kIndexed, kIndexedStep);
    const KvCache cache(indexed_shape(), of);
    const DeviceIndex index(device, cache, kIndexed);
    EXPECT_EQ(testing::watch().allocated_bytes,
              DeviceIndex::memory_bytes(indexed_shape(), layout, kIndexed, n_answers,
                                        index::Method::kRabitq));
    // Of DRAM beside the rows: what is pinned, an edition of each slot and tile, and a table.
    const index::TileMemory& rows = *selectors.memory();
    EXPECT_EQ(testing::watch().pinned_bytes() - rows.arena().size() +
                  uint64_t{rows.n_slots()} * 17 * sizeof(uint64_t) +
                  cache.n_index_streams() * 3 * sizeof(uint32_t),
              DeviceIndex::host_bytes(indexed_shape(), layout, kIndexed, n_answers,
                                      index::Method::kRabitq));
  }
}

/// Rows, tables of whole slots, and per query head a weight of each block of whole tiles.
TEST(DeviceIndex, CountsWhatCrossesTheLink) {
  std::mt19937_64 random(4);
  IndexedTexts all;
  Sequence text = all.text();
  all.append(text, 140, random);
  for (uint64_t step = 1; step <= 2; ++step) {
    all.expect_rows(text);
    const DeviceIndexCounts& counts = all.index().counts();
    EXPECT_EQ(counts.row_bytes, 18 * all.n_streams() * all.tile_bytes());
    EXPECT_EQ(counts.table_bytes % (all.n_streams() / 4 * 16 * 8), 0u);
    EXPECT_GE(counts.table_bytes, all.n_streams() * 2 * 16 * 8);
    EXPECT_EQ(counts.to_device_bytes(), counts.row_bytes + counts.table_bytes);
    EXPECT_EQ(counts.weight_bytes, step * 2 * (4 * kRowsOfStep * 18 * kExtentBlocks * 4));
  }
}

TEST(DeviceIndex, TakesNoMemoryWhereTheHostEstimates) {
  const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, indexed_shape().head_dim);
  for (const index::MethodName& of : index::method_names()) {
    SCOPED_TRACE(of.name);
    const bool is_scanned = of.method == index::Method::kRabitq;
    EXPECT_EQ(DeviceIndex::memory_bytes(indexed_shape(), layout, kIndexed, 1, of.method) > 0,
              is_scanned);
    EXPECT_EQ(DeviceIndex::host_bytes(indexed_shape(), layout, kIndexed, 1, of.method) > 0,
              is_scanned);
  }
  EXPECT_EQ(DeviceIndex::memory_bytes(indexed_shape(), layout, kIndexed, 1, std::nullopt), 0u);
  // Nor where heads are longer than the kernel takes, or none attends everything.
  ModelShape other = indexed_shape();
  other.head_dim = kDeviceScanHeadDimMax + 32;
  const KvLayout wide = KvLayout::make(KvCodec::kF16, KvCodec::kF16, other.head_dim);
  EXPECT_EQ(DeviceIndex::memory_bytes(other, wide, kIndexed, 1, index::Method::kRabitq), 0u);
  other = indexed_shape();
  for (LayerShape& layer : other.layers) layer.window = 40;
  EXPECT_EQ(DeviceIndex::memory_bytes(other, layout, kIndexed, 1, index::Method::kRabitq), 0u);
}

}  // namespace
}  // namespace strata::engine

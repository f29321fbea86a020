// Attention on both sides of the link, by the emulator: the end of a text by the CPU, beside the
// device, against the double-precision reference; and that nothing but the plan and the length of
// a text says who attends what.
#include "engine/device_beside.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/device/device_run.h"
#include "tests/engine/zoo_distance.h"

namespace strata::engine {
namespace {

using testing::DeviceRun;
using testing::LoadedMember;
using testing::Logits;
using testing::random_tokens;
using testing::WalkSetting;

constexpr uint32_t kBesideSeed = 20261128;
constexpr uint32_t kTextTokens = 560;  // tokens: eighteen blocks, three segments

WalkSetting beside_setting(uint32_t n_ctx, uint32_t n_threads = 1) {
  WalkSetting of{.kernels = cpu_attn::available_kernels().back(),
                 .n_threads = n_threads,
                 .chunk_rows = kDeviceFewRows,
                 .n_ctx = n_ctx};
  of.n_sequences = 3;
  return of;
}

/// The least budget at which no weights pass and full layers have room for n_segments of a text.
uint64_t hbm_with(const DeviceRun& whole, const ModelShape& shape, const KvLayout& layout,
                  uint64_t n_segments) {
  return whole.plan().hbm_bytes - whole.plan().kv_bytes +
         n_segments * kExtentBlocks * testing::n_full_streams(shape) * layout.block_bytes;
}

struct Shared {
  Shared(const LoadedMember& member, const WalkSetting& of, double cpu_share, uint64_t n_segments)
      : whole(member, of),
        run(member, of,
            hbm_with(whole, member.model.shape(), whole.walk().cache().layout(), n_segments),
            gpu_emu::emulated_device(), cpu_share) {}
  DeviceRun whole, run;
};

ModelShape shape_of(std::vector<LayerShape> layers) {
  ModelShape shape{.architecture = "llama",
                   .n_layers = static_cast<uint32_t>(layers.size()),
                   .d_model = 64,
                   .head_dim = 16,
                   .vocab_size = 10,
                   .n_ctx_train = 4096,
                   .layers = {}};
  shape.layers = std::move(layers);
  return shape;
}

DevicePlan with_kv(uint64_t kv_bytes) {
  DevicePlan plan;
  plan.kv_bytes = kv_bytes;
  return plan;
}

TEST(AttentionShares, RoomIsDividedInSegmentsAndWindowsComeFirst) {
  constexpr uint64_t kBlock = 1000;
  constexpr LayerShape kFull{.n_heads = 4, .n_kv_heads = 2, .d_ff = 16};
  constexpr LayerShape kWindow{
      .kind = LayerKind::kWindow, .n_heads = 4, .n_kv_heads = 2, .d_ff = 16, .window = 40};
  const ModelShape shape = shape_of({kFull, kWindow, kFull, kFull});
  const uint64_t windowed = 2 * stream_blocks_max(kWindow, 1024, 64);
  const auto near = [&](uint64_t n_slots) {
    return share_attention(shape, with_kv(n_slots * kBlock + kBlock - 1), kBlock, 1024, 64)
        .near_blocks;
  };
  EXPECT_EQ(near(0), (std::vector<uint32_t>{0, 32, 0, 0}));
  EXPECT_EQ(near(windowed + 2 * 8 - 1), (std::vector<uint32_t>{0, 32, 0, 0}));
  EXPECT_EQ(near(windowed + 2 * 8), (std::vector<uint32_t>{8, 32, 0, 0}));
  EXPECT_EQ(near(windowed + 5 * 2 * 8), (std::vector<uint32_t>{16, 32, 16, 8}));
  EXPECT_EQ(near(windowed + 3 * 2 * 32 - 1), (std::vector<uint32_t>{32, 32, 32, 24}));
  EXPECT_EQ(near(windowed + 3 * 2 * 32), (std::vector<uint32_t>{32, 32, 32, 32}));
  // Of a context that ends within a segment.
  const auto of_odd =
      share_attention(shape, with_kv((windowed + 3 * 2 * 8) * kBlock), kBlock, 260, 64);
  EXPECT_EQ(of_odd.near_blocks, (std::vector<uint32_t>{8, 9, 8, 8}));
}

TEST(AttentionShares, TheCpusPartIsTheEndInWholeSegments) {
  const auto device_blocks = [](double of_cpu, uint32_t n_blocks) {
    return AttentionShares{.near_blocks = {16}, .of_cpu = of_cpu}.device_blocks(0, n_blocks);
  };
  for (const uint32_t n : {1u, 15u, 16u}) EXPECT_EQ(device_blocks(1, n), n);
  for (const uint32_t n : {17u, 24u, 25u, 100u}) EXPECT_EQ(device_blocks(1, n), 16u);
  for (const uint32_t n : {17u, 24u, 25u, 100u}) EXPECT_EQ(device_blocks(0, n), n);
  EXPECT_EQ(device_blocks(0.5, 32), 24u);  // of two segments one
  EXPECT_EQ(device_blocks(0.5, 33), 32u);  // of three the third, which has begun
  EXPECT_EQ(device_blocks(0.7, 96), 40u);
  EXPECT_EQ(device_blocks(0.01, 96), 96u);
}

/// No K and V have room on the device, and all weights stay.
TEST(DeviceBeside, TheCpuMayAttendAllOfEveryMemberOfTheZoo) {
  for (const auto& of : makers::zoo()) {
    for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0}) {
      if (codec == KvCodec::kQ8_0 && of.model.head_dim % 32 != 0) continue;
      SCOPED_TRACE(of.model.name + " " + kv_codec_name(codec));
      const LoadedMember member(of.model.name);
      const ModelShape& shape = member.model.shape();
      WalkSetting walked = beside_setting(128);
      walked.k_codec = walked.v_codec = codec;
      const auto tokens = random_tokens(100, of.model.vocab_size, kBesideSeed);
      const auto reference = testing::reference_of(member.file, tokens, codec);
      Shared shared(member, walked, 1, 0);
      EXPECT_EQ(shared.run.plan().n_streamed(), 0u);
      testing::expect_near(shared.run.walk().feed_all(tokens), reference);
      const DeviceKvCounts& counts = shared.run.device().kv_counts();
      EXPECT_EQ(counts.far_bytes, 0u);
      EXPECT_EQ(counts.cpu_bytes, counts.attended_bytes);
      EXPECT_EQ(counts.cpu_bytes > 0, testing::n_full_streams(shape) > 0);
    }
  }
}

/// A segment near, and of two behind it both, one or none by the CPU, with one thread and three.
TEST(DeviceBeside, TheEndOfATextIsTheCpus) {
  const LoadedMember member("llama3");
  const auto tokens = member.text(kTextTokens, kBesideSeed);
  const auto reference = testing::reference_of(member.file, tokens);
  for (const double cpu_share : {0.0, 0.5, 1.0}) {
    SCOPED_TRACE(cpu_share);
    Shared shared(member, beside_setting(640), cpu_share, 1);
    const Logits logits = shared.run.walk().feed_all(tokens);
    testing::expect_near(logits, reference);
    uint64_t n_cpu = 0, n_far = 0;  // blocks of one stream, of steps of eight rows
    for (uint32_t end = kDeviceFewRows; end <= kTextTokens; end += kDeviceFewRows) {
      const uint64_t n_blocks = blocks_for(end);
      const uint64_t behind = n_blocks - std::min<uint64_t>(n_blocks, 8);
      const uint64_t of_cpu = cpu_share == 1.0   ? behind
                              : cpu_share == 0.0 ? 0
                              : n_blocks <= 16   ? 0
                                                 : n_blocks - 16;
      n_cpu += of_cpu;
      n_far += behind - of_cpu;
    }
    const uint64_t stream_bytes = testing::n_full_streams(member.model.shape()) *
                                  shared.run.walk().cache().layout().block_bytes;
    const DeviceKvCounts& counts = shared.run.device().kv_counts();
    EXPECT_EQ(counts.cpu_bytes, n_cpu * stream_bytes);
    EXPECT_EQ(counts.far_bytes, n_far * stream_bytes);
    EXPECT_LT(counts.hit_rate(), 1);
    Shared threads(member, beside_setting(640, 3), cpu_share, 1);
    EXPECT_TRUE(testing::is_same(threads.run.walk().feed_all(tokens), logits));
  }
}

/// Eight rows of which four stand before the cut, where the CPU has nothing for them to attend, and
/// four behind it.
TEST(DeviceBeside, AStepMayStraddleTheCut) {
  const LoadedMember member("llama3");
  const auto tokens = member.text(kSegmentPositions + 4, kBesideSeed);
  const auto reference = testing::reference_of(member.file, tokens);
  Shared shared(member, beside_setting(400), 1, 1);
  Sequence sequence = shared.run.walk().sequence();
  Logits logits = shared.run.walk().feed(sequence, std::span(tokens).first(252));
  EXPECT_EQ(shared.run.device().kv_counts().cpu_bytes, 0u);
  for (auto& row : shared.run.walk().feed(sequence, std::span(tokens).subspan(252)))
    logits.push_back(std::move(row));
  // Of one step, the block behind the segment.
  EXPECT_EQ(shared.run.device().kv_counts().cpu_bytes,
            testing::n_full_streams(member.model.shape()) *
                shared.run.walk().cache().layout().block_bytes);
  testing::expect_near(logits, reference);
}

/// Rows of two texts in one step, each with a part of the CPU's.
TEST(DeviceBeside, TwoTextsOfAStepAreAttendedAsEachAlone) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const std::vector<int32_t> texts[] = {member.text(321, kBesideSeed),
                                          member.text(290, kBesideSeed + 1)};
    const auto fed = [](DeviceRun& run, const std::vector<int32_t>& text) {
      Sequence sequence = run.walk().sequence();
      run.walk().feed(sequence, std::span(text).first(text.size() - 1));
      return sequence;
    };
    Logits expected;
    uint64_t expected_bytes = 0;
    for (const auto& text : texts) {
      Shared alone(member, beside_setting(400), 1, 1);
      Sequence sequence = fed(alone.run, text);
      const uint64_t before = alone.run.device().kv_counts().cpu_bytes;
      const std::vector<StepRow> row{{&sequence, text.back(), true}};
      for (auto& logits : alone.run.walk().step(row)) expected.push_back(std::move(logits));
      const uint64_t bytes = alone.run.device().kv_counts().cpu_bytes - before;
      EXPECT_GT(bytes, 0u);
      expected_bytes += bytes;
    }
    Shared both(member, beside_setting(400), 1, 1);
    Sequence first = fed(both.run, texts[0]);
    Sequence second = fed(both.run, texts[1]);
    const uint64_t before = both.run.device().kv_counts().cpu_bytes;
    const std::vector<StepRow> rows{{&first, texts[0].back(), true},
                                    {&second, texts[1].back(), true}};
    EXPECT_TRUE(testing::is_same(both.run.walk().step(rows), expected));
    EXPECT_EQ(both.run.device().kv_counts().cpu_bytes - before, expected_bytes);
  }
}

/// Other texts hold the device's memory, the text is a fork, it was cut: its bits are those of one
/// that is alone.
TEST(DeviceBeside, WhatRanBeforeChangesNoBit) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(360, kBesideSeed);
    const auto other = member.text(300, kBesideSeed + 1);
    const auto head = std::span(text).first(320);
    const auto tail = std::span(text).subspan(320);
    Shared alone(member, beside_setting(400), 1, 1);
    Sequence first = alone.run.walk().sequence();
    alone.run.walk().feed(first, head);
    const Logits expected = alone.run.walk().feed(first, tail);
    EXPECT_GT(alone.run.device().kv_counts().cpu_bytes, 0u);

    Shared busy(member, beside_setting(400), 1, 1);
    Sequence idle = busy.run.walk().sequence();
    busy.run.walk().feed(idle, other);
    Sequence second = busy.run.walk().sequence();
    busy.run.walk().feed(second, head);
    Sequence fork = second.fork();
    EXPECT_TRUE(testing::is_same(busy.run.walk().feed(second, tail), expected));
    EXPECT_TRUE(testing::is_same(busy.run.walk().feed(fork, tail), expected));
    const uint32_t n_kept = fork.truncate(320);
    const Logits again = busy.run.walk().feed(fork, std::span(text).subspan(n_kept));
    EXPECT_TRUE(testing::is_same(std::span(again).subspan(320 - n_kept), expected));
  }
}

/// Memory that comes free goes to the beginning of every layer's text, not to all of the first's.
TEST(DeviceBeside, OnlyTheBeginningOfATextGetsCopies) {
  const LoadedMember member("llama3");
  const auto text = member.text(322, kBesideSeed);
  Shared shared(member, beside_setting(400), 1, 1);
  Sequence sequence = shared.run.walk().sequence();
  {
    Sequence idle = shared.run.walk().sequence();
    shared.run.walk().feed(idle, std::span(text).first(300));
    shared.run.walk().feed(sequence, std::span(text).first(320));
  }
  Sequence fork = sequence.fork();  // its tables are made anew, layer by layer
  shared.run.walk().feed(fork, std::span(text).subspan(320));
  const KvCache& cache = shared.run.walk().cache();
  for (uint32_t layer = 0; layer < cache.shape().n_layers; ++layer)
    for (uint32_t head = 0; head < cache.shape().layers[layer].n_kv_heads; ++head) {
      const auto blocks = cache.stream_blocks(fork, layer, head).blocks;
      for (uint32_t i = 0; i < blocks.size(); ++i)
        EXPECT_EQ(shared.run.device().has_copy(blocks[i]), i < 8)
            << layer << " " << head << " " << i;
    }
}

/// The flag comes up while the first layer attends.
TEST(DeviceBeside, AStepThatIsStoppedLeavesTheSequenceAsItWas) {
  static std::atomic<bool> is_stopped;
  const LoadedMember member("llama3");
  const auto text = member.text(101, kBesideSeed);
  DeviceTable stopping = gpu_emu::emulated_device();
  stopping.kernels.attend = [](DeviceStream* stream, const DeviceAttendArgs& args) {
    is_stopped = true;
    return gpu_emu::emulated_device().kernels.attend(stream, args);
  };
  Shared calm(member, beside_setting(128), 1, 0);
  Sequence fresh = calm.run.walk().sequence();
  calm.run.walk().feed(fresh, std::span(text).first(100));
  const std::vector<StepRow> fresh_rows{{&fresh, text[100], true}};
  const Logits expected = calm.run.walk().step(fresh_rows);
  DeviceRun run(member, beside_setting(128), calm.run.plan().hbm_bytes, stopping, 1);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(100));
  run.walk().walk().set_cancel(&is_stopped);
  const std::vector<StepRow> rows{{&sequence, text[100], true}};
  is_stopped = false;
  EXPECT_THROW(run.walk().step(rows), Error);
  run.walk().walk().set_cancel(nullptr);
  EXPECT_EQ(sequence.n_pos(), 100u);
  EXPECT_TRUE(testing::is_same(run.walk().step(rows), expected));
}

}  // namespace
}  // namespace strata::engine

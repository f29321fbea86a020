// Steps on a device, by the emulator, against the double-precision reference and against each
// other.
#include "engine/device_walk.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <cmath>
#include <string>

#include "engine/context_size.h"
#include "gpu_attn/decode_step.h"
#include "tests/device/device_run.h"
#include "tests/engine/zoo_distance.h"

namespace strata::engine {
namespace {

using testing::DeviceRun;
using testing::least_hbm;
using testing::LoadedMember;
using testing::Logits;
using testing::random_tokens;
using testing::WalkSetting;

constexpr uint32_t kSeed = 20261126;

/// A model that is no member of the zoo.
struct LoadedModel {
  explicit LoadedModel(const makers::RandomTransformer& of)
      : written(of), file(written.open()), model(testing::load_model(file)) {}
  testing::ModelFile written;
  GgufFile file;
  Model model;
};

WalkSetting walk_setting(uint32_t chunk_rows = 24) {
  return {.kernels = cpu_attn::available_kernels().back(), .chunk_rows = chunk_rows, .n_ctx = 128};
}

void expect_agreement(const makers::ZooMember& of, KvCodec codec, uint32_t chunk_rows) {
  SCOPED_TRACE(of.model.name);
  const LoadedMember member(of.model.name);
  WalkSetting walked = walk_setting(chunk_rows);
  walked.k_codec = walked.v_codec = codec;
  const auto tokens = random_tokens(100, of.model.vocab_size, kSeed);
  const auto reference = testing::reference_of(member.file, tokens, codec);
  DeviceRun run(member, walked);
  const Logits logits = run.walk().feed_all(tokens);
  ASSERT_EQ(logits.size(), reference.size());
  const testing::Distance distance = testing::distance_of(logits, reference);
  std::printf("%-18s found %.2f, at most %.1f\n", of.model.name.c_str(), distance.root_mean_square,
              distance.largest);
  EXPECT_LE(distance.root_mean_square, oracle::kDeviationsOverall);
  EXPECT_LE(distance.largest, oracle::kDeviations);
}

TEST(DeviceWalk, HostMemoryStaysWithinWhatIsCounted) {
  for (const auto& of : makers::zoo()) {
    SCOPED_TRACE(of.model.name);
    const LoadedMember member(of.model.name);
    const ModelShape& shape = member.model.shape();
    const auto described =
        describe_for_device(member.file, member.model.spec(),
                            KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape.head_dim));
    for (const uint32_t n_rows : {1u, 32u, 512u}) {
      const uint64_t logits =
          uint64_t{std::min(n_rows, kDeviceFewRows)} * shape.vocab_size * sizeof(float);
      const uint64_t inputs = gpu_attn::DeviceStepInputs::max_bytes(described, n_rows) + logits;
      const uint64_t beside = DeviceBeside::host_bytes(shape) + DeviceProducts::host_bytes(shape);
      EXPECT_LE(HostMemory::reserve(inputs).size(), device_buffer_bytes(shape, n_rows, false));
      EXPECT_LE(HostMemory::reserve(inputs + beside).size(),
                device_buffer_bytes(shape, n_rows, true));
      EXPECT_EQ(device_buffer_bytes(shape, n_rows, true),
                device_buffer_bytes(shape, n_rows, false) + beside);
    }
  }
}

TEST(DeviceWalk, EveryMemberOfTheZooAgreesWithTheReference) {
  for (const auto& member : makers::zoo()) expect_agreement(member, KvCodec::kF16, kDeviceFewRows);
}

TEST(DeviceWalk, RowByRowToo) {
  for (const auto& member : makers::zoo()) expect_agreement(member, KvCodec::kF16, 1);
}

/// All bits of the logits: of weights that stay and that pass, of K and V in the device's memory
/// and read across the link.
TEST(DeviceWalk, WhereBytesLieChangesNoBit) {
  for (const char* name : {"llama3", "gemma3", "llama-quantised"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto tokens = member.text(90, kSeed);
    DeviceRun all(member, walk_setting(kDeviceFewRows));
    const Logits expected = all.walk().feed_all(tokens);
    DeviceRun passing(member, walk_setting(kDeviceFewRows), least_hbm(all.needs()));
    EXPECT_EQ(passing.plan().n_streamed(), member.model.shape().n_layers);
    EXPECT_EQ(passing.plan().kv_bytes, 0u);
    EXPECT_TRUE(testing::is_same(passing.walk().feed_all(tokens), expected));
    EXPECT_GT(passing.device().streamed_bytes(), 0u);
    DeviceRun some(member, walk_setting(kDeviceFewRows),
                   all.plan().hbm_bytes - all.plan().kv_bytes / 3 * 2);
    EXPECT_EQ(some.plan().n_streamed(), 0u);
    EXPECT_GT(some.plan().kv_bytes, 0u);
    EXPECT_TRUE(testing::is_same(some.walk().feed_all(tokens), expected));
  }
}

TEST(DeviceWalk, ForksAndCutsContinueAsFreshTextsDo) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(100, kSeed);
    DeviceRun run(member, [] {
      WalkSetting of = walk_setting(kDeviceFewRows);
      of.n_sequences = 3;
      return of;
    }());
    const auto head = std::span(text).first(70);
    const auto tail = std::span(text).subspan(70);
    Sequence first = run.walk().sequence();
    run.walk().feed(first, head);
    Sequence second = first.fork();
    const Logits expected = run.walk().feed(first, tail);
    EXPECT_TRUE(testing::is_same(run.walk().feed(second, tail), expected));
    const uint32_t n_kept = second.truncate(70);
    const Logits again = run.walk().feed(second, std::span(text).subspan(n_kept));
    EXPECT_TRUE(testing::is_same(std::span(again).subspan(70 - n_kept), expected));
    const Logits fresh = run.walk().feed_all(text);
    EXPECT_TRUE(testing::is_same(std::span(fresh).subspan(70), expected));
  }
}

/// Chunks go through f16, decoding does not: relative errors of 2^-11 per product and matrix, about
/// 2e-3 of the logits' size after seven matrices in each of three layers; ten times that is
/// allowed.
TEST(DeviceWalk, ChunksAgreeWithSingleRows) {
  for (const char* name : {"llama3", "qwen3", "gemma3"}) {
    SCOPED_TRACE(name);
    makers::RandomTransformer model = makers::zoo_member(name).model;
    model.d_model = 64;  // the tensor cores take 32 inputs at a time
    model.d_ff = 96;
    const LoadedModel member(model);
    const auto tokens = random_tokens(100, model.vocab_size, kSeed);
    DeviceRun few(member, walk_setting(kDeviceFewRows));
    const Logits expected = few.walk().feed_all(tokens);
    DeviceRun many(member, walk_setting(40));
    Sequence sequence = many.walk().sequence();
    for (uint32_t done = 0; done < 100; done += 20) {
      std::vector<StepRow> rows;
      for (uint32_t i = done; i < done + 20; ++i)
        rows.push_back({&sequence, tokens[i], i % 5 == 4});
      const Logits logits = many.walk().step(rows);
      ASSERT_EQ(logits.size(), 4u);
      for (uint32_t i = 0; i < 4; ++i) {
        const auto& wanted = expected[done + 5 * i + 4];
        double square = 0, difference = 0;
        for (size_t j = 0; j < wanted.size(); ++j) {
          square += double{wanted[j]} * wanted[j];
          difference += std::pow(double{wanted[j]} - logits[i][j], 2);
        }
        EXPECT_LT(std::sqrt(difference / square), 0.02) << done << " " << i;
      }
    }
  }
}

TEST(DeviceWalk, AndOverAQuantisedCache) {
  for (const auto& member : makers::zoo())
    if (member.model.head_dim % 32 == 0) expect_agreement(member, KvCodec::kQ8_0, kDeviceFewRows);
}

}  // namespace
}  // namespace strata::engine

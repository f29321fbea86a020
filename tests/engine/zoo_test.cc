// Every member of the zoo against the double-precision reference. Tolerances: estimate.h.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "engine/text/tokenizer.h"
#include "tests/engine/zoo_distance.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/oracle/reference_forward.h"

namespace strata::engine {
namespace {

using testing::Distance;
using testing::distance_of;
using testing::load_model;
using testing::Logits;
using testing::ModelFile;
using testing::random_tokens;
using testing::walked_isas;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kZooSeed = 20241125;
// Past a segment of 256 positions, and past window + chunk several times.
constexpr uint32_t kTextTokens = 280;
constexpr uint32_t kShortTextTokens = 120;
constexpr uint32_t kChunkRows = 32;

/// Root of the mean square of the reference's logits, and of their deviations.
std::pair<double, double> sizes(const std::vector<oracle::Estimates>& reference) {
  double value = 0, variance = 0, n = 0;
  for (const auto& row : reference)
    for (const oracle::Estimate& logit : row) {
      value += logit.value * logit.value;
      variance += logit.variance;
      n += 1;
    }
  return {std::sqrt(value / n), std::sqrt(variance / n)};
}

/// Walks a member's text by every instruction set and compares every logit.
void expect_agreement(const makers::ZooMember& member, KvCodec k_codec, KvCodec v_codec,
                      uint32_t n_tokens, const RopeOverrides& overrides = {}) {
  SCOPED_TRACE(member.model.name + ", seed " + std::to_string(kZooSeed));
  const ModelFile written(member.model);
  const GgufFile file = written.open();
  const Model model = load_model(file, overrides);
  const auto tokens = random_tokens(n_tokens, member.model.vocab_size, kZooSeed);
  const auto reference = oracle::reference_logits(
      oracle::read_reference_model(file, static_cast<uint32_t>(overrides.n_ctx)), tokens,
      {oracle::resting(k_codec), oracle::resting(v_codec)});
  const auto [size, deviation] = sizes(reference);
  EXPECT_GT(size, 0.5) << "logits too small to tell a mistake";
  std::printf("%-18s logits %.2f, deviation %.1e, found", member.model.name.c_str(), size,
              deviation);
  for (const KernelTable* kernels : walked_isas()) {
    SCOPED_TRACE(kernels->name);
    ZooWalk walk(
        model,
        {.kernels = kernels, .chunk_rows = kChunkRows, .k_codec = k_codec, .v_codec = v_codec});
    const Logits logits = walk.feed_all(tokens);
    ASSERT_EQ(logits.size(), reference.size());
    const Distance distance = distance_of(logits, reference);
    std::printf("  %s %.2f, at most %.1f", kernels->name, distance.root_mean_square,
                distance.largest);
    EXPECT_LE(distance.root_mean_square, oracle::kDeviationsOverall);
    EXPECT_LE(distance.largest, oracle::kDeviations);
  }
  std::printf("\n");
}

TEST(Zoo, EveryMemberAgreesWithTheReference) {
  for (const auto& member : makers::zoo())
    expect_agreement(member, KvCodec::kF16, KvCodec::kF16, kTextTokens);
}

TEST(Zoo, EveryMemberAgreesWithTheReferenceOverAQuantisedCache) {
  for (const auto& member : makers::zoo())
    if (member.model.head_dim % 32 == 0)
      expect_agreement(member, KvCodec::kQ8_0, KvCodec::kQ8_0, kShortTextTokens);
}

TEST(Zoo, CodecsOfKAndVAreTakenApart) {
  expect_agreement(makers::zoo_member("qwen3"), KvCodec::kF16, KvCodec::kQ8_0, kShortTextTokens);
  expect_agreement(makers::zoo_member("qwen3"), KvCodec::kQ8_0, KvCodec::kF16, kShortTextTokens);
}

TEST(Zoo, LongRopeTakesItsShortFactorsWhereTheContextFits) {
  RopeOverrides overrides;
  overrides.n_ctx = 512;
  expect_agreement(makers::zoo_member("llama-longrope"), KvCodec::kF16, KvCodec::kF16,
                   kShortTextTokens, overrides);
}

TEST(Zoo, EveryMemberReadsAndWritesAnyText) {
  for (const auto& member : makers::zoo()) {
    const ModelFile written(member.model);
    const auto tokenizer = Tokenizer::make(read_tokenizer_spec(written.open()));
    EXPECT_EQ(tokenizer->vocab_size(), member.model.vocab_size);
    const std::string text = "a plain text, \xc3\xa4 \xe2\x82\xac 123\n";
    const auto tokens = tokenizer->encode(text, {.add_special = false});
    EXPECT_EQ(tokenizer->decode(tokens), " " + text) << member.model.name;
  }
}

TEST(Zoo, MembersStaySmall) {
  for (const auto& member : makers::zoo()) {
    const ModelFile written(member.model);
    EXPECT_LT(written.open().file_bytes(), 900'000u) << member.model.name;
  }
}

}  // namespace
}  // namespace strata::engine

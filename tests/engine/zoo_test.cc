// Every member of the zoo against the double-precision reference. Tolerances: estimate.h.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "engine/text/tokenizer.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/oracle/reference_forward.h"

namespace strata::engine {
namespace {

using testing::load_model;
using testing::Logits;
using testing::ModelFile;
using testing::random_tokens;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kSeed = 20241125;
// Past a segment of 256 positions, and past window + chunk several times.
constexpr uint32_t kTextTokens = 300;
constexpr uint32_t kChunkRows = 32;

/// The largest distance in deviations; fails where it is above kDeviations or a logit is not
/// finite.
double compare(const Logits& logits, const std::vector<oracle::Estimates>& reference) {
  EXPECT_EQ(logits.size(), reference.size());
  double worst = 0;
  for (size_t row = 0; row < logits.size(); ++row) {
    for (size_t i = 0; i < logits[row].size(); ++i) {
      const oracle::Estimate& wanted = reference[row][i];
      const double distance =
          std::abs(static_cast<double>(logits[row][i]) - wanted.value) / std::sqrt(wanted.variance);
      if (!(distance <= oracle::kDeviations)) {
        ADD_FAILURE() << "row " << row << " logit " << i << ": wanted " << wanted.value << " +- "
                      << wanted.tolerance() << ", found " << logits[row][i];
        return distance;
      }
      worst = std::max(worst, distance);
    }
  }
  return worst;
}

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
                      const RopeOverrides& overrides = {}) {
  SCOPED_TRACE(member.model.name + ", seed " + std::to_string(kSeed));
  const ModelFile written(member.model);
  const GgufFile file = written.open();
  const Model model = load_model(file, overrides);
  const auto tokens = random_tokens(kTextTokens, member.model.vocab_size, kSeed);
  const auto reference = oracle::reference_logits(
      oracle::read_reference_model(file, static_cast<uint32_t>(overrides.n_ctx)), tokens,
      {oracle::resting(k_codec), oracle::resting(v_codec)});
  const auto [size, deviation] = sizes(reference);
  EXPECT_GT(size, 0.5) << "logits too small to tell a mistake";
  std::printf("%-18s logits %.2f, deviation %.1e, met", member.model.name.c_str(), size, deviation);
  for (const KernelTable* kernels : cpu_attn::available_kernels()) {
    SCOPED_TRACE(kernels->name);
    ZooWalk walk(
        model,
        {.kernels = kernels, .chunk_rows = kChunkRows, .k_codec = k_codec, .v_codec = v_codec});
    std::printf(" %.1f (%s)", compare(walk.feed_all(tokens), reference), kernels->name);
  }
  std::printf("\n");
}

TEST(Zoo, EveryMemberAgreesWithTheReference) {
  for (const auto& member : makers::zoo()) expect_agreement(member, KvCodec::kF16, KvCodec::kF16);
}

TEST(Zoo, EveryMemberAgreesWithTheReferenceOverAQuantisedCache) {
  for (const auto& member : makers::zoo())
    if (member.model.head_dim % 32 == 0) expect_agreement(member, KvCodec::kQ8_0, KvCodec::kQ8_0);
}

TEST(Zoo, CodecsOfKAndVAreTakenApart) {
  expect_agreement(makers::zoo_member("qwen3"), KvCodec::kF16, KvCodec::kQ8_0);
  expect_agreement(makers::zoo_member("qwen3"), KvCodec::kQ8_0, KvCodec::kF16);
}

TEST(Zoo, LongRopeTakesItsShortFactorsWhereTheContextFits) {
  RopeOverrides overrides;
  overrides.n_ctx = 512;
  expect_agreement(makers::zoo_member("llama-longrope"), KvCodec::kF16, KvCodec::kF16, overrides);
}

}  // namespace
}  // namespace strata::engine

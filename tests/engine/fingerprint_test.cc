#include "engine/fingerprint.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/zoo_fixture.h"

namespace strata::engine {
namespace {

using testing::ModelFile;

tiers::Hash128 fingerprint(const GgufFile& file, const RopeOverrides& rope = {},
                           CpuIsa isa = CpuIsa::kScalar) {
  return model_fingerprint(file, read_model_spec(file, rope), isa);
}

TEST(Fingerprint, IsTheSameForTheSameFile) {
  const ModelFile written(makers::zoo_member("llama3").model);
  EXPECT_EQ(fingerprint(written.open()), fingerprint(written.open()));
  EXPECT_NE(fingerprint(written.open()), tiers::Hash128{});
}

TEST(Fingerprint, TellsApartWhatComputesOtherKAndV) {
  const ModelFile written(makers::zoo_member("llama3").model);
  const GgufFile file = written.open();
  const tiers::Hash128 plain = fingerprint(file);
  RopeOverrides other_base;
  other_base.freq_base = 12345;
  EXPECT_NE(fingerprint(file, other_base), plain);
  RopeOverrides stretched;
  stretched.scaling = "linear";
  stretched.factor = 2;
  EXPECT_NE(fingerprint(file, stretched), plain);
  EXPECT_NE(fingerprint(file, {}, CpuIsa::kAvx2), plain);
}

TEST(Fingerprint, EveryMemberOfTheZooHasItsOwn) {
  std::vector<tiers::Hash128> seen;
  for (const auto& member : makers::zoo()) {
    const ModelFile written(member.model);
    const tiers::Hash128 own = fingerprint(written.open());
    EXPECT_EQ(std::ranges::count(seen, own), 0) << member.model.name;
    seen.push_back(own);
  }
}

TEST(Fingerprint, OtherWeightsInTheSameShapeAreAnotherModel) {
  makers::RandomTransformer model = makers::zoo_member("llama3").model;
  const tiers::Hash128 one = fingerprint(ModelFile(model).open());
  ++model.seed;
  EXPECT_NE(fingerprint(ModelFile(model).open()), one);
}

}  // namespace
}  // namespace strata::engine

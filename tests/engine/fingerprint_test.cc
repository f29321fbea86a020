#include "engine/fingerprint.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cpu_attn/attend_fixture.h"
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

/// Other bits want another version, or contexts saved before are taken up and go on differently. Of
/// attention, by the scalar set, which every machine has.
TEST(Fingerprint, SaysWhichArithmeticAttentionHas) {
  const auto sets = cpu_attn::available_kernels();
  const auto scalar =
      std::ranges::find_if(sets, [](const KernelTable* of) { return of->isa == CpuIsa::kScalar; });
  ASSERT_NE(scalar, sets.end());
  EXPECT_EQ(kArithmeticVersion, 2u);
  for (const auto& [codec, hash] : {std::pair{KvCodec::kF16, uint64_t{5734269733633740698u}},
                                    std::pair{KvCodec::kQ8_0, uint64_t{12485112988099677955u}}}) {
    cpu_attn::Random random(7);
    const cpu_attn::Segment segment(**scalar, KvLayout::make(codec, codec, 64), 200, random);
    cpu_attn::Tile tile(3, 64, random);
    tile.pos = {199, 120, 7};
    tile.attend(**scalar, segment, 0, 200);
    for (const auto* part : {&tile.m, &tile.l})
      tile.o.insert(tile.o.end(), part->begin(), part->end());
    EXPECT_EQ(tiers::hash_bytes(std::as_bytes(std::span(tile.o))).low, hash)
        << "raise kArithmeticVersion (engine/fingerprint.h)";
  }
}

}  // namespace
}  // namespace strata::engine

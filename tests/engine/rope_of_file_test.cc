#include "engine/rope_spec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "engine/model_spec.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::make_small_model;
using testing::SmallModel;
using testing::TestFolder;

/// Read from a file: factors are tensors.
ModelSpec spec_of_file(const SmallModel& model, const RopeOverrides& overrides = {}) {
  const TestFolder folder;
  return read_model_spec(GgufFile::open(folder.write("m.gguf", model.bytes())), overrides);
}
RopeSpec full_of(const SmallModel& model, const RopeOverrides& overrides = {}) {
  return spec_of_file(model, overrides).rope_sets.front();
}

RopeOverrides overrides_of(const std::function<void(RopeOverrides&)>& set) {
  RopeOverrides overrides;
  set(overrides);
  return overrides;
}

RopeOverrides scaling_named(const std::string& scaling) {
  return overrides_of([&](RopeOverrides& o) { o.scaling = scaling; });
}
RopeOverrides factor_given(double factor, uint32_t n_ctx_original = 0) {
  return overrides_of([&](RopeOverrides& o) {
    o.factor = factor;
    o.n_ctx_original = n_ctx_original;
  });
}
RopeOverrides context_asked(uint64_t n_ctx) {
  return overrides_of([&](RopeOverrides& o) { o.n_ctx = n_ctx; });
}

SmallModel scaled(const std::string& type, float factor) {
  SmallModel model = make_small_model();
  model.set("llama.rope.scaling.type", type);
  model.set("llama.rope.scaling.factor", factor);
  return model;
}

TEST(RopeOfFile, ReadsTheFilesScaling) {
  EXPECT_EQ(full_of(make_small_model()).scaling, RopeScaling::kNone);
  EXPECT_EQ(full_of(scaled("none", 4)).scaling, RopeScaling::kNone);
  EXPECT_EQ(full_of(scaled("none", 4)).factor, 1.0);
  EXPECT_EQ(full_of(scaled("linear", 4)).scaling, RopeScaling::kLinear);
  EXPECT_EQ(full_of(scaled("linear", 4)).factor, 4.0);
  EXPECT_EQ(full_of(scaled("linear", 1)).scaling, RopeScaling::kNone);
  EXPECT_EQ(full_of(scaled("linear", 0)).scaling, RopeScaling::kNone);  // converters' "none"
  SmallModel old = make_small_model();
  old.set("llama.rope.scale_linear", 2.0f);  // no type: linear, as other readers take it
  EXPECT_EQ(full_of(old).factor, 2.0);
  EXPECT_EQ(full_of(old).scaling, RopeScaling::kLinear);
}

TEST(RopeOfFile, ReadsYarn) {
  SmallModel model = scaled("yarn", 4);
  RopeSpec spec = full_of(model);
  EXPECT_EQ(spec.scaling, RopeScaling::kYarn);
  EXPECT_EQ(spec.n_ctx_original, 64u);
  EXPECT_EQ(spec.yarn_ext_factor, 1.0);
  EXPECT_EQ(spec.yarn_attn_factor, 1.0);
  EXPECT_EQ(spec.yarn_beta_fast, 32.0);
  EXPECT_EQ(spec.yarn_beta_slow, 1.0);
  model.set("llama.rope.scaling.original_context_length", uint32_t{16});
  model.set("llama.rope.scaling.yarn_ext_factor", 0.5f);
  model.set("llama.rope.scaling.attn_factor", 2.0f);
  model.set("llama.rope.scaling.yarn_beta_fast", 8.0f);
  model.set("llama.rope.scaling.yarn_beta_slow", 0.5f);
  spec = full_of(model);
  EXPECT_EQ(spec.n_ctx_original, 16u);
  EXPECT_EQ(spec.yarn_ext_factor, 0.5);
  EXPECT_EQ(spec.yarn_attn_factor, 2.0);
  EXPECT_EQ(spec.yarn_beta_fast, 8.0);
  EXPECT_EQ(spec.yarn_beta_slow, 0.5);
}

TEST(RopeOfFile, RefusesFactorsThatGiveNoAngle) {
  for (const float factor : {1e-45f, 1e-9f, -4.0f, INFINITY, NAN})
    expect_error([&] { return spec_of_file(scaled("linear", factor)); }, ErrorCode::kBadFile,
                 "wanted 0.001 to 65536, found ", "m.gguf: key llama.rope.scaling.factor");
}

TEST(RopeOfFile, RefusesRotationsOfOddOrTooManyDimensions) {
  SmallModel model = make_small_model();
  model.set("llama.rope.dimension_count", uint32_t{6});
  EXPECT_EQ(full_of(model).n_rot, 6u);
  for (const uint32_t n_rot : {7u, 10u}) {
    model.set("llama.rope.dimension_count", n_rot);
    expect_error([&] { return spec_of_file(model); }, ErrorCode::kBadFile,
                 "wanted an even number of at most head_dim (8), found " + std::to_string(n_rot),
                 "m.gguf: key llama.rope.dimension_count");
  }
}

TEST(RopeOfFile, RefusesUnknownScalings) {
  const SmallModel model = scaled("dynamic\n", 4);
  expect_error([&] { return spec_of_file(model); }, ErrorCode::kUnsupported,
               "wanted a RoPE scaling of none, linear, yarn or longrope, found \"dynamic?\"",
               "m.gguf: key llama.rope.scaling.type");
  EXPECT_EQ(full_of(model, scaling_named("yarn")).scaling, RopeScaling::kYarn);  // the remedy helps
  SmallModel number = make_small_model();
  number.set("llama.rope.scaling.type", uint32_t{2});
  expect_error([&] { return spec_of_file(number); }, ErrorCode::kBadFile,
               "wanted a string, found u32", "key llama.rope.scaling.type");
}

TEST(RopeOfFile, LongRopeTakesTheFactorsOfTheContextAskedFor) {
  SmallModel model = scaled("longrope", 1);
  model.set("llama.rope.scaling.original_context_length", uint32_t{32});
  expect_error([&] { return spec_of_file(model); }, ErrorCode::kBadFile,
               "wanted the tensor rope_factors_long.weight of longrope scaling, found none",
               "m.gguf");
  model.add_tensor("rope_factors_long.weight", {4}, 8.0f);
  model.add_tensor("rope_factors_short.weight", {4}, 2.0f);
  EXPECT_EQ(full_of(model).scaling, RopeScaling::kLongRope);
  EXPECT_EQ(full_of(model).factors, std::vector<float>(4, 8.0f));
  EXPECT_EQ(full_of(model, context_asked(33)).factors, std::vector<float>(4, 8.0f));
  EXPECT_EQ(full_of(model, context_asked(32)).factors, std::vector<float>(4, 2.0f));
  EXPECT_TRUE(full_of(model, scaling_named("none")).factors.empty());
}

TEST(RopeOfFile, LongRopeThatMeansNothingIsRefusedUntilAnotherIsNamed) {
  const SmallModel with_factor = scaled("longrope", 4);
  expect_error([&] { return spec_of_file(with_factor); }, ErrorCode::kUnsupported,
               "longrope with a factor of 4: sources disagree on what it divides",
               "m.gguf: key llama.rope.scaling.type");
  EXPECT_EQ(full_of(with_factor, scaling_named("linear")).scaling, RopeScaling::kLinear);
  SmallModel qwen = make_small_model({.architecture = "qwen3"});
  qwen.set("qwen3.rope.scaling.type", std::string("longrope"));
  expect_error([&] { return spec_of_file(qwen); }, ErrorCode::kUnsupported,
               "longrope has no meaning for qwen3", "m.gguf: key qwen3.rope.scaling.type");
  EXPECT_EQ(full_of(qwen, scaling_named("none")).scaling, RopeScaling::kNone);
}

TEST(RopeOfFile, ReadsAndChecksFactorTensors) {
  SmallModel model = make_small_model();
  model.add_tensor("rope_freqs.weight", {4}, 3.0f);
  EXPECT_EQ(full_of(model).factors, std::vector<float>(4, 3.0f));
  for (const float factor : {0.0f, -1.0f, INFINITY, NAN}) {
    model.tensor("rope_freqs.weight").values[2] = factor;
    expect_error([&] { return spec_of_file(model); }, ErrorCode::kBadFile,
                 "wanted factors that are positive and finite, found ",
                 "m.gguf: tensor rope_freqs.weight, offset ");
  }
  model.erase_tensor("rope_freqs.weight");
  model.add_tensor("rope_freqs.weight", {5});
  expect_error([&] { return spec_of_file(model); }, ErrorCode::kBadFile,
               "wanted shape [4, 1], found [5]", "tensor rope_freqs.weight");
  SmallModel qwen = make_small_model({.architecture = "qwen3"});
  qwen.add_tensor("rope_freqs.weight", {4});
  expect_error([&] { return spec_of_file(qwen); }, ErrorCode::kUnsupported,
               "the tensor is no part of what Strata computes for qwen3",
               "tensor rope_freqs.weight");
}

TEST(RopeOfFile, WindowedLayersKeepTheirOwnBase) {
  SmallModel model = make_small_model({.architecture = "gemma3"});
  model.set("gemma3.rope.freq_base", 1e6f);
  model.set("gemma3.rope.scaling.factor", 8.0f);
  std::vector<RopeSpec> sets =
      spec_of_file(model, overrides_of([](RopeOverrides& o) { o.freq_base = 5e5; })).rope_sets;
  ASSERT_EQ(sets.size(), 2u);
  EXPECT_EQ(sets[0].freq_base, 5e5);
  EXPECT_EQ(sets[0].factor, 8.0);
  EXPECT_EQ(sets[1].freq_base, 10000.0);
  EXPECT_EQ(sets[1].factor, 1.0);
  EXPECT_EQ(sets[1].scaling, RopeScaling::kNone);
  model.set("gemma3.rope.freq_base_swa", 20000.0f);
  EXPECT_EQ(spec_of_file(model).rope_sets[1].freq_base, 20000.0);
}

TEST(RopeOfFile, OptionsOverrideTheFile) {
  const SmallModel model = scaled("linear", 2);
  const RopeOverrides overrides = {.scaling = "yarn",
                                   .freq_base = 5e5,
                                   .factor = 16,
                                   .n_ctx_original = 32,
                                   .yarn_ext_factor = 0,
                                   .yarn_attn_factor = 0.5,
                                   .yarn_beta_fast = 64,
                                   .yarn_beta_slow = 2,
                                   .n_ctx = 0};
  const RopeSpec spec = full_of(model, overrides);
  EXPECT_EQ(spec.scaling, RopeScaling::kYarn);
  EXPECT_EQ(spec.freq_base, 5e5);
  EXPECT_EQ(spec.factor, 16.0);
  EXPECT_EQ(spec.n_ctx_original, 32u);
  EXPECT_EQ(spec.yarn_ext_factor, 0.0);
  EXPECT_EQ(spec.yarn_attn_factor, 0.5);
  EXPECT_EQ(spec.yarn_beta_fast, 64.0);
  EXPECT_EQ(spec.yarn_beta_slow, 2.0);
}

TEST(RopeOfFile, FactorGivenExtendsTheContext) {
  EXPECT_EQ(spec_of_file(make_small_model(), factor_given(4)).shape.n_ctx_train, 256u);
  EXPECT_EQ(full_of(make_small_model(), factor_given(4)).scaling, RopeScaling::kLinear);
  EXPECT_EQ(spec_of_file(make_small_model(), factor_given(4, 32)).shape.n_ctx_train, 128u);
  EXPECT_EQ(spec_of_file(make_small_model(), factor_given(0.5)).shape.n_ctx_train,
            64u);  // never less
  EXPECT_EQ(spec_of_file(scaled("yarn", 4)).shape.n_ctx_train,
            64u);  // the file says its own context
  EXPECT_EQ(spec_of_file(scaled("none", 1), factor_given(4)).shape.n_ctx_train, 64u);
  SmallModel longest = make_small_model({.n_ctx_train = 1 << 30});
  EXPECT_EQ(spec_of_file(longest, factor_given(65536)).shape.n_ctx_train, 1u << 30);
}

TEST(RopeOfFile, NoneDropsTheFilesTemperature) {
  SmallModel model = scaled("yarn", 4);
  model.set("llama.rope.scaling.attn_factor", 2.0f);
  EXPECT_EQ(full_of(model, scaling_named("none")).yarn_attn_factor, 1.0);
  EXPECT_EQ(full_of(model).yarn_attn_factor, 2.0);
}

TEST(RopeOfFile, OptionsOutOfRangeAreUsageErrors) {
  const auto refuses = [](const std::function<void(RopeOverrides&)>& set, const char* option,
                          const std::string& message) {
    expect_error([&] { return spec_of_file(make_small_model(), overrides_of(set)); },
                 ErrorCode::kUsage, message, option);
  };
  using O = RopeOverrides;
  refuses([](O& o) { o.scaling = "longrope"; }, "--rope-scaling",
          "wanted a RoPE scaling of none, linear, yarn, found \"longrope\"");
  refuses([](O& o) { o.freq_base = 1; }, "--rope-freq-base",
          "wanted 1.1 to 1000000000000, found 1");
  refuses([](O& o) { o.freq_base = NAN; }, "--rope-freq-base", "found nan");
  refuses([](O& o) { o.factor = 1e6; }, "--rope-factor", "wanted 0.001 to 65536, found 1000000");
  refuses([](O& o) { o.factor = -1; }, "--rope-factor", "found -1");
  refuses([](O& o) { o.factor = NAN; }, "--rope-factor", "found nan");
  refuses([](O& o) { o.n_ctx_original = ~0u; }, "--yarn-orig-ctx", "found 4294967295");
  refuses([](O& o) { o.yarn_ext_factor = 1.5; }, "--yarn-ext-factor", "wanted 0 to 1, found 1.5");
  refuses([](O& o) { o.yarn_ext_factor = NAN; }, "--yarn-ext-factor", "found nan");
  refuses([](O& o) { o.yarn_attn_factor = 0; }, "--yarn-attn-factor",
          "wanted 0.001 to 1000, found 0");
  refuses([](O& o) { o.yarn_beta_fast = 0; }, "--yarn-beta-fast",
          "wanted 0.001 to 1000000, found 0");
  refuses([](O& o) { o.yarn_beta_slow = INFINITY; }, "--yarn-beta-slow", "found inf");
}

}  // namespace
}  // namespace strata::engine

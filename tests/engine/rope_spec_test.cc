#include "engine/rope_spec.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "base/error.h"
#include "tests/engine/small_model.h"
#include "tests/engine/tiny_engine.h"

namespace strata::engine {
namespace {

using testing::make_small_model;
using testing::SmallModel;
using testing::SmallModelOptions;
using testing::TemporaryModel;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

using Change = std::function<void(SmallModel&)>;

ModelSpec changed_spec(const Change& change, const RopeOverrides& overrides = {},
                       const SmallModelOptions& options = {}) {
  SmallModel model = make_small_model(options);
  if (change) change(model);
  const TemporaryModel file(model);
  return read_model_spec(GgufFile::open(file.path()), overrides);
}

Error refused(const Change& change, const RopeOverrides& overrides = {},
              const SmallModelOptions& options = {}) {
  try {
    (void)changed_spec(change, overrides, options);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    return error;
  }
  return {ErrorCode::kIo, "accepted"};
}

Change scaling(const std::string& type, float factor) {
  return [=](SmallModel& model) {
    model.set("llama.rope.scaling.type", type);
    model.set("llama.rope.scaling.factor", factor);
  };
}

TEST(RopeSpec, WithoutKeysThereIsNoScaling) {
  const ModelSpec spec = changed_spec({});
  ASSERT_EQ(spec.rope_sets.size(), 1u);
  const RopeSpec& rope = spec.rope_sets[0];
  EXPECT_EQ(rope.n_rot, 8u);
  EXPECT_EQ(rope.freq_base, 10000.0);
  EXPECT_EQ(rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(rope.factor, 1.0);
  EXPECT_EQ(rope.yarn_attn_factor, 1.0);
  EXPECT_TRUE(rope.factors.empty());
}

TEST(RopeSpec, AFactorWithoutATypeIsLinear) {
  const auto only_factor = [](SmallModel& model) { model.set("llama.rope.scaling.factor", 4.0f); };
  EXPECT_EQ(changed_spec(only_factor).rope_sets[0].scaling, RopeScaling::kLinear);
  EXPECT_EQ(changed_spec(only_factor).rope_sets[0].factor, 4.0);
  const auto old_key = [](SmallModel& model) { model.set("llama.rope.scale_linear", 2.0f); };
  EXPECT_EQ(changed_spec(old_key).rope_sets[0].factor, 2.0);
  const auto zero = scaling("linear", 0);  // what converters write for "none"
  EXPECT_EQ(changed_spec(zero).rope_sets[0].scaling, RopeScaling::kNone);
}

TEST(RopeSpec, YarnReadsItsKeys) {
  const RopeSpec rope = changed_spec([](SmallModel& model) {
                          scaling("yarn", 4)(model);
                          model.set("llama.rope.scaling.original_context_length", uint32_t{16});
                          model.set("llama.rope.scaling.attn_factor", 0.5f);
                          model.set("llama.rope.scaling.yarn_beta_fast", 16.0f);
                        }).rope_sets[0];
  EXPECT_EQ(rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(rope.factor, 4.0);
  EXPECT_EQ(rope.n_ctx_original, 16u);
  EXPECT_EQ(rope.yarn_attn_factor, 0.5);
  EXPECT_EQ(rope.yarn_ext_factor, 1.0);
  EXPECT_EQ(rope.yarn_beta_fast, 16.0);
  EXPECT_EQ(rope.yarn_beta_slow, 1.0);
}

TEST(RopeSpec, OverridesReplaceWhatTheFileSays) {
  RopeOverrides overrides;
  overrides.scaling = "yarn";
  overrides.freq_base = 50000;
  overrides.factor = 8;
  overrides.n_ctx_original = 32;
  overrides.yarn_ext_factor = 0.5;
  overrides.yarn_attn_factor = 0.9;
  overrides.yarn_beta_fast = 20;
  overrides.yarn_beta_slow = 2;
  const ModelSpec spec = changed_spec(scaling("linear", 2), overrides);
  const RopeSpec& rope = spec.rope_sets[0];
  EXPECT_EQ(rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(rope.freq_base, 50000.0);
  EXPECT_EQ(rope.factor, 8.0);
  EXPECT_EQ(rope.n_ctx_original, 32u);
  EXPECT_EQ(rope.yarn_ext_factor, 0.5);
  EXPECT_EQ(rope.yarn_attn_factor, 0.9);
  EXPECT_EQ(rope.yarn_beta_fast, 20.0);
  EXPECT_EQ(rope.yarn_beta_slow, 2.0);
  EXPECT_EQ(spec.shape.n_ctx_train, 8u * 32u);  // the extended context counts as trained
}

TEST(RopeSpec, NoneTurnsAFilesScalingOff) {
  RopeOverrides overrides;
  overrides.scaling = "none";
  const RopeSpec rope = changed_spec(
                            [](SmallModel& model) {
                              scaling("yarn", 4)(model);
                              model.set("llama.rope.scaling.attn_factor", 0.5f);
                            },
                            overrides)
                            .rope_sets[0];
  EXPECT_EQ(rope.scaling, RopeScaling::kNone);
  EXPECT_EQ(rope.factor, 1.0);
  EXPECT_EQ(rope.yarn_attn_factor, 1.0);
}

TEST(RopeSpec, AFactorAloneScalesLinearlyAndRaisesTheContext) {
  RopeOverrides overrides;
  overrides.factor = 4;
  const ModelSpec spec = changed_spec({}, overrides);
  EXPECT_EQ(spec.rope_sets[0].scaling, RopeScaling::kLinear);
  EXPECT_EQ(spec.shape.n_ctx_train, 4u * 64u);
}

TEST(RopeSpec, OverridesOutOfRangeAreUsageErrorsThatNameTheOption) {
  struct Case {
    const char* option;
    std::function<void(RopeOverrides&, double)> set;
    std::vector<double> bad;
  };
  const std::vector<Case> cases = {
      {"--rope-freq-base", [](RopeOverrides& o, double v) { o.freq_base = v; }, {0.5, 1e13, kNan}},
      {"--rope-factor",
       [](RopeOverrides& o, double v) { o.factor = v; },
       {-1, 1e-4, 5e-324, 1e6, kNan}},
      {"--yarn-orig-ctx",
       [](RopeOverrides& o, double v) { o.n_ctx_original = static_cast<uint32_t>(v); },
       {2147483647}},
      {"--yarn-ext-factor", [](RopeOverrides& o, double v) { o.yarn_ext_factor = v; }, {1.5, kNan}},
      {"--yarn-attn-factor",
       [](RopeOverrides& o, double v) { o.yarn_attn_factor = v; },
       {0, 1e4, kNan}},
      {"--yarn-beta-fast",
       [](RopeOverrides& o, double v) { o.yarn_beta_fast = v; },
       {0, 1e7, kNan}},
      {"--yarn-beta-slow",
       [](RopeOverrides& o, double v) { o.yarn_beta_slow = v; },
       {0, 1e7, kNan}},
  };
  for (const Case& of : cases)
    for (const double bad : of.bad) {
      RopeOverrides overrides;
      overrides.scaling = "yarn";
      of.set(overrides, bad);
      const Error error = refused({}, overrides);
      EXPECT_EQ(error.code(), ErrorCode::kUsage) << of.option << " " << bad;
      EXPECT_EQ(error.where(), of.option) << bad;
      EXPECT_NE(std::string(error.what()).find("wanted"), std::string::npos) << error.what();
      EXPECT_FALSE(error.remedy().empty());
    }
}

TEST(RopeSpec, AnUnknownScalingIsRefusedByName) {
  const Error in_file = refused(scaling("spiral", 2));
  EXPECT_EQ(in_file.code(), ErrorCode::kUnsupported);
  EXPECT_NE(std::string(in_file.what()).find("spiral"), std::string::npos);
  EXPECT_NE(in_file.where().find("llama.rope.scaling.type"), std::string::npos);
  RopeOverrides overrides;
  overrides.scaling = "longrope";  // a model's own, not a user's choice
  EXPECT_EQ(refused({}, overrides).code(), ErrorCode::kUsage);
}

TEST(RopeSpec, AFilesFactorOutOfRangeIsABadFile) {
  EXPECT_EQ(refused(scaling("linear", -1)).code(), ErrorCode::kBadFile);
  EXPECT_EQ(refused(scaling("linear", 1e-30f)).code(), ErrorCode::kBadFile);
  EXPECT_EQ(refused(scaling("yarn", 1e6f)).code(), ErrorCode::kBadFile);
}

TEST(RopeSpec, RotatedDimensionsAreEvenAndWithinTheHead) {
  const auto dims = [](uint32_t n) {
    return [n](SmallModel& model) { model.set("llama.rope.dimension_count", n); };
  };
  EXPECT_EQ(changed_spec(dims(4)).rope_sets[0].n_rot, 4u);
  EXPECT_EQ(refused(dims(7)).code(), ErrorCode::kBadFile);
  EXPECT_EQ(refused(dims(10)).code(), ErrorCode::kBadFile);
}

TEST(RopeSpec, LlamaFactorsComeFromTheirTensor) {
  const auto with = [](float value) {
    return [value](SmallModel& model) { model.add_tensor("rope_freqs.weight", {4}, value); };
  };
  EXPECT_EQ(changed_spec(with(8)).rope_sets[0].factors, std::vector<float>(4, 8.0f));
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    const Error error = refused(with(bad));
    EXPECT_EQ(error.code(), ErrorCode::kBadFile);
    EXPECT_NE(error.where().find("rope_freqs.weight"), std::string::npos);
  }
}

TEST(RopeSpec, LongRopeTakesShortOrLongFactorsByTheContext) {
  const auto longrope = [](SmallModel& model) {
    model.set("llama.rope.scaling.type", std::string("longrope"));
    model.set("llama.rope.scaling.original_context_length", uint32_t{32});
    model.add_tensor("rope_factors_short.weight", {4}, 1.5f);
    model.add_tensor("rope_factors_long.weight", {4}, 6);
  };
  const auto first_factor = [&](uint64_t n_ctx) {
    RopeOverrides overrides;
    overrides.n_ctx = n_ctx;
    return changed_spec(longrope, overrides).rope_sets[0].factors.at(0);
  };
  EXPECT_EQ(first_factor(32), 1.5f);
  EXPECT_EQ(first_factor(33), 6.0f);
  EXPECT_EQ(first_factor(0), 6.0f);  // the model's 64
  const auto without = [&](SmallModel& model) {
    longrope(model);
    model.erase_tensor("rope_factors_long.weight");
  };
  const Error error = refused(without);
  EXPECT_EQ(error.code(), ErrorCode::kBadFile);
  EXPECT_NE(std::string(error.what()).find("rope_factors_long.weight"), std::string::npos);
  const auto with_factor = [&](SmallModel& model) {
    longrope(model);
    model.set("llama.rope.scaling.factor", 2.0f);
  };
  EXPECT_EQ(refused(with_factor).code(), ErrorCode::kUnsupported);
}

TEST(RopeSpec, WindowedLayersKeepABaseOfTheirOwn) {
  SmallModelOptions gemma{.architecture = "gemma3", .n_layers = 6};
  RopeOverrides overrides;
  overrides.freq_base = 77777;
  overrides.factor = 2;
  const ModelSpec spec = changed_spec(
      [](SmallModel& model) { model.set("gemma3.rope.freq_base", 1e6f); }, overrides, gemma);
  ASSERT_EQ(spec.rope_sets.size(), 2u);
  EXPECT_EQ(spec.rope_sets[0].freq_base, 77777.0);
  EXPECT_EQ(spec.rope_sets[0].factor, 2.0);
  EXPECT_EQ(spec.rope_sets[1].freq_base, 10000.0);
  EXPECT_EQ(spec.rope_sets[1].scaling, RopeScaling::kNone);
  EXPECT_EQ(spec.rope_sets[1].factor, 1.0);
  EXPECT_EQ(spec.shape.layers[0].rope_set, 1);
  EXPECT_EQ(spec.shape.layers[5].rope_set, 0);
}

}  // namespace
}  // namespace strata::engine

#include "engine/hyper_parameters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::parse_file;
using testing::SmallModel;
using P = HyperParameter;

GgufFile file_with(const std::string& key, SmallModel::Value value) {
  SmallModel model;
  model.set(key, std::move(value));
  return parse_file(model.bytes());
}

struct Range {
  HyperParameter parameter;
  const char* suffix;
  double min, max;
};

constexpr double kPositions = 1073741824;
const std::vector<Range> kIntegers = {
    {P::kLayers, "block_count", 1, 1024},
    {P::kContext, "context_length", 1, kPositions},
    {P::kModelDim, "embedding_length", 8, 131072},
    {P::kFeedForward, "feed_forward_length", 1, 1048576},
    {P::kHeads, "attention.head_count", 1, 1024},
    {P::kKvHeads, "attention.head_count_kv", 1, 1024},
    {P::kKeyLength, "attention.key_length", 8, 512},
    {P::kValueLength, "attention.value_length", 8, 512},
    {P::kWindow, "attention.sliding_window", 0, kPositions},
    {P::kWindowPattern, "attention.sliding_window_pattern", 0, 1024},
    {P::kRopeDims, "rope.dimension_count", 2, 512},
    {P::kRopeContext, "rope.scaling.original_context_length", 1, kPositions},
};
const std::vector<Range> kReals = {
    {P::kNormEpsilon, "attention.layer_norm_rms_epsilon", 1e-12, 1e-1},
    {P::kRopeBase, "rope.freq_base", 1.1, 1e12},
    {P::kRopeBaseWindow, "rope.freq_base_swa", 1.1, 1e12},
    {P::kRopeFactor, "rope.scaling.factor", 1e-3, 65536},
    {P::kRopeFactorOld, "rope.scale_linear", 1e-3, 65536},
    {P::kRopeAttnFactor, "rope.scaling.attn_factor", 1e-3, 1e3},
    {P::kYarnExtFactor, "rope.scaling.yarn_ext_factor", 0, 1},
    {P::kYarnBetaFast, "rope.scaling.yarn_beta_fast", 1e-3, 1e6},
    {P::kYarnBetaSlow, "rope.scaling.yarn_beta_slow", 1e-3, 1e6},
};

TEST(HyperParameters, AreAllInTheTestsTables) {
  EXPECT_EQ(kIntegers.size() + kReals.size(), static_cast<size_t>(P::kYarnBetaSlow) + 1);
}

TEST(HyperParameters, IntegersAreHeldToTheirRange) {
  for (const Range& range : kIntegers) {
    const std::string key = std::string("x.") + range.suffix;
    SCOPED_TRACE(key);
    EXPECT_EQ(HyperParameters::min(range.parameter), range.min);
    EXPECT_EQ(HyperParameters::max(range.parameter), range.max);
    const auto find = [&](SmallModel::Value value) {
      const GgufFile file = file_with(key, std::move(value));
      return HyperParameters(file, "x").find_uint(range.parameter);
    };
    const auto min = static_cast<uint64_t>(range.min), max = static_cast<uint64_t>(range.max);
    EXPECT_EQ(find(static_cast<uint32_t>(min)), min);
    EXPECT_EQ(find(max), max);
    for (const uint64_t outside : {min - 1, max + 1, max + (uint64_t{1} << 32), ~uint64_t{0}}) {
      if (min == 0 && outside == min - 1) continue;
      expect_error([&] { return find(outside); }, ErrorCode::kBadFile, "wanted ",
                   "m.gguf: key " + key);
    }
    expect_error([&] { return find(std::string("1")); }, ErrorCode::kBadFile,
                 "wanted an integer, found string", "m.gguf: key " + key);
    expect_error([&] { return find(8.0f); }, ErrorCode::kBadFile, "wanted an integer, found f32",
                 key);
    expect_error([&] { return find(true); }, ErrorCode::kBadFile, "wanted an integer, found bool",
                 key);
  }
}

TEST(HyperParameters, RealsAreHeldToTheirRange) {
  for (const Range& range : kReals) {
    const std::string key = std::string("x.") + range.suffix;
    SCOPED_TRACE(key);
    EXPECT_EQ(HyperParameters::min(range.parameter), range.min);
    EXPECT_EQ(HyperParameters::max(range.parameter), range.max);
    const auto find = [&](SmallModel::Value value) {
      const GgufFile file = file_with(key, std::move(value));
      return HyperParameters(file, "x").find_real(range.parameter);
    };
    // A float step inside, so that rounding to the file's f32 does not leave the range.
    const auto min = std::nextafter(static_cast<float>(range.min), INFINITY);
    const auto max = std::nextafter(static_cast<float>(range.max), 0.0f);
    EXPECT_EQ(find(min), static_cast<double>(min));
    EXPECT_EQ(find(max), static_cast<double>(max));
    const float below = range.min > 0 ? static_cast<float>(range.min) * 0.99f : -1e-30f;
    const float above = static_cast<float>(range.max) * 1.01f;
    for (const float outside : {below, above, -1.0f, INFINITY, -INFINITY, NAN, 1e-45f, -3e38f}) {
      if (range.min == 0 && outside == 1e-45f) continue;
      expect_error([&] { return find(outside); }, ErrorCode::kBadFile, "wanted ",
                   "m.gguf: key " + key);
    }
    expect_error([&] { return find(std::string("1")); }, ErrorCode::kBadFile,
                 "wanted a number, found string", "m.gguf: key " + key);
  }
}

TEST(HyperParameters, ErrorSaysRangeAndFound) {
  const GgufFile file = file_with("x.block_count", uint32_t{1025});
  expect_error([&] { return HyperParameters(file, "x").get_uint(P::kLayers); }, ErrorCode::kBadFile,
               "wanted 1 to 1024, found 1025", "m.gguf: key x.block_count");
  expect_error([&] { return HyperParameters(file, "x").get_uint(P::kContext); },
               ErrorCode::kBadFile, "wanted a number from 1 to 1073741824, found no such key",
               "key x.context_length");
  expect_error([&] { return HyperParameters(file, "x").get_real(P::kNormEpsilon); },
               ErrorCode::kBadFile, "wanted a number from 1e-12 to 0.1, found no such key",
               "key x.attention.layer_norm_rms_epsilon");
  EXPECT_EQ(HyperParameters(file, "x").find_uint(P::kContext), std::nullopt);
  EXPECT_EQ(HyperParameters(file, "y").find_uint(P::kLayers), std::nullopt);
}

TEST(HyperParameters, PerLayerComesFromANumberOrFromOnePerLayer) {
  const auto read = [](SmallModel::Value value, HyperParameter parameter = P::kHeads) {
    SmallModel model;
    model.set("x.attention.head_count", value);
    model.set("x.attention.head_count_kv", value);
    const GgufFile file = parse_file(model.bytes());
    return HyperParameters(file, "x").get_per_layer(parameter, 3);
  };
  EXPECT_EQ(read(uint32_t{7}), (std::vector<uint32_t>{7, 7, 7}));
  EXPECT_EQ(read(std::vector<int32_t>{1, 2, 3}), (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(read(std::vector<int32_t>{1, 2, 3}, P::kKvHeads), (std::vector<uint32_t>{1, 2, 3}));
  const std::string key = "m.gguf: key x.attention.head_count";
  for (const size_t n : {size_t{0}, size_t{1}, size_t{2}, size_t{4}, size_t{100000}})
    expect_error([&] { return read(std::vector<int32_t>(n, 1)); }, ErrorCode::kBadFile,
                 "wanted one value per layer (3), found " + std::to_string(n), key);
  expect_error(
      [&] {
        return read(std::vector<int32_t>{1, 0, 3});
      },
      ErrorCode::kBadFile, "wanted 1 to 1024, found 0", key);
  expect_error(
      [&] {
        return read(std::vector<int32_t>{1, -1, 3});
      },
      ErrorCode::kBadFile, "wanted an integer of at least 0, found -1", key);
  expect_error(
      [&] {
        return read(std::vector<float>{1, 2, 3});
      },
      ErrorCode::kBadFile, "wanted an array of integers, found an array of f32", key);
  const GgufFile empty = parse_file(SmallModel().bytes());
  EXPECT_TRUE(HyperParameters(empty, "x").get_per_layer(P::kKvHeads, 3).empty());
  expect_error([&] { return HyperParameters(empty, "x").get_per_layer(P::kHeads, 3); },
               ErrorCode::kBadFile, "wanted a number from 1 to 1024, found no such key",
               "key x.attention.head_count");
}

void expect_refused(const std::string& key, SmallModel::Value value, const std::string& feature) {
  const GgufFile file = file_with(key, std::move(value));
  expect_error(
      [&] { refuse_unknown_features(HyperParameters(file, "x")); }, ErrorCode::kUnsupported,
      "the model uses " + feature + ", which Strata does not compute for x", "m.gguf: key " + key);
}

void expect_taken(const std::string& key, SmallModel::Value value) {
  const GgufFile file = file_with(key, std::move(value));
  EXPECT_NO_THROW(refuse_unknown_features(HyperParameters(file, "x"))) << key;
}

TEST(HyperParameters, FeaturesNoArchitectureComputesAreRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> features = {
      {"expert_count", "mixture of experts"},
      {"attn_logit_softcapping", "softcapping of attention scores"},
      {"final_logit_softcapping", "softcapping of logits"},
      {"logit_scale", "scaled logits"},
      {"residual_scale", "scaled residuals"},
      {"embedding_scale", "a scale of embeddings in the file"},
      {"attention.scale", "a scale of attention scores in the file"},
      {"attention.clamp_kqv", "clamped q, k and v"},
      {"attention.max_alibi_bias", "ALiBi"},
      {"attention.temperature_scale", "attention temperature by position"},
      {"attention.shared_kv_layers", "layers that share KV"},
      {"attention.q_lora_rank", "latent attention"},
      {"attention.kv_lora_rank", "latent attention"},
      {"rope.dimension_sections", "M-RoPE"},
      {"rope.scaling.alpha", "NTK-alpha RoPE scaling"},
      {"rope.scaling.yarn_log_multiplier", "YaRN with a log multiplier"},
      {"nextn_predict_layers", "multi-token prediction layers"},
      {"pooling_type", "pooled embeddings instead of logits"},
  };
  for (const auto& [suffix, feature] : features) {
    SCOPED_TRACE(suffix);
    expect_refused("x." + suffix, uint32_t{8}, feature);
    expect_refused("x." + suffix, 0.25f, feature);
    expect_refused("x." + suffix, std::vector<int32_t>{0, 0, 16}, feature);
    expect_taken("x." + suffix, uint32_t{0});
    expect_taken("x." + suffix, std::vector<float>{0, 0, 0});
    expect_taken("y." + suffix, uint32_t{8});  // another architecture's key
  }
  expect_refused("x.logit_scale", NAN, "scaled logits");
}

TEST(HyperParameters, ScalesOfOneAreNone) {
  for (const char* suffix : {"logit_scale", "residual_scale", "embedding_scale"})
    expect_taken(std::string("x.") + suffix, 1.0f);
  expect_refused("x.attention.scale", 1.0f, "a scale of attention scores in the file");
}

TEST(HyperParameters, OtherKindsOfFileAreRefused) {
  expect_refused("x.attention.causal", false, "attention to later positions");
  expect_taken("x.attention.causal", true);
  expect_refused("general.type", std::string("adapter"), "the file type \"adapter\"");
  expect_taken("general.type", std::string("model"));
  expect_refused("general.type", "\x1b" + std::string(1000, 'x'),
                 "the file type \"?" + std::string(79, 'x') + "...\"");
}

TEST(HyperParameters, FeatureKeysOfWrongTypeAreRefused) {
  const GgufFile file = file_with("x.expert_count", std::string("8"));
  expect_error([&] { refuse_unknown_features(HyperParameters(file, "x")); }, ErrorCode::kBadFile,
               "wanted numbers, found string", "m.gguf: key x.expert_count");
}

}  // namespace
}  // namespace strata::engine

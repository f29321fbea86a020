#include "engine/model_spec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/architectures.h"
#include "tests/engine/small_model.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::make_small_model;
using testing::parse_file;
using testing::SmallModel;

ModelSpec spec_of(const SmallModel& model) { return read_model_spec(parse_file(model.bytes())); }

void expect_bad(const SmallModel& model, std::string_view message, std::string_view where,
                ErrorCode code = ErrorCode::kBadFile) {
  expect_error([&] { return spec_of(model); }, code, message, where);
}

TEST(ModelSpec, ReadsALlama) {
  const ModelSpec spec = spec_of(make_small_model());
  EXPECT_EQ(spec.name, "small");
  EXPECT_EQ(spec.shape.architecture, "llama");
  EXPECT_EQ(spec.shape.n_layers, 2u);
  EXPECT_EQ(spec.shape.d_model, 32u);
  EXPECT_EQ(spec.shape.head_dim, 8u);
  EXPECT_EQ(spec.shape.vocab_size, 16u);
  EXPECT_EQ(spec.shape.n_ctx_train, 64u);
  ASSERT_EQ(spec.shape.layers.size(), 2u);
  for (const LayerShape& layer : spec.shape.layers) {
    EXPECT_EQ(layer.kind, LayerKind::kFull);
    EXPECT_EQ(layer.n_heads, 4u);
    EXPECT_EQ(layer.n_kv_heads, 2u);
    EXPECT_EQ(layer.d_ff, 48u);
    EXPECT_TRUE(layer.has_rope);
  }
  EXPECT_EQ(spec.rope_pairing, RopePairing::kAdjacent);
  EXPECT_EQ(spec.activation, Activation::kSilu);
  EXPECT_FLOAT_EQ(spec.attention_scale, 1 / std::sqrt(8.0f));
  EXPECT_EQ(spec.embedding_scale, 1.0f);
  EXPECT_FLOAT_EQ(spec.norm_eps, 1e-5f);
  EXPECT_FALSE(spec.has_qkv_bias || spec.has_qk_norm || spec.has_post_norms);
  EXPECT_FALSE(spec.has_output_tensor);
  EXPECT_EQ(kv_bytes_per_token(spec.shape), 2u * 2u * 8u * 2u * 2u);
}

TEST(ModelSpec, ReadsEveryArchitectureOfTheTable) {
  for (const Architecture& row : architectures()) {
    SCOPED_TRACE(row.name);
    const ModelSpec spec =
        spec_of(make_small_model({.architecture = std::string(row.name), .n_layers = 6}));
    EXPECT_EQ(spec.shape.architecture, row.name);
    EXPECT_EQ(spec.rope_pairing, row.rope_pairing);
    EXPECT_EQ(spec.has_qkv_bias, row.has_qkv_bias);
    EXPECT_EQ(spec.has_qk_norm, row.has_qk_norm);
    EXPECT_EQ(spec.has_post_norms, row.has_post_norms);
    EXPECT_EQ(spec.rope_sets.size(), row.full_every > 0 ? 2u : 1u);
  }
}

TEST(ModelSpec, Smollm3LeavesEveryFourthLayerUnrotated) {
  const ModelSpec spec = spec_of(make_small_model({.architecture = "smollm3", .n_layers = 9}));
  for (uint32_t i = 0; i < 9; ++i) EXPECT_EQ(spec.shape.layers[i].has_rope, i != 3 && i != 7);
}

TEST(ModelSpec, RefusesUnknownArchitecturesByName) {
  SmallModel model = make_small_model();
  model.set("general.architecture", std::string("mamba"));
  expect_bad(model,
             "wanted an architecture of llama, smollm3, qwen2, qwen3, gemma3, found \"mamba\"",
             "m.gguf: key general.architecture", ErrorCode::kUnsupported);
  model.set("general.architecture", std::string("\x1b[31m"));
  expect_bad(model, "found \"?[31m\"", "general.architecture", ErrorCode::kUnsupported);
  model.set("general.architecture", uint32_t{3});
  expect_bad(model, "wanted a string, found u32", "general.architecture");
  model.erase_key("general.architecture");
  expect_bad(model, "wanted the name of an architecture, found no such key",
             "general.architecture");
}

TEST(ModelSpec, RefusesUnknownFeatures) {
  SmallModel model = make_small_model();
  model.set("llama.expert_count", uint32_t{8});
  expect_bad(model, "the model uses mixture of experts, which Strata does not compute for llama",
             "m.gguf: key llama.expert_count", ErrorCode::kUnsupported);
}

TEST(ModelSpec, NeedsItsKeys) {
  for (const char* key : {"llama.block_count", "llama.context_length", "llama.embedding_length",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.layer_norm_rms_epsilon"}) {
    SmallModel model = make_small_model();
    model.erase_key(key);
    expect_bad(model, "found no such key", std::string("m.gguf: key ") + key);
  }
}

TEST(ModelSpec, DefaultsWhatFilesLeaveOut) {
  SmallModel model = make_small_model({.n_kv_heads = 4});
  for (const char* key : {"llama.attention.head_count_kv", "llama.attention.key_length",
                          "llama.attention.value_length", "llama.rope.freq_base", "general.name"})
    model.erase_key(key);
  const ModelSpec spec = spec_of(model);
  EXPECT_EQ(spec.shape.layers[0].n_kv_heads, 4u);
  EXPECT_EQ(spec.shape.head_dim, 8u);
  EXPECT_EQ(spec.rope_sets[0].freq_base, 10000.0);
  EXPECT_EQ(spec.rope_sets[0].n_rot, 8u);
  EXPECT_EQ(spec.name, "");
}

TEST(ModelSpec, NamesMissingTensors) {
  SmallModel model = make_small_model();
  model.erase_tensor("blk.1.ffn_up.weight");
  model.erase_tensor("output_norm.weight");
  expect_bad(model, "missing tensors of llama: output_norm.weight, blk.1.ffn_up.weight", "m.gguf");
  for (int i = 0; i < 9; ++i)
    model.erase_tensor("blk.0." +
                       std::string(std::vector<const char*>{
                           "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm",
                           "ffn_gate", "ffn_up", "ffn_down"}[static_cast<size_t>(i)]) +
                       ".weight");
  expect_bad(model,
             "blk.0.ffn_gate.weight, blk.0.ffn_up.weight, blk.0.ffn_down.weight and possibly "
             "more",
             "m.gguf");
  model.erase_tensor("token_embd.weight");
  expect_bad(model, "missing tensors: token_embd.weight", "m.gguf");
}

TEST(ModelSpec, NeedsTheTensorsOfItsArchitecture) {
  for (const auto& [architecture, tensor] :
       {std::pair("qwen2", "blk.1.attn_k.bias"), std::pair("qwen3", "blk.0.attn_q_norm.weight"),
        std::pair("gemma3", "blk.1.post_ffw_norm.weight"),
        std::pair("gemma3", "blk.0.post_attention_norm.weight")}) {
    SmallModel model = make_small_model({.architecture = architecture});
    model.erase_tensor(tensor);
    expect_bad(model, std::string("missing tensors of ") + architecture + ": " + tensor, "m.gguf");
  }
}

TEST(ModelSpec, RefusesTensorsItWouldLeaveOut) {
  for (const char* name :
       {"blk.0.attn_q_norm.weight", "blk.2.attn_q.weight", "blk.00.attn_q.weight",
        "blk.-1.attn_q.weight", "blk.4294967296.attn_q.weight", "blk.", "blk.0", "blk.0.",
        "blk.0attn_q.weight", "other.weight", "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_sinks.weight", "token_embd.weight.scale"}) {
    SmallModel model = make_small_model();
    model.add_tensor(name, {8});
    expect_bad(model, "the tensor is no part of what Strata computes for llama",
               std::string("m.gguf: tensor ") + name + ", offset ", ErrorCode::kUnsupported);
  }
}

TEST(ModelSpec, TakesOptionalTensors) {
  SmallModel model = make_small_model();
  model.add_tensor("output.weight", {32, 16});
  for (const char* name : {"blk.0.attn_q.bias", "blk.1.attn_output.bias"})
    model.add_tensor(name, {32});
  model.add_tensor("blk.0.attn_k.bias", {16});
  EXPECT_TRUE(spec_of(model).has_output_tensor);
  model.tensor("blk.0.attn_k.bias").shape = {16, 1, 1};  // dimensions of 1 change nothing
  EXPECT_NO_THROW(spec_of(model));
}

TEST(ModelSpec, RefusesWrongShapes) {
  const auto refuses = [](const std::string& name, const std::vector<uint64_t>& shape,
                          const std::string& message) {
    SmallModel model = make_small_model();
    model.erase_tensor(name);
    model.add_tensor(name, shape);
    expect_bad(model, message, "m.gguf: tensor " + name + ", offset ");
  };
  refuses("blk.1.attn_q.weight", {32, 31}, "wanted shape [32, 32], found [32, 31]");
  refuses("blk.0.attn_k.weight", {16, 32}, "wanted shape [32, 16], found [16, 32]");
  refuses("blk.0.ffn_down.weight", {32, 48}, "wanted shape [48, 32], found [32, 48]");
  refuses("blk.0.attn_norm.weight", {32, 2}, "wanted shape [32, 1], found [32, 2]");
  refuses("output_norm.weight", {1, 32}, "wanted shape [32, 1], found [1, 32]");
  refuses("token_embd.weight", {16, 16}, "wanted shape [32, 16], found [16, 16]");
  refuses("blk.0.attn_v.weight", {32, 4, 4}, "wanted shape [32, 16], found [32, 4, 4]");
  refuses("blk.0.attn_v.weight", {32, 8, 1, 2}, "wanted shape [32, 16], found [32, 8, 1, 2]");
  SmallModel model = make_small_model();
  model.add_tensor("output.weight", {32, 15});
  expect_bad(model, "wanted shape [32, 16], found [32, 15]", "tensor output.weight");
}

TEST(ModelSpec, HoldsTheVocabularyToItsEmbedding) {
  SmallModel model = make_small_model({.vocab_size = 4});
  EXPECT_EQ(spec_of(model).shape.vocab_size, 4u);
  model.set("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "c", "d", "e"});
  expect_bad(model, "wanted a row for each of the tokenizer's 5 tokens, found 4 rows",
             "m.gguf: tensor token_embd.weight, offset ");
}

TEST(ModelSpec, ChecksHeadDimensions) {
  const auto with = [](uint32_t n_heads, uint32_t n_kv_heads, const char* key, uint32_t value) {
    SmallModel model = make_small_model();
    model.set("llama.attention.head_count", n_heads);
    model.set("llama.attention.head_count_kv", n_kv_heads);
    model.set(std::string("llama.attention.") + key, value);
    return model;
  };
  expect_bad(with(4, 3, "key_length", 8),
             "wanted KV heads that divide the 4 query heads of layer 0, found 3",
             "m.gguf: key llama.attention.head_count_kv");
  expect_bad(with(4, 2, "key_length", 12),
             "wanted a head_dim that is a multiple of 8 from 8 to 512, found 12",
             "m.gguf: key llama.attention.key_length", ErrorCode::kUnsupported);
  expect_bad(with(4, 2, "value_length", 16),
             "wanted heads of k and v of one length, found 8 and 16",
             "m.gguf: key llama.attention.value_length", ErrorCode::kUnsupported);
  expect_bad(with(4, 2, "key_length", 520), "wanted 8 to 512, found 520",
             "m.gguf: key llama.attention.key_length");
  SmallModel derived = with(3, 3, "key_length", 8);
  derived.erase_key("llama.attention.key_length");
  expect_bad(derived, "wanted the key, or heads (3) that divide embedding_length (32)",
             "m.gguf: key llama.attention.key_length");
  SmallModel narrow = with(8, 8, "key_length", 8);
  narrow.erase_key("llama.attention.key_length");
  narrow.erase_key("llama.attention.value_length");
  expect_bad(narrow, "wanted a head_dim that is a multiple of 8 from 8 to 512, found 4",
             "m.gguf: key llama.attention.key_length", ErrorCode::kUnsupported);
}

TEST(ModelSpec, LayersMayDiffer) {
  SmallModel model = make_small_model();
  model.set("llama.attention.head_count", std::vector<int32_t>{4, 2});
  model.set("llama.attention.head_count_kv", std::vector<int32_t>{2, 1});
  model.set("llama.feed_forward_length", std::vector<int32_t>{48, 16});
  for (const auto& [name, shape] :
       std::vector<std::pair<std::string, std::vector<uint64_t>>>{{"attn_q", {32, 16}},
                                                                  {"attn_k", {32, 8}},
                                                                  {"attn_v", {32, 8}},
                                                                  {"attn_output", {16, 32}},
                                                                  {"ffn_gate", {32, 16}},
                                                                  {"ffn_up", {32, 16}},
                                                                  {"ffn_down", {16, 32}}}) {
    model.erase_tensor("blk.1." + name + ".weight");
    model.add_tensor("blk.1." + name + ".weight", shape);
  }
  const ModelSpec spec = spec_of(model);
  EXPECT_EQ(spec.shape.group(1), 2u);
  EXPECT_EQ(spec.shape.layers[1].d_ff, 16u);
  EXPECT_EQ(kv_bytes_per_token(spec.shape), (2u + 1u) * 8u * 2u * 2u);
  model.set("llama.attention.head_count_kv", std::vector<int32_t>{2, 4});
  expect_bad(model, "wanted KV heads that divide the 2 query heads of layer 1, found 4",
             "m.gguf: key llama.attention.head_count_kv");
}

TEST(ModelSpec, Gemma3AttendsWindows) {
  const ModelSpec spec = spec_of(make_small_model({.architecture = "gemma3", .n_layers = 7}));
  for (uint32_t i = 0; i < 7; ++i) {
    const LayerShape& layer = spec.shape.layers[i];
    EXPECT_EQ(layer.kind, i == 5 ? LayerKind::kFull : LayerKind::kWindow) << i;
    EXPECT_EQ(layer.window, i == 5 ? 0u : 16u) << i;
    EXPECT_EQ(layer.rope_set, i == 5 ? 0 : 1) << i;
  }
  EXPECT_FLOAT_EQ(spec.embedding_scale, std::sqrt(32.0f));
  EXPECT_EQ(spec.activation, Activation::kGeluTanh);
  EXPECT_EQ(spec.rope_sets[1].freq_base, 10000.0);
}

std::vector<bool> windows_of(const SmallModel& model) {
  std::vector<bool> is_windowed;
  for (const LayerShape& layer : spec_of(model).shape.layers)
    is_windowed.push_back(layer.kind == LayerKind::kWindow);
  return is_windowed;
}

TEST(ModelSpec, WindowPatternIsAPeriodOrAFlagPerLayer) {
  SmallModel model = make_small_model({.architecture = "gemma3", .n_layers = 4});
  const std::string key = "gemma3.attention.sliding_window_pattern";
  model.set(key, uint32_t{2});
  EXPECT_EQ(windows_of(model), (std::vector<bool>{true, false, true, false}));
  model.set(key, uint32_t{0});
  EXPECT_EQ(windows_of(model), std::vector<bool>(4, true));
  model.set(key, uint32_t{1});
  EXPECT_EQ(windows_of(model), std::vector<bool>(4, false));
  model.set(key, std::vector<bool>{true, true, false, true});
  EXPECT_EQ(windows_of(model), (std::vector<bool>{true, true, false, true}));
  model.set(key, std::vector<int32_t>{0, 1, 1, 0});
  EXPECT_EQ(windows_of(model), (std::vector<bool>{false, true, true, false}));
  model.set(key, std::vector<bool>{true});
  expect_bad(model, "wanted one flag per layer (4), found 1 values of bool", "m.gguf: key " + key);
  model.set(key, std::vector<float>{1, 1, 1, 1});
  expect_bad(model, "wanted one flag per layer (4), found 4 values of f32", "m.gguf: key " + key);
  model.set(key, uint32_t{1025});
  expect_bad(model, "wanted 0 to 1024, found 1025", "m.gguf: key " + key);
  model.set("gemma3.attention.sliding_window", uint32_t{0});
  model.erase_key(key);
  EXPECT_EQ(windows_of(model), std::vector<bool>(4, false));
}

TEST(ModelSpec, WindowsOfOtherArchitecturesAreRefusedUnlessTheyHoldEverything) {
  SmallModel model = make_small_model();
  model.set("llama.attention.sliding_window", uint32_t{63});
  expect_bad(model,
             "the model attends a sliding window of 63, which Strata does not compute for llama",
             "m.gguf: key llama.attention.sliding_window", ErrorCode::kUnsupported);
  model.set("llama.attention.sliding_window", uint32_t{64});
  EXPECT_EQ(windows_of(model), std::vector<bool>(2, false));
}

TEST(ModelSpec, WindowedLayersHaveTheLengthsOfFullOnes) {
  for (const char* suffix :
       {"attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"}) {
    SmallModel model = make_small_model({.architecture = "gemma3"});
    const std::string key = std::string("gemma3.") + suffix;
    model.set(key, uint32_t{8});
    EXPECT_NO_THROW(spec_of(model)) << suffix;
    model.set(key, uint32_t{16});
    expect_bad(model, "wanted windowed layers of the same length as full ones (8), found 16",
               "m.gguf: key " + key, ErrorCode::kUnsupported);
  }
}

TEST(ModelSpec, Gemma27BScalesByItsModelDimension) {
  SmallModel model = make_small_model({.architecture = "gemma3", .n_layers = 62, .d_model = 64});
  EXPECT_FLOAT_EQ(spec_of(model).attention_scale, 1 / std::sqrt(64.0f / 4));
  model = make_small_model({.architecture = "gemma3", .n_layers = 61, .d_model = 64});
  EXPECT_FLOAT_EQ(spec_of(model).attention_scale, 1 / std::sqrt(8.0f));
  // More heads than dimensions would divide by zero.
  model = make_small_model(
      {.architecture = "gemma3", .n_layers = 62, .d_model = 8, .n_heads = 16, .n_kv_heads = 2});
  expect_bad(model,
             "wanted heads that divide embedding_length (8) in a model of 62 layers, found 16",
             "m.gguf: key gemma3.attention.head_count");
}

}  // namespace
}  // namespace strata::engine

// Keys out of the ordinary through the walk: a budget of everything gives the bits of exact
// attention, whatever a method makes of them. What it estimates of them: tests/index.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/engine/small_model.h"
#include "tests/engine/tiny_engine.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine {
namespace {

using index::Method;
using testing::is_same;
using testing::Logits;
using testing::SmallModel;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kOddHeads = 4, kOddHeadDim = 32, kOddModelDim = 32;
constexpr int32_t kWild = 15;     // the token whose keys are not finite
constexpr uint32_t kChannel = 6;  // of every KV head: the one that is out of the ordinary
// One wild key among those that pq trains with, one that waits for a codebook, one in the step.
constexpr uint32_t kWildAt[] = {517, 1130, 1199};
constexpr uint32_t kOddTokens = 1200, kOddExact = 1100;

/// The weights from a row's values to one output.
std::span<float> output_row(SmallModel& model, const std::string& name, uint32_t row) {
  SmallModel::Tensor& tensor = model.tensor(name);
  return std::span(tensor.values).subspan(row * tensor.shape[0], tensor.shape[0]);
}

void set_row(SmallModel& model, const std::string& name, uint32_t row, uint32_t from, float value) {
  const auto weights = output_row(model, name, row);
  std::ranges::fill(weights, 0.0f);
  weights[from] = value;
}

/// Random, but the first two values of every row are its token's alone: 10 of kWild and 0 of the
/// others, and 1 of all.
SmallModel odd_model(uint32_t n_kv_heads) {
  SmallModel model = testing::make_small_model({.d_model = kOddModelDim,
                                                .n_heads = kOddHeads,
                                                .n_kv_heads = n_kv_heads,
                                                .head_dim = kOddHeadDim,
                                                .n_ctx_train = 2048});
  testing::draw_weights(model, 11);
  for (int32_t token = 0; token <= kWild; ++token) {
    const auto row = output_row(model, "token_embd.weight", static_cast<uint32_t>(token));
    row[0] = token == kWild ? 10.0f : 0.0f;
    row[1] = 1;
  }
  for (const std::string layer : {"blk.0.", "blk.1."})
    for (const char* name : {"attn_output.weight", "ffn_down.weight"})
      for (const uint32_t row : {0u, 1u})
        std::ranges::fill(output_row(model, layer + name, row), 0);
  return model;
}

/// Keys are not turned by their positions.
void stop_rotation(SmallModel& model) {
  model.add_tensor("rope_freqs.weight", {kOddHeadDim / 2}, 1e30f);
}

struct OddKeys {
  const char* name;
  std::function<void(SmallModel&, uint32_t n_kv_heads)> make;
  bool repeats;                                            // the text is one token over and over
  bool has_finite_logits;                                  // of every row
  std::function<bool(std::span<const float> keys)> shows;  // all keys of a stream, [n][kOddHeadDim]
};

void set_channel(SmallModel& model, const char* weight, uint32_t n_heads, uint32_t from,
                 float value, uint32_t channel = kChannel) {
  for (const std::string layer : {"blk.0.", "blk.1."})
    for (uint32_t head = 0; head < n_heads; ++head)
      set_row(model, layer + weight, head * kOddHeadDim + channel, from, value);
}

bool has_equal_keys(std::span<const float> keys) {
  for (size_t i = kOddHeadDim; i < keys.size(); ++i)
    if (keys[i] != keys[i - kOddHeadDim]) return false;
  return true;
}

const OddKeys kOddKeys[] = {
    {"no key differs from zero",
     [](SmallModel& model, uint32_t) {
       for (const char* name : {"blk.0.attn_k.weight", "blk.1.attn_k.weight"})
         std::ranges::fill(model.tensor(name).values, 0.0f);
     },
     false, true, [](auto keys) { return std::ranges::count(keys, 0.0f) == std::ssize(keys); }},
    {"all keys are equal", [](SmallModel& model, uint32_t) { stop_rotation(model); }, true, true,
     [](auto keys) { return has_equal_keys(keys) && keys[0] != 0; }},
    {"a channel is far from the others",
     [](SmallModel& model, uint32_t n_kv_heads) {
       set_channel(model, "attn_k.weight", n_kv_heads, 1, 5000);
     },
     false, true,
     [](auto keys) {
       return std::ranges::max(keys) > 3000 && std::isfinite(std::ranges::max(keys));
     }},
    // Every query has a positive value there, so no one attends to such a key.
    {"keys are infinitely far from every query",
     [](SmallModel& model, uint32_t n_kv_heads) {
       stop_rotation(model);
       set_channel(model, "attn_k.weight", n_kv_heads, 0, -1e7f);
       set_channel(model, "attn_q.weight", kOddHeads, 1, 1);
     },
     false, true,
     [](auto keys) { return std::ranges::any_of(keys, [](float x) { return std::isinf(x); }); }},
    {"keys are not numbers",
     [](SmallModel& model, uint32_t n_kv_heads) {
       // RoPE turns two infinities of a pair into what is no number.
       set_channel(model, "attn_k.weight", n_kv_heads, 0, 3e38f);
       set_channel(model, "attn_k.weight", n_kv_heads, 0, 3e38f, kChannel + 1);
     },
     false, false,
     [](auto keys) { return std::ranges::any_of(keys, [](float x) { return std::isnan(x); }); }},
};

std::vector<int32_t> odd_text(const OddKeys& odd) {
  auto text = testing::random_tokens(kOddTokens, kWild, 3);
  if (odd.repeats) std::ranges::fill(text, 5);
  for (const uint32_t pos : kWildAt)
    if (!odd.repeats) text[pos] = kWild;
  return text;
}

/// [n_pos][kOddHeadDim] of one stream.
std::vector<float> keys_of(ZooWalk& walk, const Sequence& sequence, const KernelTable& kernels,
                           uint32_t layer, uint32_t kv_head) {
  std::vector<float> keys;
  std::vector<float> block(uint64_t{kOddHeadDim} * kBlockPositions);
  for (uint32_t pos = 0; pos < sequence.n_pos(); ++pos) {
    if (pos % kBlockPositions == 0)
      kernels.index.load_k(walk.cache().layout(), walk.cache().block(sequence, layer, kv_head, pos),
                           block.data());
    for (uint32_t d = 0; d < kOddHeadDim; ++d)
      keys.push_back(block[uint64_t{d} * kBlockPositions + pos % kBlockPositions]);
  }
  return keys;
}

bool is_finite(const Logits& logits) {
  return std::ranges::all_of(logits, [](const std::vector<float>& row) {
    return std::ranges::all_of(row, [](float x) { return std::isfinite(x); });
  });
}

TEST(OddKeys, ABudgetOfEverythingIsExactAttentionWhateverTheKeysAre) {
  for (const uint32_t n_kv_heads : {1u, kOddHeads})  // groups of 4 and 1
    for (const OddKeys& odd : kOddKeys) {
      if (sanitizer::kAny && n_kv_heads != 1) continue;
      SCOPED_TRACE(std::string(odd.name) + ", KV heads: " + std::to_string(n_kv_heads));
      SmallModel small = odd_model(n_kv_heads);
      odd.make(small, n_kv_heads);
      const testing::TemporaryModel file(small);
      const auto opened = GgufFile::open(file.path());
      const Model model = testing::load_model(opened);
      const auto text = odd_text(odd);
      WalkSetting setting;
      setting.kernels = cpu_attn::available_kernels().back();
      setting.chunk_rows = 128;
      setting.n_ctx = 2048;
      ZooWalk exact(model, setting);
      Sequence read = exact.sequence();
      const Logits expected = exact.feed(read, text);
      EXPECT_EQ(is_finite(expected), odd.has_finite_logits);
      EXPECT_TRUE(odd.shows(keys_of(exact, read, *setting.kernels, 0, n_kv_heads - 1)));
      setting.rule.budget = {index::Budget::Kind::kShare, 1.0};
      for (const auto& method : index::method_names()) {
        SCOPED_TRACE(method.name);
        setting.method = method.method;
        ZooWalk walk(model, setting);
        Sequence sequence = walk.sequence();
        Logits logits = walk.feed(sequence, std::span(text).first(kOddExact));
        for (auto& row :
             walk.feed(sequence, std::span(text).subspan(kOddExact), 0, Attention::kSelected))
          logits.push_back(std::move(row));
        EXPECT_EQ(testing::first_difference(logits, expected).value_or(""), "");
        const SelectionCounts& counts = walk.walk().selection_counts();
        EXPECT_GT(counts.blocks, 0u);
        EXPECT_EQ(counts.attended_blocks, counts.blocks);
      }
    }
}

}  // namespace
}  // namespace strata::engine

// Layers that attend all of a text, or what the layer before has chosen, beside those that ask the
// index (index::LayerMode).
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "engine/attention_probe.h"
#include "tests/engine/selected_walk.h"

namespace strata::engine {
namespace {

using index::LayerMode;
using index::Method;
using testing::first_difference;
using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::Place;
using testing::SelectedSetting;
using testing::SelectedWalk;

constexpr uint32_t kContext = 1200, kLast = 12;

/// What every KV head chose, by layer, in the order of steps and heads.
class ChoiceProbe : public AttentionProbe {
 public:
  void hear(const ProbedHead& head) override {
    choices[head.layer].emplace_back(head.chosen.begin(), head.chosen.end());
    n_blocks = head.n_blocks;
  }
  std::map<uint32_t, std::vector<std::vector<uint32_t>>> choices;
  uint32_t n_blocks = 0;
};

class LayerModes : public ::testing::Test {
 protected:
  SelectedSetting setting(std::vector<LayerMode> layers, Method method = Method::kQuest) const {
    return {.method = method, .layers = std::move(layers)};
  }
  Logits selected(SelectedWalk& walk, AttentionProbe* probe = nullptr) const {
    Sequence sequence = walk.sequence();
    walk.feed(sequence, std::span(text_).first(kContext));
    walk.walk().set_probe(probe);
    Logits logits =
        walk.feed(sequence, std::span(text_).subspan(kContext), 5, Attention::kSelected);
    walk.walk().set_probe(nullptr);
    return logits;
  }
  Logits selected(const SelectedSetting& of) const {
    SelectedWalk walk(member_.model, of);
    return selected(walk);
  }

  const LoadedMember member_{"llama3"};
  const std::vector<int32_t> text_ = member_.text(kContext + kLast, 3);
};

TEST_F(LayerModes, DenseInAllIsExactAttentionThatAsksNoIndex) {
  ASSERT_EQ(member_.model.shape().n_layers, 3u);
  SelectedWalk walk(member_.model, setting({3, LayerMode::kDense}));
  const Logits logits = selected(walk);
  const Logits exact = SelectedWalk(member_.model, setting({})).feed_all(text_);
  EXPECT_EQ(first_difference(logits, std::span(exact).last(kLast)), std::nullopt);
  const SelectionCounts& counts = walk.walk().selection_counts();
  EXPECT_EQ(counts.attended_blocks, counts.blocks);
  EXPECT_EQ(counts.index_bytes, 0u);
}

TEST_F(LayerModes, AreOfTheLayersThatAreNamed) {
  SelectedWalk plain(member_.model, setting({})),
      mixed(member_.model, setting({LayerMode::kIndex, LayerMode::kDense, LayerMode::kReuse}));
  ChoiceProbe of_plain, of_mixed;
  selected(plain, &of_plain);
  selected(mixed, &of_mixed);
  EXPECT_EQ(of_mixed.choices[0], of_plain.choices[0]);
  EXPECT_NE(of_mixed.choices[1], of_plain.choices[1]);
  EXPECT_EQ(of_mixed.choices[1].back().size(), of_mixed.n_blocks);
  EXPECT_EQ(of_mixed.choices[2], of_mixed.choices[1]);  // what the layer before attends: all
}

/// A third of the index is not read, and the blocks are those of the layer before, head by head.
TEST_F(LayerModes, ReusedBlocksAreThoseOfTheLayerBefore) {
  for (const Method method : {Method::kQuest, Method::kRabitqTail}) {
    SelectedWalk plain(member_.model, setting({}, method)),
        reusing(member_.model, setting({LayerMode::kIndex, LayerMode::kReuse}, method));
    ChoiceProbe of_plain, of_reusing;
    const Logits logits = selected(plain, &of_plain);
    EXPECT_FALSE(is_same(selected(reusing, &of_reusing), logits));
    EXPECT_EQ(of_reusing.choices[0], of_plain.choices[0]);
    EXPECT_EQ(of_reusing.choices[1], of_reusing.choices[0]);
    EXPECT_NE(of_plain.choices[1], of_plain.choices[0]);
    EXPECT_NE(of_reusing.choices[2], of_reusing.choices[1]);
    const SelectionCounts &of = reusing.walk().selection_counts(),
                          &all = plain.walk().selection_counts();
    EXPECT_EQ(3 * of.index_bytes, 2 * all.index_bytes);
    EXPECT_EQ(of.attended_blocks, all.attended_blocks);
  }
}

/// Where K and V lie changes no bit.
TEST_F(LayerModes, AreTheSameWithBlocksOnDisk) {
  for (const auto& layers : {std::vector{LayerMode::kDense},
                             {LayerMode::kIndex, LayerMode::kReuse, LayerMode::kReuse}}) {
    SelectedSetting of = setting(layers, Method::kRabitq);
    const Logits expected = selected(of);
    of.place = Place::kSimulated;
    of.dram_positions = 800;  // a dense layer attends a whole span at a time
    SelectedWalk away(member_.model, of);
    EXPECT_EQ(first_difference(selected(away), expected), std::nullopt);
    EXPECT_GT(away.walk().selection_counts().missing_blocks, 0u);
  }
}

TEST(CheckModes, RefusesLayersThatAreNotThereOrHaveNothingToReuse) {
  const auto why = [](const char* name, std::vector<LayerMode> layers) -> std::string {
    const LoadedMember member(name);
    index::Rule rule;
    rule.layers = std::move(layers);
    try {
      check_modes(rule, member.model.shape());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    return "";
  };
  using Of = LayerMode;
  EXPECT_EQ(why("llama3", {Of::kDense, Of::kReuse, Of::kReuse, Of::kIndex}), "");
  EXPECT_EQ(why("llama3", {Of::kIndex, Of::kIndex, Of::kIndex, Of::kDense}),
            "layer 3 is not there: the model has 3");
  EXPECT_EQ(why("llama3", {Of::kReuse}),
            "layer 0 has no full layer of as many KV heads before it, whose blocks it could reuse");
  EXPECT_EQ(why("gemma3", {Of::kDense}), "");  // attends all of its window as it is
  EXPECT_EQ(why("gemma3", {Of::kIndex, Of::kReuse}),
            "layer 1 attends a window, so that nothing is chosen");
  EXPECT_NE(why("gemma3", {Of::kIndex, Of::kIndex, Of::kIndex, Of::kIndex, Of::kIndex, Of::kReuse}),
            "");
}

}  // namespace
}  // namespace strata::engine

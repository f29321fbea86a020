// Packs that a longer one holds all of: a chat saves the end of its text after every turn.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <utility>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/rows_fixture.h"

namespace strata::tiers {
namespace {

using Names = std::vector<std::string>;

class PackCovered : public ::testing::Test {
 protected:
  std::string save(uint32_t first_pos, uint32_t end_pos, const Presence& is_there = {}) {
    return save_run(packs_, run_of(small_shape(), text_, first_pos, end_pos), is_there);
  }
  uint32_t found(uint32_t n_tokens) {
    return packs_.find(small_shape(), {}, std::span(text_).first(n_tokens)).n_positions;
  }
  void pin(const std::string& session, uint32_t n_tokens, const Names& names) {
    packs_.pin(session,
               {small_shape().model, "m", {text_.begin(), text_.begin() + n_tokens}, names});
  }

  FreshPath fresh_;
  ShutSessions calls_;
  PackDirectory packs_ = PackDirectory::open(fresh_.path(), {}, calls_);
  std::vector<int32_t> text_ = random_text(1, 1500);
};

TEST_F(PackCovered, TheLongerOneTakesThePlaceOfWhatItHolds) {
  const std::string first = save(0, 300);
  save(256, 400);
  save(256, 500);
  const std::string last = save(256, 600);
  Names there = {first, last};
  std::ranges::sort(there);
  EXPECT_EQ(names_in(fresh_.path()), there);
  EXPECT_EQ(packs_.n_packs(), 2u);
  EXPECT_EQ(found(600), 600u);
  expect_whole(packs_.find(small_shape(), {}, text_));
  // Of a text that ends where a shorter one did, whole blocks are left.
  EXPECT_EQ(found(500), 256u + 224u);
  EXPECT_EQ(problems_of(packs_), "");
}

TEST_F(PackCovered, ASessionKeepsItsPackUntilItPinsTheLongerOne) {
  const std::string shorter = save(0, 300);
  pin("chat", 300, {shorter});
  pin("other", 300, {shorter});
  const std::string longer = save(0, 400);
  EXPECT_EQ(packs_.n_packs(), 2u);
  pin("chat", 400, {longer});
  EXPECT_EQ(packs_.n_packs(), 2u) << "the other session has it";
  EXPECT_TRUE(packs_.unpin("other"));
  pin("chat", 400, {longer});
  EXPECT_EQ(names_in(fresh_.path()), (Names{longer, "chat.session"}));
  EXPECT_EQ(problems_of(packs_), "");
}

TEST_F(PackCovered, AChatOf200TurnsLeavesAPackFor256PositionsAndNotForATurn) {
  constexpr uint32_t kTurns = 200, kTurnTokens = 60;
  text_ = random_text(2, uint64_t{kTurns} * kTurnTokens);
  uint64_t saved_bytes = 0;
  for (uint32_t end = kTurnTokens; end <= text_.size(); end += kTurnTokens) {
    // As engine::ContextCache does: from the last whole extent of what is saved.
    const uint32_t first = (end - kTurnTokens) / kExtentPositions * kExtentPositions;
    saved_bytes += std::filesystem::file_size(fresh_.path() + "/" + save(first, end));
    Names names;
    const FoundContext found =
        packs_.find(small_shape(), {}, std::span<const int32_t>(text_).first(end));
    ASSERT_EQ(found.n_positions, end);
    for (const FoundPiece& piece : found.pieces) names.push_back(piece.pack->name());
    pin("chat", end, names);
  }
  EXPECT_EQ(packs_.n_packs(), text_.size() / kExtentPositions + 1);
  EXPECT_EQ(problems_of(packs_), "");
  const uint64_t kept_bytes = packs_.used_bytes();
  std::printf("%u turns of %u tokens: %zu packs of %lu bytes, written %lu\n", kTurns, kTurnTokens,
              packs_.n_packs(), static_cast<unsigned long>(kept_bytes),
              static_cast<unsigned long>(saved_bytes));
  EXPECT_LT(2 * kept_bytes, saved_bytes);
}

TEST_F(PackCovered, WhatTheLongerOneLacksStays) {
  // The blocks of the windowed layer that a text of 300 ends with.
  save(0, 300);
  save(0, 600, [](uint32_t, uint32_t block) { return block >= 17; });
  EXPECT_EQ(packs_.n_packs(), 2u);
  EXPECT_EQ(found(300), 300u);
  // Another text.
  auto other = text_;
  other[290] ^= 1;
  save_run(packs_, run_of(small_shape(), other, 0, 400));
  EXPECT_EQ(packs_.n_packs(), 3u);
  // Tokens that a model wrote are found by their bytes; those of a tokenizer are not.
  PackRun generated = run_of(small_shape(), other, 0, 410);
  generated.is_generated.assign(410, 1);
  save_run(packs_, generated);
  EXPECT_EQ(packs_.n_packs(), 4u);
}

TEST_F(PackCovered, WhatHasIndexRowsStays) {
  const std::string shorter = save(0, 300);
  ASSERT_TRUE(save_rows(packs_, shorter, small_rows(), 0, 1));
  save(0, 400);
  EXPECT_EQ(packs_.n_packs(), 2u);
  EXPECT_EQ(expect_whole_rows(packs_, packs_.find(small_shape(), {}, std::span(text_).first(300)),
                              small_rows()),
            1u);
}

TEST_F(PackCovered, NothingGoesWhereASessionCannotBeRead) {
  const std::string shorter = save(0, 300);
  pin("chat", 300, {shorter});
  calls_.is_shut = true;
  save(0, 400);
  calls_.is_shut = false;
  EXPECT_EQ(packs_.n_packs(), 2u);
  EXPECT_EQ(packs_.session("chat")->packs, Names{shorter});
}

TEST_F(PackCovered, ALongerOneIsFoundByWhoHadSeenTheShorterOne) {
  save(0, 300);
  PackDirectory other = PackDirectory::open(fresh_.path(), {});
  const FoundContext held = other.find(small_shape(), {}, std::span(text_).first(300));
  save(0, 400);
  expect_whole(held);
  EXPECT_EQ(other.find(small_shape(), {}, text_).n_positions, 400u);
}

/// Something happens when a pack is about to be opened, once.
class AtAnOpening final : public DurableCalls {
 public:
  std::function<void()> happens;
  std::string at;
  int open_at(int directory, const std::string& name, OpenFor purpose) override {
    if (happens && name == at) std::exchange(happens, nullptr)();
    return DurableCalls::open_at(directory, name, purpose);
  }
};

TEST_F(PackCovered, ALongerOneIsFoundWhereTheShorterOneGoesDuringTheSearch) {
  AtAnOpening calls;
  PackDirectory other = PackDirectory::open(fresh_.path(), {}, calls);
  const std::string beginning = save(0, 256);
  calls.at = save(256, 300);
  ASSERT_EQ(other.find(small_shape(), {}, text_).n_positions, 300u);
  calls.happens = [&] { save(256, 400); };
  EXPECT_EQ(other.find(small_shape(), {}, text_).n_positions, 400u);
  EXPECT_EQ(names_in(fresh_.path()).size(), 2u) << beginning << " and the longer one";
}

}  // namespace
}  // namespace strata::tiers

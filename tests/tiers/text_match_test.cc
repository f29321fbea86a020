// Tokens found by the bytes they stand for, in memory and over many packs.
#include "tiers/text_match.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/tiers/fresh_folder.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

/// Token t stands for t % 4 + 1 letters of one kind: a text has many spellings.
void letters(int32_t token, std::string& out) {
  out.append(static_cast<size_t>(token) % 4 + 1, static_cast<char>('a' + token / 4 % 3));
}

std::string text_of(std::span<const int32_t> tokens) {
  std::string text;
  for (const int32_t token : tokens) letters(token, text);
  return text;
}

std::vector<uint8_t> marks(size_t n, size_t first_generated) {
  std::vector<uint8_t> is_generated(n);
  std::fill(is_generated.begin() + static_cast<std::ptrdiff_t>(first_generated), is_generated.end(),
            1);
  return is_generated;
}

KnownText match(std::string_view text, std::span<const int32_t> tokens,
                std::span<const uint8_t> is_generated, const TokenBytes& bytes_of = letters) {
  TextMatch match(text, bytes_of);
  match.follow(0, tokens, is_generated);
  return match.take_best();
}

TEST(TextMatch, EndsBehindTheLastGeneratedTokenThatAgrees) {
  const std::vector<int32_t> tokens = {0, 4, 8, 1, 5};  // a b c aa bb
  EXPECT_EQ(match("abcaabbccc", tokens, marks(5, 3)).tokens, tokens);
  EXPECT_EQ(match("abcaabbccc", tokens, marks(5, 3)).n_bytes, 7u);
  const KnownText cut = match("abcaab", tokens, marks(5, 3));
  EXPECT_EQ(cut.tokens, (std::vector<int32_t>{0, 4, 8, 1}));
  EXPECT_EQ(cut.is_generated, (std::vector<uint8_t>{0, 0, 0, 1}));
  EXPECT_TRUE(match("abca", tokens, marks(5, 3)).tokens.empty());
  EXPECT_TRUE(match("abcaabb", tokens, marks(5, 5)).tokens.empty());  // none is generated
}

TEST(TextMatch, NeverEndsInsideACharacter) {
  const auto bytes_of = [](int32_t token, std::string& out) { out += static_cast<char>(token); };
  const std::vector<int32_t> tokens = {'a', 0xC3, 0xA9};
  EXPECT_EQ(match("a\xC3\xA9", tokens, marks(3, 0), bytes_of).n_bytes, 3u);
  EXPECT_EQ(match("a\xC3\xAA", tokens, marks(3, 0), bytes_of).n_bytes, 1u);
}

class TextOfPacks : public ::testing::Test {
 protected:
  TextOfPacks() : packs_(PackDirectory::open(folder_.path("packs"), {})) {}
  /// Saves positions [first, end) of a text whose tokens from `generated` on a model wrote.
  void save(std::span<const int32_t> text, uint32_t first, uint32_t end, uint32_t generated) {
    PackRun run = run_of(small_shape(), text, first, end);
    const auto of_text = marks(text.size(), generated);
    run.is_generated.assign(of_text.begin() + first, of_text.begin() + end);
    save_run(packs_, run);
  }
  KnownText find(const std::string& text) {
    return packs_.find_text(small_shape(), {}, text, letters);
  }
  FreshFolder folder_;
  PackDirectory packs_;
};

TEST_F(TextOfPacks, ALongAnswerIsFoundOverManyPacks) {
  const auto text = random_text(3, 1300);
  save(text, 0, 512, 400);
  save(text, 512, 1024, 400);
  save(text, 1024, 1300, 400);
  const KnownText known = find(text_of(text) + "zzz");
  EXPECT_EQ(known.tokens, text);
  EXPECT_EQ(known.is_generated, marks(1300, 400));
  EXPECT_TRUE(find("z" + text_of(text)).tokens.empty());
}

TEST_F(TextOfPacks, TheLongestOfManyContinuationsIsTaken) {
  const auto text = random_text(3, 900);
  auto other = text;
  for (uint32_t i = 600; i < 900; ++i) other[i] = text[i] + 4;  // other letters
  save(text, 0, 512, 300);
  save(other, 512, 900, 300);
  save(text, 512, 700, 300);
  save(text, 256, 900, 300);
  EXPECT_EQ(find(text_of(text)).tokens, text);
  EXPECT_EQ(find(text_of(other)).tokens, other);
}

TEST_F(TextOfPacks, AnotherModelsAnswersAreNotTaken) {
  const auto text = random_text(3, 300);
  save(text, 0, 300, 0);
  PackShape shape = small_shape();
  shape.model.low ^= 1;
  EXPECT_TRUE(packs_.find_text(shape, {}, text_of(text), letters).tokens.empty());
}

TEST_F(TextOfPacks, WhatIsRemovedIsNotFound) {
  const auto text = random_text(3, 300);
  save(text, 0, 300, 0);
  packs_.remove_unpinned(std::vector{packs_.packs().at(0).name});
  EXPECT_TRUE(find(text_of(text)).tokens.empty());
}

}  // namespace
}  // namespace strata::tiers

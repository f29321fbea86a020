#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

#include "engine/text/tokenizer.h"
#include "tests/engine/small_vocabulary.h"

namespace strata::engine {
namespace {

using testing::make_bpe_spec;
using testing::make_spm_spec;
using testing::spm_byte;
using testing::with_replacements;

/// BPE whose tokens end inside characters: some halves of three-byte and four-byte characters.
std::unique_ptr<Tokenizer> splitting_tokenizer() {
  return Tokenizer::make(make_bpe_spec({{"\xE2", "\x82"},
                                        {"\xE2\x82", "\xAC"},
                                        {"\xF0", "\x9F"},
                                        {"\xF0\x9F", "\x98"},
                                        {"\x80", "\xE2"},
                                        {"a", "\xC3"}}));
}

TEST(StreamDecoder, TextIsThatOfTheWholeAndNeverEndsInsideACharacter) {
  const auto tokenizer = splitting_tokenizer();
  const uint32_t seed = 21;
  SCOPED_TRACE(seed);
  testing::TextSource source(seed);
  for (int round = 0; round < 3000; ++round) {
    const std::string text = source.text(source.below(30));
    StreamDecoder decoder(*tokenizer);
    std::string joined;
    for (const TokenId token : testing::encode_plainly(*tokenizer, text)) {
      const std::string_view part = decoder.push(token);
      ASSERT_EQ(utf8_fault(part), part.size()) << "round " << round;
      joined += part;
    }
    EXPECT_EQ(decoder.finish(), "");
    ASSERT_EQ(joined, text) << "round " << round;
  }
}

TEST(StreamDecoder, AnyTokensGiveWholeCharacters) {
  const auto tokenizer = splitting_tokenizer();
  const uint32_t seed = 22;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20000; ++round) {
    std::vector<TokenId> tokens(random() % 12);
    for (TokenId& token : tokens) {
      const uint32_t n = tokenizer->vocab_size();
      token = static_cast<TokenId>(random() % 3 == 0 ? random() % n : n - 1 - random() % 64 % n);
    }
    StreamDecoder decoder(*tokenizer);
    std::string joined;
    for (const TokenId token : tokens) {
      const std::string_view part = decoder.push(token);
      ASSERT_EQ(utf8_fault(part), part.size()) << "round " << round;
      joined += part;
    }
    joined += decoder.finish();
    ASSERT_EQ(joined, with_replacements(tokenizer->decode(tokens))) << "round " << round;
  }
}

TEST(StreamDecoder, ByteTokensWaitForTheRestOfTheirCharacter) {
  const auto tokenizer = Tokenizer::make(make_spm_spec({{"a", -1}}));
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(spm_byte(0xF0)), "");
  EXPECT_EQ(decoder.push(spm_byte(0x9F)), "");
  EXPECT_EQ(decoder.push(1), "");  // a control token has no text and breaks nothing
  EXPECT_EQ(decoder.push(spm_byte(0x98)), "");
  EXPECT_EQ(decoder.push(spm_byte(0x80)), "\xF0\x9F\x98\x80");
  EXPECT_EQ(decoder.push(spm_byte(0xE2)), "");
  EXPECT_EQ(decoder.push(tokenizer->find("a")),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(decoder.push(spm_byte(0xE2)), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, IdsOutsideTheVocabularyAreSilent) {
  const auto tokenizer = splitting_tokenizer();
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(-1), "");
  EXPECT_EQ(decoder.push(1 << 30), "");
  EXPECT_EQ(decoder.finish(), "");
}

}  // namespace
}  // namespace strata::engine

#include "engine/text/bpe_tokenizer.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "tests/engine/small_vocabulary.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::add_token;
using testing::encode_plainly;
using testing::expect_error;
using testing::in_alphabet;
using testing::make_bpe_spec;
using testing::TextSource;

using Ids = std::vector<TokenId>;
using Merges = std::vector<std::pair<std::string, std::string>>;

/// The definition: of all pairs of neighbours the one that stands first in the list of merges
/// becomes one, the leftmost first, until none stands there. Every step looks at every pair.
Ids encode_by_definition(const TokenizerSpec& spec, std::string_view text) {
  std::map<std::string, size_t> ranks;
  for (size_t i = 0; i < spec.merges.size(); ++i) ranks.emplace(spec.merges[i], i);
  std::map<std::string, TokenId> ids;
  for (size_t i = 0; i < spec.tokens.size(); ++i)
    ids.emplace(spec.tokens[i], static_cast<TokenId>(i));
  const PreTokenizer pre_tokenizer(spec.pre);
  EncodeWork work;
  Ids out;
  uint32_t begin = 0;
  for (const uint32_t end : pre_tokenizer.split(text, work)) {
    std::vector<std::string> symbols;
    for (const char c : text.substr(begin, end - begin))
      symbols.push_back(in_alphabet(std::string(1, c)));
    begin = end;
    for (;;) {
      size_t best = symbols.size(), best_rank = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks.find(symbols[i] + " " + symbols[i + 1]);
        if (found == ranks.end() || (best < symbols.size() && found->second >= best_rank)) continue;
        best = i;
        best_rank = found->second;
      }
      if (best == symbols.size()) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    for (const std::string& symbol : symbols) out.push_back(ids.at(symbol));
  }
  return out;
}

/// Merges of tokens that earlier merges made, over few letters and the bytes of some characters.
Merges drawn_merges(std::mt19937& random) {
  const std::vector<std::string> letters = {"a",    "b",    " ",    "\n",   "1",
                                            "\xC3", "\xA9", "\xE6", "\x9D", "\xB1"};
  std::vector<std::string> parts = letters;
  Merges merges;
  std::set<std::pair<std::string, std::string>> known;
  const size_t n_merges = 1 + random() % 80;
  while (merges.size() < n_merges) {
    const std::string& left = parts[random() % parts.size()];
    const std::string& right = parts[random() % parts.size()];
    const std::pair<std::string, std::string> merge(left, right);
    if (left.size() + right.size() > 24 || !known.insert(merge).second) continue;
    parts.push_back(merge.first + merge.second);
    merges.push_back(merge);
  }
  if (random() % 3 == 0) std::shuffle(merges.begin(), merges.end(), random);
  return merges;
}

TEST(ByteAlphabet, IsThatOfGpt2) {
  std::set<uint32_t> code_points;
  for (int byte = 0; byte < 256; ++byte) {
    const uint32_t code_point = alphabet_code_point(static_cast<uint8_t>(byte));
    code_points.insert(code_point);
    const std::string text = in_alphabet(std::string(1, static_cast<char>(byte)));
    EXPECT_TRUE(is_of_alphabet(text));
    EXPECT_EQ(bytes_of_alphabet(text), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(code_points.size(), 256u);
  EXPECT_EQ(in_alphabet(" "), "\xC4\xA0");   // U+0120, which vocabularies show as a G with a dot
  EXPECT_EQ(in_alphabet("\n"), "\xC4\x8A");  // U+010A
  EXPECT_EQ(in_alphabet("A\xA1\xFF"), "A\xC2\xA1\xC3\xBF");
  EXPECT_EQ(in_alphabet("\x7F\xA0\xAD"), "\xC4\xA1\xC5\x82\xC5\x83");  // U+0121, U+0142, U+0143
  EXPECT_FALSE(is_of_alphabet("a b"));
  EXPECT_FALSE(is_of_alphabet("\xE6\x9D\xB1"));
  EXPECT_EQ(bytes_of_alphabet("\xE6\x9D\xB1\xC4\xA0"), "\xE6\x9D\xB1 ");
}

TEST(BpeTokenizer, MergesAsTheDefinitionDoes) {
  const uint32_t seed = 51;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    const char* const kNames[] = {"gpt-2", "llama-bpe", "qwen2", "smollm", "default"};
    const TokenizerSpec spec = make_bpe_spec(drawn_merges(random), kNames[round % 5]);
    const auto tokenizer = Tokenizer::make(spec);
    for (int i = 0; i < 20; ++i) {
      std::string text;
      const size_t n = random() % 40;
      while (text.size() < n) {
        const char* letters[] = {"a", "b", "aa", " ", "\xC3\xA9", "\xE6\x9D\xB1", "\n", "1"};
        text += letters[random() % 8];
      }
      ASSERT_EQ(encode_plainly(*tokenizer, text), encode_by_definition(spec, text))
          << "round " << round << " text " << text;
    }
  }
}

TEST(BpeTokenizer, TextOfManyScriptsComesBack) {
  const uint32_t seed = 52;
  SCOPED_TRACE(seed);
  TextSource source(seed);
  for (const char* pre : {"default", "gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-llm",
                          "deepseek-coder", "deepseek-v3"}) {
    const TokenizerSpec spec = make_bpe_spec(drawn_merges(source.random()), pre);
    const auto tokenizer = Tokenizer::make(spec);
    for (int i = 0; i < 100; ++i) {
      const std::string text = source.text(source.below(60));
      const Ids ids = encode_plainly(*tokenizer, text);
      ASSERT_EQ(tokenizer->decode(ids), text) << pre;
      ASSERT_EQ(ids, encode_by_definition(spec, text)) << pre;
    }
  }
}

TEST(BpeTokenizer, EarlierMergeGoesFirstAndTheFirstOfEqualPairsCounts) {
  TokenizerSpec spec = make_bpe_spec({{"b", "c"}, {"a", "b"}});
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc"), (Ids{'a', 256}));
  spec = make_bpe_spec({{"a", "b"}, {"b", "c"}});
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc"), (Ids{256, 'c'}));
  spec.merges.push_back("b c");
  std::swap(spec.merges[0], spec.merges[2]);  // b c, b c, a b
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc"), (Ids{'a', 257}));
}

TEST(BpeTokenizer, NothingMergesAcrossWords) {
  const auto tokenizer = Tokenizer::make(make_bpe_spec({{"a", " "}, {" ", "a"}, {"1", "2"}}));
  EXPECT_EQ(encode_plainly(*tokenizer, "a a"), (Ids{'a', 257}));
  const auto digits = Tokenizer::make(make_bpe_spec({{"1", "2"}}, "smollm"));
  EXPECT_EQ(encode_plainly(*digits, "12"), (Ids{'1', '2'}));
}

TEST(BpeTokenizer, WholeWordIsTakenOnlyWhereMergesAreIgnored) {
  TokenizerSpec spec = make_bpe_spec({{"a", "b"}}, "llama-bpe");
  const TokenId whole = add_token(spec, "abc", TokenKind::kNormal);
  const TokenId spaced = add_token(spec, in_alphabet(" abc"), TokenKind::kNormal);
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc"), (Ids{256, 'c'}));
  spec.ignore_merges = true;
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc abc"), (Ids{whole, spaced}));
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abcd"), (Ids{256, 'c', 'd'}));
  spec.kinds[static_cast<size_t>(whole)] = TokenKind::kControl;
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc"), (Ids{256, 'c'}));
}

TEST(BpeTokenizer, TextOutsideTheAlphabetIsNoWord) {
  TokenizerSpec spec = make_bpe_spec({}, "llama-bpe");
  const TokenId raw = add_token(spec, "\xE6\x9D\xB1", TokenKind::kNormal);
  spec.ignore_merges = true;
  const auto tokenizer = Tokenizer::make(spec);
  EXPECT_EQ(encode_plainly(*tokenizer, "\xE6\x9D\xB1"), (Ids{0xE6, 0x9D, 0xB1}));
  EXPECT_EQ(tokenizer->piece(raw), "\xE6\x9D\xB1");
}

TEST(BpeTokenizer, MergesNeverMakeAControlToken) {
  TokenizerSpec spec = make_bpe_spec({{"x", "y"}, {"xy", "z"}});
  spec.kinds[257] = TokenKind::kControl;  // xyz
  const auto tokenizer = Tokenizer::make(spec);
  EXPECT_EQ(encode_plainly(*tokenizer, "xyz"), (Ids{256, 'z'}));
  EXPECT_EQ(encode_plainly(*tokenizer, "xyz", true), (Ids{257}));
}

TEST(BpeTokenizer, ByteWithoutATokenIsNamedOrUnknown) {
  TokenizerSpec spec = make_bpe_spec({});
  spec.tokens[0x13] = "gone";
  const auto tokenizer = Tokenizer::make(spec);
  expect_error([&] { return encode_plainly(*tokenizer, "ab\x13"); }, ErrorCode::kBadText,
               "byte 0x13 (at byte 2 of the text)", "text");
  spec.unk = add_token(spec, "<unk>", TokenKind::kUnknown);
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "ab\x13"), (Ids{'a', 'b', 256}));
}

TEST(BpeTokenizer, BrokenMergesAreNamed) {
  for (const char* merge : {"", " ", "ab", "a", "a zz", "zz a", "a b", "a  b", "a b c"}) {
    TokenizerSpec spec = make_bpe_spec({{"a", "a"}});
    spec.merges.push_back(merge);
    expect_error([&] { return Tokenizer::make(spec); }, ErrorCode::kBadFile, "merge 1 is ",
                 "tokenizer.ggml.merges");
  }
  TokenizerSpec spec = make_bpe_spec({});
  spec.merges.push_back(std::string(1 << 20, '\n'));
  expect_error([&] { return Tokenizer::make(spec); }, ErrorCode::kBadFile, "merge 0 is ");
}

TEST(MergeTable, HoldsTheFirstOfEveryPair) {
  const uint32_t seed = 53;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  MergeTable table(2000);
  std::map<std::pair<TokenId, TokenId>, uint32_t> known;
  for (uint32_t rank = 0; rank < 2000; ++rank) {
    const auto left = static_cast<TokenId>(random() % 60);
    const auto right = static_cast<TokenId>(random() % 60);
    table.add(left, right, {rank, left + right});
    known.emplace(std::pair(left, right), rank);
  }
  for (TokenId left = -1; left < 61; ++left) {
    for (TokenId right = -1; right < 61; ++right) {
      const auto found = known.find({left, right});
      EXPECT_EQ(table.find(left, right).rank, found == known.end() ? kNoMerge : found->second);
    }
  }
}

}  // namespace
}  // namespace strata::engine

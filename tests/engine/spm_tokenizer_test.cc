#include "engine/text/spm_tokenizer.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>

#include "tests/engine/small_vocabulary.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::add_token;
using testing::encode_plainly;
using testing::expect_error;
using testing::kMark;
using testing::make_spm_spec;
using testing::spm_byte;
using testing::TextSource;

using Ids = std::vector<TokenId>;

std::vector<std::string> characters_of(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty()) {
    out.emplace_back(text.substr(0, utf8_step(text).bytes));
    text.remove_prefix(out.back().size());
  }
  return out;
}

std::string marked(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == ' ' ? std::string(kMark) : std::string(1, c);
  return out;
}

/// The definition: of all neighbours that are a plain piece together, those of the best score
/// become one, the leftmost first, until none are left. Every step looks at every pair.
Ids encode_by_definition(const TokenizerSpec& spec, std::string_view text) {
  if (text.empty()) return {};
  std::map<std::string, TokenId> plain;
  for (size_t i = 0; i < spec.tokens.size(); ++i)
    if (spec.kinds[i] == TokenKind::kNormal || spec.kinds[i] == TokenKind::kUserDefined)
      plain.emplace(spec.tokens[i], static_cast<TokenId>(i));
  auto symbols = characters_of(marked(spec.add_space_prefix ? " " + std::string(text) : text));
  for (;;) {
    size_t best = symbols.size();
    float best_score = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = plain.find(symbols[i] + symbols[i + 1]);
      if (found == plain.end()) continue;
      const float score = spec.scores[static_cast<size_t>(found->second)];
      if (best == symbols.size() || score > best_score) {
        best = i;
        best_score = score;
      }
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  Ids out;
  bool ends_unknown = false;
  for (const std::string& symbol : symbols) {
    const auto found = plain.find(symbol);
    const bool has_bytes = spec.tokens.size() > 3 && spec.kinds[3] == TokenKind::kByte;
    if (found != plain.end()) {
      out.push_back(found->second);
    } else if (has_bytes) {
      for (const char c : symbol) out.push_back(spm_byte(static_cast<uint8_t>(c)));
    } else if (!ends_unknown) {
      out.push_back(spec.unk);
    }
    ends_unknown = found == plain.end() && !has_bytes;
  }
  return out;
}

/// A vocabulary whose longer pieces join shorter ones, of few letters, with many equal scores.
TokenizerSpec drawn_spec(std::mt19937& random, bool with_bytes) {
  const std::vector<std::string> letters = {
      "a", "b", "c", std::string(kMark), "\xC3\xA9", "\xE6\x9D\xB1", "\n"};
  TokenizerSpec spec = make_spm_spec({}, with_bytes);
  add_token(spec, std::string(kMark), TokenKind::kNormal, -30);
  std::vector<std::string> pieces = {std::string(kMark)};
  std::map<std::string, bool> known = {{pieces[0], true}};
  const size_t n_pieces = 5 + random() % 60;
  for (size_t i = 0; i < n_pieces; ++i) {
    const auto part = [&] {
      return pieces.empty() || random() % 3 == 0 ? letters[random() % letters.size()]
                                                 : pieces[random() % pieces.size()];
    };
    std::string piece = random() % 6 == 0 ? part() : part() + part();
    if (piece.size() > 40 || known[piece]) continue;
    known[piece] = true;
    pieces.push_back(piece);
    // Some are control tokens, which text never becomes, nor anything on the way to another piece.
    const TokenKind kind = random() % 10 == 0 ? TokenKind::kControl : TokenKind::kNormal;
    add_token(spec, piece, kind, -static_cast<float>(random() % 20));
  }
  spec.add_space_prefix = random() % 2 == 0;
  return spec;
}

TEST(SpmTokenizer, MergesAsTheDefinitionDoes) {
  const uint32_t seed = 41;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 400; ++round) {
    const TokenizerSpec spec = drawn_spec(random, round % 2 == 0);
    const auto tokenizer = Tokenizer::make(spec);
    for (int i = 0; i < 20; ++i) {
      std::string text;
      const size_t n = random() % 40;
      while (text.size() < n) {
        const char* letters[] = {"a", "b", "c", " ", "\xC3\xA9", "\xE6\x9D\xB1", "\n", "x"};
        text += letters[random() % 8];
      }
      ASSERT_EQ(encode_plainly(*tokenizer, text), encode_by_definition(spec, text))
          << "round " << round << " text " << text;
    }
  }
}

TEST(SpmTokenizer, TextOfManyScriptsComesBackWithItsPrefix) {
  const uint32_t seed = 42;
  SCOPED_TRACE(seed);
  TextSource source(seed);
  for (int round = 0; round < 60; ++round) {
    const TokenizerSpec spec = drawn_spec(source.random(), true);
    const auto tokenizer = Tokenizer::make(spec);
    for (int i = 0; i < 20; ++i) {
      const std::string text = source.text(source.below(50));
      const Ids ids = encode_plainly(*tokenizer, text);
      ASSERT_EQ(ids, encode_by_definition(spec, text));
      // The mark stands for a space, so a text that holds the mark comes back with spaces.
      std::string wanted = spec.add_space_prefix && !text.empty() ? " " + text : text;
      for (size_t at; (at = wanted.find(kMark)) != std::string::npos;) wanted.replace(at, 3, " ");
      ASSERT_EQ(tokenizer->decode(ids), wanted) << "round " << round;
    }
  }
}

TEST(SpmTokenizer, BestScoreMergesFirstAndOfEqualOnesTheLeftmost) {
  TokenizerSpec spec = make_spm_spec({{"a", 0}, {"b", 0}, {"c", 0}, {"ab", -2}, {"bc", -1}});
  spec.add_space_prefix = false;
  const TokenId a = 259, c = 261, ab = 262, bc = 263;
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc"), (Ids{a, bc}));
  spec.scores[ab] = -1;
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "abc"), (Ids{ab, c}));
}

TEST(SpmTokenizer, SpacePrefixStandsBeforeEveryStretchThatFollowsAToken) {
  TokenizerSpec spec = make_spm_spec({{"a", 0}, {std::string(kMark), 0}});
  const TokenId a = 259, space = 260;
  const TokenId mine = add_token(spec, "<mine>", TokenKind::kUserDefined);
  const auto with = Tokenizer::make(spec);
  EXPECT_EQ(encode_plainly(*with, "a"), (Ids{space, a}));
  EXPECT_EQ(encode_plainly(*with, " a"), (Ids{space, space, a}));
  EXPECT_EQ(encode_plainly(*with, ""), Ids{});
  EXPECT_EQ(encode_plainly(*with, "a<mine>a"), (Ids{space, a, mine, space, a}));
  EXPECT_EQ(with->decode(encode_plainly(*with, "a a")), " a a");
  spec.add_space_prefix = false;
  const auto without = Tokenizer::make(spec);
  EXPECT_EQ(encode_plainly(*without, "a<mine> a"), (Ids{a, mine, space, a}));
  EXPECT_EQ(without->decode(encode_plainly(*without, "a<mine> a")), "a<mine> a");
}

TEST(SpmTokenizer, CharactersThatNoPieceHoldsBecomeTheirBytes) {
  TokenizerSpec spec = make_spm_spec({{"a", 0}});
  spec.add_space_prefix = false;
  const auto tokenizer = Tokenizer::make(spec);
  const Ids ids = encode_plainly(*tokenizer, "a\n\xE2\x82\xAC");
  EXPECT_EQ(ids, (Ids{259, spm_byte('\n'), spm_byte(0xE2), spm_byte(0x82), spm_byte(0xAC)}));
  EXPECT_EQ(tokenizer->decode(ids), "a\n\xE2\x82\xAC");
}

TEST(SpmTokenizer, RunOfUnknownCharactersIsOneUnknownToken) {
  TokenizerSpec spec = make_spm_spec({{"a", 0}}, false);
  spec.add_space_prefix = false;
  const auto tokenizer = Tokenizer::make(spec);
  EXPECT_EQ(encode_plainly(*tokenizer, "axyza\xE2\x82\xAC"), (Ids{3, 0, 3, 0}));
  EXPECT_EQ(tokenizer->decode(Ids{3, 0, 3}), "aa");
}

TEST(SpmTokenizer, CharacterWithoutAnyTokenIsAnError) {
  TokenizerSpec spec = make_spm_spec({{"a", 0}}, false);
  spec.unk = kNoToken;
  spec.add_space_prefix = false;
  const auto tokenizer = Tokenizer::make(spec);
  expect_error([&] { return encode_plainly(*tokenizer, "a\xE2\x82\xAC"); }, ErrorCode::kBadText,
               "U+20AC", "text");
}

TEST(SpmTokenizer, ControlByteAndUnusedTextsStayText) {
  TokenizerSpec spec = make_spm_spec({{"<", 0}, {"s", 0}, {">", 0}, {"<s", -1}, {"x", 0}});
  add_token(spec, "xx", TokenKind::kUnused, 5);
  spec.add_space_prefix = false;
  const auto tokenizer = Tokenizer::make(spec);
  const TokenId x = 263;
  EXPECT_EQ(encode_plainly(*tokenizer, "<s>"), (Ids{262, 261}));
  EXPECT_EQ(encode_plainly(*tokenizer, "<s>", true), (Ids{spec.bos}));
  EXPECT_EQ(encode_plainly(*tokenizer, "xx"), (Ids{x, x}));
  EXPECT_EQ(tokenizer->decode(encode_plainly(*tokenizer, "<0x41>", true)), "<0x41>");
}

TEST(SpmTokenizer, MarkOfAUserDefinedPieceIsASpaceToo) {
  TokenizerSpec spec = make_spm_spec({{std::string(kMark), 0}, {"a", 0}});
  const TokenId two =
      add_token(spec, std::string(kMark) + std::string(kMark), TokenKind::kUserDefined, 1);
  spec.add_space_prefix = false;
  const auto tokenizer = Tokenizer::make(spec);
  const Ids ids = encode_plainly(*tokenizer, "  a");
  EXPECT_EQ(ids, (Ids{two, 260}));
  EXPECT_EQ(tokenizer->decode(ids), "  a");
}

TEST(SpmTokenizer, PieceThatIsNotUtf8MatchesNoText) {
  TokenizerSpec spec = make_spm_spec({{"\xC3", 9}, {"\xA9", 9}, {"a\xC3", 9}, {"a", 0}});
  spec.add_space_prefix = false;
  const auto tokenizer = Tokenizer::make(spec);
  EXPECT_EQ(encode_plainly(*tokenizer, "a\xC3\xA9"), (Ids{262, spm_byte(0xC3), spm_byte(0xA9)}));
}

}  // namespace
}  // namespace strata::engine

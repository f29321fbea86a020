#include "engine/text/tokenizer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory>

#include "tests/engine/small_vocabulary.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::add_token;
using testing::encode_plainly;
using testing::expect_error;
using testing::make_bpe_spec;
using testing::make_spm_spec;
using testing::TextSource;

using Ids = std::vector<TokenId>;

/// A vocabulary of each kind with control and user-defined tokens that begin and end alike.
std::vector<TokenizerSpec> specs_with_special_tokens() {
  std::vector<TokenizerSpec> specs = {
      make_bpe_spec({{"a", "b"}, {" ", "t"}}, "llama-bpe"),
      make_spm_spec({{"\xE2\x96\x81", 0}, {"a", -3}, {"b", -3}, {"ab", -1}, {"\xE2\x96\x81t", -2}}),
      make_spm_spec(
          {{"\xE2\x96\x81", 0}, {"a", -3}, {"b", -3}, {"ab", -1}, {"\xE2\x96\x81t", -2}})};
  specs.back().add_space_prefix = false;
  for (TokenizerSpec& spec : specs) {
    for (const char* text : {"<|a|>", "<|ab|>", "<|im_start|>", "<|im_end|>", "[|"})
      add_token(spec, text, TokenKind::kControl);
    for (const char* text : {"<mine>", "<mine><mine>", "<|a"})
      add_token(spec, text, TokenKind::kUserDefined);
  }
  return specs;
}

TEST(SpecialTokens, ControlTokensCountOnlyWhereTheCallerMeansThem) {
  for (const TokenizerSpec& spec : specs_with_special_tokens()) {
    const auto tokenizer = Tokenizer::make(spec);
    const TokenId start = tokenizer->find("<|im_start|>");
    EXPECT_EQ(encode_plainly(*tokenizer, "<|im_start|>", true), Ids{start});
    for (const TokenId token : encode_plainly(*tokenizer, "x <|im_start|><|im_end|><s></s><unk>"))
      EXPECT_FALSE(tokenizer->is_control(token)) << token;
    EXPECT_EQ(tokenizer->piece(start), "");
    EXPECT_EQ(tokenizer->piece(start, true), "<|im_start|>");
  }
}

TEST(SpecialTokens, UserDefinedTokensAreAlwaysMeant) {
  for (const TokenizerSpec& spec : specs_with_special_tokens()) {
    const auto tokenizer = Tokenizer::make(spec);
    const TokenId mine = tokenizer->find("<mine>");
    EXPECT_EQ(encode_plainly(*tokenizer, "<mine>"), Ids{mine});
    EXPECT_EQ(encode_plainly(*tokenizer, "<mine>", true), Ids{mine});
    EXPECT_EQ(tokenizer->piece(mine), "<mine>");
    EXPECT_FALSE(tokenizer->is_control(mine));
  }
}

TEST(SpecialTokens, LeftmostThenLongestIsTaken) {
  for (const TokenizerSpec& spec : specs_with_special_tokens()) {
    const auto tokenizer = Tokenizer::make(spec);
    const auto find = [&](const char* text) { return tokenizer->find(text); };
    EXPECT_EQ(encode_plainly(*tokenizer, "<mine><mine><mine>", true),
              (Ids{find("<mine><mine>"), find("<mine>")}));
    EXPECT_EQ(encode_plainly(*tokenizer, "<|ab|><|a|><|a", true),
              (Ids{find("<|ab|>"), find("<|a|>"), find("<|a")}));
  }
}

TEST(SpecialTokens, TextBetweenThemIsEncodedAsIfItStoodAlone) {
  const uint32_t seed = 61;
  SCOPED_TRACE(seed);
  TextSource source(seed);
  for (const TokenizerSpec& spec : specs_with_special_tokens()) {
    const auto tokenizer = Tokenizer::make(spec);
    for (int round = 0; round < 300; ++round) {
      std::string text;
      Ids wanted;
      for (uint32_t i = 0; i < 4; ++i) {
        const std::string piece = source.text(source.below(12));
        const auto special = static_cast<TokenId>(spec.tokens.size() - 1 - source.below(3));
        const Ids ids = encode_plainly(*tokenizer, piece, true);
        wanted.insert(wanted.end(), ids.begin(), ids.end());
        wanted.push_back(special);
        text += piece + spec.tokens[static_cast<size_t>(special)];
        // Two such tokens side by side could be read as a longer one.
        const Ids apart = encode_plainly(*tokenizer, "~", true);
        wanted.insert(wanted.end(), apart.begin(), apart.end());
        text += "~";
        wanted.push_back(tokenizer->find("<|im_end|>"));
        text += "<|im_end|>";
      }
      ASSERT_EQ(encode_plainly(*tokenizer, text, true), wanted) << "round " << round;
    }
  }
}

TEST(SpecialTokens, AreFoundAcrossTheWindowsOfALongText) {
  const TokenizerSpec spec = specs_with_special_tokens()[0];
  const auto tokenizer = Tokenizer::make(spec);
  const TokenId start = tokenizer->find("<|im_start|>");
  // Windows are 64 KiB: one token at each offset around the border of the first two.
  for (size_t at = 65536 - 14; at <= 65536 + 2; ++at) {
    const std::string text = std::string(at, 'x') + "<|im_start|>" + std::string(100, 'y');
    const Ids ids = encode_plainly(*tokenizer, text, true);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), start), 1) << at;
    EXPECT_EQ(tokenizer->decode(ids, true), text) << at;
  }
}

TEST(SpecialTokens, TextsThatAreNotUtf8OrEmptyAreNeverFound) {
  TokenizerSpec spec = make_bpe_spec({});
  add_token(spec, "\xA9", TokenKind::kUserDefined);  // would match inside a character
  add_token(spec, "", TokenKind::kControl);
  add_token(spec, "", TokenKind::kControl);
  const auto tokenizer = Tokenizer::make(spec);
  EXPECT_EQ(encode_plainly(*tokenizer, "\xC3\xA9", true), (Ids{0xC3, 0xA9}));
}

TEST(Tokenizer, BeginAndEndTokensStandWhereTheFileAsks) {
  for (TokenizerSpec spec : specs_with_special_tokens()) {
    const TokenId begin = spec.bos = add_token(spec, "<bos>", TokenKind::kControl);
    const TokenId end = spec.eos = add_token(spec, "<eos>", TokenKind::kControl);
    const auto plain = Tokenizer::make(spec);
    const Ids inner = encode_plainly(*plain, "ab");
    EXPECT_EQ(plain->encode("ab", {}), inner);
    spec.add_bos = true;
    Ids with_begin = inner;
    with_begin.insert(with_begin.begin(), begin);
    EXPECT_EQ(Tokenizer::make(spec)->encode("ab", {}), with_begin);
    EXPECT_EQ(Tokenizer::make(spec)->encode("", {}), Ids{begin});
    spec.add_eos = true;
    Ids with_both = with_begin;
    with_both.push_back(end);
    EXPECT_EQ(Tokenizer::make(spec)->encode("ab", {}), with_both);
    EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "ab"), inner);
  }
}

TEST(Tokenizer, KnownEndsOfTurnEndAnAnswerAndAreControlTokens) {
  TokenizerSpec spec = make_bpe_spec({});
  const TokenId turn = add_token(spec, "<|im_end|>", TokenKind::kNormal);
  const TokenId text = add_token(spec, "<|endoftext|>", TokenKind::kUserDefined);
  const TokenId deepseek = add_token(spec,
                                     "<\xEF\xBD\x9C"
                                     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
                                     TokenKind::kNormal);
  spec.eos = add_token(spec, "<my end>", TokenKind::kControl);
  spec.eot = add_token(spec, "<my turn>", TokenKind::kControl);
  spec.eom = add_token(spec, "<my message>", TokenKind::kControl);
  const TokenId other = add_token(spec, "<|im_start|>", TokenKind::kControl);
  const auto tokenizer = Tokenizer::make(spec);
  for (const TokenId end : {turn, text, deepseek, spec.eos, spec.eot, spec.eom})
    EXPECT_TRUE(tokenizer->is_end(end)) << end;
  for (const TokenId none : {TokenId{'a'}, other, kNoToken, TokenId{100000}})
    EXPECT_FALSE(tokenizer->is_end(none)) << none;
  EXPECT_TRUE(tokenizer->is_control(turn));
  EXPECT_TRUE(tokenizer->is_control(text));
  EXPECT_EQ(encode_plainly(*tokenizer, "<|endoftext|>").size(), 13u);  // a user's text ends nothing
}

TEST(Tokenizer, EndOfAHarmonyMessageIsNotTheEndOfTheAnswer) {
  TokenizerSpec spec = make_bpe_spec({});
  const TokenId end = add_token(spec, "<|end|>", TokenKind::kControl);
  EXPECT_TRUE(Tokenizer::make(spec)->is_end(end));
  const TokenId last = add_token(spec, "<|return|>", TokenKind::kControl);
  add_token(spec, "<|call|>", TokenKind::kControl);
  const auto tokenizer = Tokenizer::make(spec);
  EXPECT_FALSE(tokenizer->is_end(end));
  EXPECT_TRUE(tokenizer->is_end(last));
}

TEST(Tokenizer, IdsOutsideTheVocabularyHaveNoText) {
  const auto tokenizer = Tokenizer::make(make_bpe_spec({}));
  EXPECT_EQ(tokenizer->decode(Ids{'a', -1, 256, INT32_MAX, INT32_MIN, 'b'}, true), "ab");
  EXPECT_FALSE(tokenizer->is_control(-1));
  EXPECT_FALSE(tokenizer->is_control(256));
}

TEST(Tokenizer, TextThatIsNotUtf8IsRefusedWithItsOffset) {
  for (const TokenizerSpec& spec : specs_with_special_tokens()) {
    const auto tokenizer = Tokenizer::make(spec);
    for (const char* broken : {"\xFF", "\xC0\xAF", "\xED\xA0\x80", "\xE2\x82", "\x80"}) {
      expect_error([&] { return tokenizer->encode(std::string("abcdefghi") + broken, {}); },
                   ErrorCode::kBadText, "not UTF-8", "text");
      expect_error([&] { return tokenizer->encode(std::string("abcdefghi") + broken, {}); },
                   ErrorCode::kBadText, "at offset 9", "text");
    }
  }
}

TEST(Tokenizer, TextOfMoreThanAGibibyteIsRefusedUnread) {
  const auto tokenizer = Tokenizer::make(make_bpe_spec({}));
  const uint64_t bytes = kMaxTextBytes + 1;
  void* memory =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const std::string_view text(static_cast<const char*>(memory), bytes);
  expect_error([&] { return tokenizer->encode(text, {}); }, ErrorCode::kBadText,
               "1073741825 bytes; at most 1073741824", "text");
  munmap(memory, bytes);
}

TEST(Tokenizer, TextWithNulBytesIsText) {
  const auto tokenizer = Tokenizer::make(make_bpe_spec({}));
  const std::string text("a\0b", 3);
  EXPECT_EQ(encode_plainly(*tokenizer, text), (Ids{'a', 0, 'b'}));
  EXPECT_EQ(tokenizer->decode(Ids{'a', 0, 'b'}), text);
}

/// A spec that `change` breaks, for both kinds of vocabulary.
template <typename Change>
void expect_refused(const Change& change, std::string_view message, std::string_view where) {
  for (TokenizerSpec spec : {make_bpe_spec({{"a", "b"}}), make_spm_spec({{"ab", 0}})}) {
    change(spec);
    expect_error([&] { return Tokenizer::make(spec); }, ErrorCode::kBadFile, message, where);
  }
}

TEST(TokenizerCheck, DamagedVocabulariesAreNamed) {
  expect_refused([](auto& spec) { spec.tokens.clear(), spec.kinds.clear(), spec.scores.clear(); },
                 "the vocabulary is empty", "tokenizer.ggml.tokens");
  expect_refused([](auto& spec) { spec.kinds.pop_back(); }, "types for", "token_type");
  expect_refused([](auto& spec) { spec.kinds[3] = static_cast<TokenKind>(7); },
                 "token 3 has type 7; wanted 1 to 6", "token_type");
  expect_refused([](auto& spec) { spec.scores.assign(5, 0); }, "5 scores for", "scores");
  expect_refused([](auto& spec) { spec.scores.assign(spec.tokens.size(), NAN); },
                 "the score of token 0 is not a number", "scores");
  expect_refused([](auto& spec) { spec.tokens[2] = std::string(kMaxTokenBytes + 1, 'x'); },
                 "token 2 has 4097 bytes; at most 4096", "tokenizer.ggml.tokens");
  expect_refused([](auto& spec) { spec.tokens.back() = spec.tokens[1]; }, "tokens 1 and 25",
                 "tokenizer.ggml.tokens");
  for (const char* text : {"<0x4>", "<0x-1>", "<0x+1>", "<0x 1>", "<0x0G>", "0x0041", "<0x041>"})
    expect_refused(
        [&](auto& spec) {
          spec.tokens[5] = text;
          spec.kinds[5] = TokenKind::kByte;
        },
        "token 5 is of type byte", "tokenizer.ggml.tokens");
}

TEST(TokenizerCheck, IdsOutsideTheVocabularyAreNamed) {
  const std::pair<TokenId TokenizerSpec::*, const char*> kIds[] = {
      {&TokenizerSpec::bos, "bos"}, {&TokenizerSpec::eos, "eos"}, {&TokenizerSpec::eot, "eot"},
      {&TokenizerSpec::eom, "eom"}, {&TokenizerSpec::unk, "unk"}, {&TokenizerSpec::pad, "pad"}};
  for (const auto& [member, name] : kIds)
    for (const TokenId id : {-2, 1000, INT32_MAX, INT32_MIN})
      expect_refused([&](auto& spec) { spec.*member = id; }, fmt::format("token id {} ", id), name);
  expect_refused([](auto& spec) { spec.bos = kNoToken, spec.add_bos = true; }, "bos_token_id",
                 "add_bos_token");
  expect_refused([](auto& spec) { spec.eos = kNoToken, spec.add_eos = true; }, "eos_token_id",
                 "add_eos_token");
}

TEST(TokenizerCheck, MissingScoresAreNamedUnlessNothingMerges) {
  TokenizerSpec spec = make_spm_spec({{"a", 0}, {"\xC3\xA9", 0}});
  spec.scores.clear();
  EXPECT_EQ(encode_plainly(*Tokenizer::make(spec), "a").back(), 259);
  spec.tokens.push_back("aa");
  spec.kinds.push_back(TokenKind::kNormal);
  expect_error([&] { return Tokenizer::make(spec); }, ErrorCode::kBadFile,
               "the scores are missing: wanted 262, to merge token 261", "tokenizer.ggml.scores");
}

TEST(TokenizerCheck, UnknownModelsNameTheKnown) {
  TokenizerSpec spec = make_spm_spec({});
  for (const char* model : {"", "bert", "t5", "rwkv", "LLAMA"}) {
    spec.model = model;
    expect_error([&] { return Tokenizer::make(spec); }, ErrorCode::kUnsupported,
                 "known: llama (SPM), gpt2 (BPE)", "tokenizer.ggml.model");
  }
  spec = make_bpe_spec({});
  spec.pre = "no-such";
  expect_error([&] { return Tokenizer::make(spec); }, ErrorCode::kUnsupported,
               "unknown pre-tokenizer \"no-such\"; known: default, gpt-2", "tokenizer.ggml.pre");
}

}  // namespace
}  // namespace strata::engine

#include <gtest/gtest.h>

#include "engine/text/tokenizer.h"
#include "tests/engine/small_model.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::make_small_model;
using testing::parse_file;
using testing::SmallModel;

using Texts = std::vector<std::string>;

TokenizerSpec read(const SmallModel& model) {
  return read_tokenizer_spec(parse_file(model.bytes()));
}

SmallModel bpe_model(const std::string& pre = "smollm") {
  SmallModel model = make_small_model();
  model.set("tokenizer.ggml.model", std::string("gpt2"));
  model.set("tokenizer.ggml.pre", pre);
  model.set("tokenizer.ggml.tokens", Texts{"a", "b", "ab", "<end>"});
  model.set("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 3});
  model.set("tokenizer.ggml.merges", Texts{"a b"});
  model.erase_key("tokenizer.ggml.scores");
  return model;
}

template <typename Change>
void expect_bad(SmallModel model, const Change& change, std::string_view message,
                std::string_view where, ErrorCode code = ErrorCode::kBadFile) {
  change(model);
  expect_error([&] { return read(model); }, code, message, where);
  expect_error([&] { return read(model); }, code, "", "m.gguf");
}

TEST(TokenizerSpec, SpmHasItsDefaults) {
  const TokenizerSpec spec = read(make_small_model());
  EXPECT_EQ(spec.model, "llama");
  EXPECT_EQ(spec.tokens, (Texts{"<unk>", "<s>", "</s>", "a"}));
  EXPECT_EQ(spec.scores, std::vector<float>(4));
  EXPECT_EQ(spec.kinds, std::vector<TokenKind>(4, TokenKind::kNormal));
  EXPECT_EQ(spec.unk, 0);
  EXPECT_EQ(spec.bos, 1);
  EXPECT_EQ(spec.eos, 2);
  EXPECT_EQ(spec.eot, kNoToken);
  EXPECT_TRUE(spec.add_bos);
  EXPECT_FALSE(spec.add_eos);
  EXPECT_TRUE(spec.add_space_prefix);
  EXPECT_FALSE(spec.ignore_merges);
}

TEST(TokenizerSpec, BpeHasItsDefaults) {
  const TokenizerSpec spec = read(bpe_model());
  EXPECT_EQ(spec.pre, "smollm");
  EXPECT_EQ(spec.merges, Texts{"a b"});
  EXPECT_TRUE(spec.scores.empty());
  EXPECT_EQ(spec.kinds[3], TokenKind::kControl);
  for (const TokenId id : {spec.bos, spec.eos, spec.eot, spec.eom, spec.unk, spec.pad})
    EXPECT_EQ(id, kNoToken);
  EXPECT_FALSE(spec.add_bos);
  EXPECT_FALSE(spec.add_space_prefix);
  EXPECT_FALSE(spec.ignore_merges);
  SmallModel nameless = bpe_model();
  nameless.erase_key("tokenizer.ggml.pre");
  EXPECT_EQ(read(nameless).pre, "default");
}

TEST(TokenizerSpec, LlamaBpeIgnoresMergesAndWantsABeginToken) {
  for (const char* pre : {"llama-bpe", "llama3", "llama-v3"}) {
    SmallModel model = bpe_model(pre);
    model.set("tokenizer.ggml.bos_token_id", uint32_t{3});
    const TokenizerSpec spec = read(model);
    EXPECT_TRUE(spec.ignore_merges) << pre;
    EXPECT_TRUE(spec.add_bos) << pre;
    model.set("tokenizer.ggml.add_bos_token", false);
    EXPECT_FALSE(read(model).add_bos) << pre;
  }
}

TEST(TokenizerSpec, KeysOverrideTheDefaults) {
  SmallModel model = make_small_model();
  model.set("tokenizer.ggml.bos_token_id", uint32_t{2});
  model.set("tokenizer.ggml.eos_token_id", uint32_t{1});
  model.set("tokenizer.ggml.eot_token_id", uint32_t{3});
  model.set("tokenizer.ggml.eom_token_id", uint32_t{3});
  model.set("tokenizer.ggml.unknown_token_id", uint32_t{3});
  model.set("tokenizer.ggml.padding_token_id", uint32_t{0});
  model.set("tokenizer.ggml.add_bos_token", false);
  model.set("tokenizer.ggml.add_eos_token", true);
  model.set("tokenizer.ggml.add_space_prefix", false);
  model.set("tokenizer.ggml.remove_extra_whitespaces", true);
  model.set("tokenizer.ggml.scores", std::vector<float>{1, 2, 3, -4.5f});
  model.set("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 0, 6});
  model.set("tokenizer.ggml.tokens", Texts{"<unk>", "<s>", "</s>", "<0x0A>"});
  const TokenizerSpec spec = read(model);
  EXPECT_EQ(spec.bos, 2);
  EXPECT_EQ(spec.eos, 1);
  EXPECT_EQ(spec.eot, 3);
  EXPECT_EQ(spec.eom, 3);
  EXPECT_EQ(spec.unk, 3);
  EXPECT_EQ(spec.pad, 0);
  EXPECT_FALSE(spec.add_bos);
  EXPECT_TRUE(spec.add_eos);
  EXPECT_FALSE(spec.add_space_prefix);
  EXPECT_TRUE(spec.remove_extra_whitespaces);
  EXPECT_EQ(spec.scores[3], -4.5f);
  EXPECT_EQ(spec.kinds, (std::vector<TokenKind>{TokenKind::kUnknown, TokenKind::kControl,
                                                TokenKind::kUnused, TokenKind::kByte}));
}

TEST(TokenizerSpec, IdsThatSayNoneAreNone) {
  SmallModel model = make_small_model();
  model.set("tokenizer.ggml.eot_token_id", UINT32_MAX);
  model.set("tokenizer.ggml.padding_token_id", uint32_t{4});  // early conversions: one past the end
  EXPECT_EQ(read(model).eot, kNoToken);
  EXPECT_EQ(read(model).pad, kNoToken);
}

TEST(TokenizerSpec, FileWithoutATokenizerOrVocabularyIsNamed) {
  const auto erase = [](const char* key) { return [=](SmallModel& m) { m.erase_key(key); }; };
  expect_bad(make_small_model(), erase("tokenizer.ggml.model"), "the file has no tokenizer",
             "tokenizer.ggml.model");
  for (const char* none : {"none", "no_vocab"})
    expect_bad(
        make_small_model(),
        [&](SmallModel& m) { m.set("tokenizer.ggml.model", std::string(none)); },
        "the file has no tokenizer", "tokenizer.ggml.model");
  expect_bad(make_small_model(), erase("tokenizer.ggml.tokens"), "the file has no vocabulary",
             "tokenizer.ggml.tokens");
  expect_bad(
      make_small_model(), [](SmallModel& m) { m.set("tokenizer.ggml.tokens", uint32_t{4}); }, "",
      "tokenizer.ggml.tokens");
  expect_bad(make_small_model(), erase("tokenizer.ggml.scores"), "the scores are missing",
             "tokenizer.ggml.scores");
  expect_bad(bpe_model(), erase("tokenizer.ggml.merges"), "needs merges", "tokenizer.ggml.merges");
}

TEST(TokenizerSpec, UnknownModelAndPreTokenizerAreNamed) {
  expect_bad(
      make_small_model(), [](SmallModel& m) { m.set("tokenizer.ggml.model", std::string("bert")); },
      "unknown tokenizer model \"bert\"", "tokenizer.ggml.model", ErrorCode::kUnsupported);
  expect_bad(
      bpe_model("tekken"), [](SmallModel&) {},
      "unknown pre-tokenizer \"tekken\"; known: default, gpt-2", "tokenizer.ggml.pre",
      ErrorCode::kUnsupported);
}

TEST(TokenizerSpec, CountsThatDifferAreNamed) {
  expect_bad(
      make_small_model(),
      [](SmallModel& m) { m.set("tokenizer.ggml.scores", std::vector<float>(3)); },
      "3 scores for 4 tokens", "tokenizer.ggml.scores");
  expect_bad(
      make_small_model(),
      [](SmallModel& m) { m.set("tokenizer.ggml.token_type", std::vector<int32_t>(5, 1)); },
      "5 types for 4 tokens", "tokenizer.ggml.token_type");
  for (const int32_t kind : {7, -1})
    expect_bad(
        make_small_model(),
        [&](SmallModel& m) { m.set("tokenizer.ggml.token_type", std::vector<int32_t>(4, kind)); },
        "", "tokenizer.ggml.token_type");
}

TEST(TokenizerSpec, IdsOutsideTheVocabularyAreNamed) {
  for (const char* name : {"bos", "eos", "eot", "eom", "unknown"}) {
    const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
    for (const uint32_t id : {4u, 1u << 31, UINT32_MAX - 1})
      expect_bad(
          make_small_model(), [&](SmallModel& m) { m.set(key, id); },
          "is outside the vocabulary of 4 tokens", key);
    expect_bad(
        make_small_model(), [&](SmallModel& m) { m.set(key, std::string("1")); }, "", key);
  }
}

TEST(TokenizerSpec, BeginTokenThatIsAskedForMustExist) {
  expect_bad(
      bpe_model(), [](SmallModel& m) { m.set("tokenizer.ggml.add_bos_token", true); },
      "bos_token_id is missing", "add_bos_token");
  expect_bad(
      bpe_model(), [](SmallModel& m) { m.set("tokenizer.ggml.add_eos_token", true); },
      "eos_token_id is missing", "add_eos_token");
}

TEST(TokenizerSpec, RepeatedTokensAndBrokenMergesAreFoundWhenTheTokenizerIsMade) {
  SmallModel model = make_small_model();
  model.set("tokenizer.ggml.tokens", Texts{"<unk>", "<s>", "a", "a"});
  expect_error([&] { return Tokenizer::make(read(model)); }, ErrorCode::kBadFile,
               "tokens 2 and 3 are both \"a\"", "tokenizer.ggml.tokens");
  SmallModel bpe = bpe_model();
  bpe.set("tokenizer.ggml.merges", Texts{"a b", "b a"});
  expect_error([&] { return Tokenizer::make(read(bpe)); }, ErrorCode::kBadFile,
               "merge 1 is \"b a\"", "tokenizer.ggml.merges");
}

}  // namespace
}  // namespace strata::engine

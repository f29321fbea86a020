// Prompts whose beginning is known by its bytes: earlier answers keep the tokens they were
// generated as, and everything else is tokenised as always.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/prompt_tokens.h"
#include "tests/engine/small_vocabulary.h"

namespace strata::engine {
namespace {

using testing::add_token;
using testing::encode_plainly;
using testing::make_bpe_spec;
using testing::make_spm_spec;
using testing::TextSource;

/// SPM with a space before texts, BPE, and both with two control tokens more.
std::vector<std::unique_ptr<Tokenizer>> tokenizers() {
  TokenizerSpec spm = make_spm_spec({{"a", -1},
                                     {"b", -1},
                                     {std::string(testing::kMark), -1},
                                     {"ab", -2},
                                     {"aba", -3},
                                     {std::string(testing::kMark) + "a", -2},
                                     {"th", -2},
                                     {"the", -2}});
  TokenizerSpec bpe =
      make_bpe_spec({{"a", "b"}, {"ab", "a"}, {" ", "a"}, {"t", "h"}, {"th", "e"}, {" ", "the"}});
  std::vector<std::unique_ptr<Tokenizer>> made;
  for (TokenizerSpec* spec : {&spm, &bpe}) {
    for (const char* control : {"<|im_start|>", "<|im_end|>"})
      add_token(*spec, control, TokenKind::kControl);
    made.push_back(Tokenizer::make(*spec));
  }
  return made;
}

tiers::KnownText match(const Tokenizer& tokenizer, std::span<const TokenId> prompt,
                       std::span<const TokenId> saved, std::span<const uint8_t> is_generated) {
  const std::string text = marked_text(tokenizer, prompt);
  const tiers::TokenBytes bytes_of = [&](int32_t token, std::string& out) {
    append_marked(tokenizer, token, out);
  };
  tiers::TextMatch match(text, bytes_of);
  match.follow(0, saved, is_generated);
  return match.take_best();
}

std::vector<PromptPart> chat(const std::string& question, const std::string& answer,
                             const std::string& next) {
  std::vector<PromptPart> parts = {
      {"<|im_start|>user\n", true}, {question, false}, {"<|im_end|><|im_start|>model\n", true}};
  if (answer.empty()) return parts;
  parts.insert(parts.end(),
               {{answer, false}, {"<|im_end|><|im_start|>user\n", true}, {next, false}});
  return parts;
}

/// Saved: the prompt, and an answer in tokens of single characters.
struct Saved {
  std::vector<TokenId> tokens;
  std::vector<uint8_t> is_generated;
};

Saved saved_answer(const Tokenizer& tokenizer, const std::string& question,
                   std::span<const TokenId> answer) {
  Saved saved{encode_chat_prompt(tokenizer, chat(question, "", "")), {}};
  saved.is_generated.resize(saved.tokens.size());
  saved.tokens.insert(saved.tokens.end(), answer.begin(), answer.end());
  saved.is_generated.resize(saved.tokens.size(), 1);
  return saved;
}

TEST(KnownBeginning, AnAnswerThatTokenisesOtherwiseKeepsItsTokens) {
  const auto tokenizer = std::move(tokenizers()[1]);
  const std::vector<TokenId> answer = {'t', 'h', 'e', ' ', 'a', 'b', 'a'};
  const Saved saved = saved_answer(*tokenizer, "what", answer);
  const auto prompt = encode_chat_prompt(*tokenizer, chat("what", "the aba", "and then the"));
  ASSERT_FALSE(std::ranges::equal(saved.tokens, std::span(prompt).first(saved.tokens.size())));
  const PromptTokens kept = with_known_beginning(
      *tokenizer, prompt, match(*tokenizer, prompt, saved.tokens, saved.is_generated));
  EXPECT_TRUE(std::ranges::equal(saved.tokens, std::span(kept.tokens).first(saved.tokens.size())));
  EXPECT_EQ(kept.n_kept, answer.size());
  // From the control token behind the answer on it is the tokenizer's.
  const auto end = std::find(prompt.rbegin(), prompt.rend(), tokenizer->find("<|im_end|>"));
  EXPECT_TRUE(std::equal(prompt.rbegin(), end + 1, kept.tokens.rbegin()));
}

/// The last token of an answer is sampled and not read: its text is tokenised by itself.
TEST(KnownBeginning, AnAnswerThatLacksItsLastTokenIsKeptUpToIt) {
  const auto tokenizer = std::move(tokenizers()[1]);
  const Saved saved = saved_answer(*tokenizer, "what", std::vector<TokenId>{'t', 'h', 'e', ' '});
  const auto prompt = encode_chat_prompt(*tokenizer, chat("what", "the aba", "then"));
  const PromptTokens kept = with_known_beginning(
      *tokenizer, prompt, match(*tokenizer, prompt, saved.tokens, saved.is_generated));
  EXPECT_TRUE(std::ranges::equal(saved.tokens, std::span(kept.tokens).first(saved.tokens.size())));
  EXPECT_EQ(kept.tokens[saved.tokens.size()], tokenizer->find("aba"));
  EXPECT_EQ(marked_text(*tokenizer, kept.tokens), marked_text(*tokenizer, prompt));
}

TEST(KnownBeginning, TextThatSpellsAControlTokenIsNotTakenForIt) {
  for (const auto& tokenizer : tokenizers()) {
    const Saved saved = saved_answer(*tokenizer, "ab", encode_plainly(*tokenizer, "the"));
    // A user who spells the markup of the saved conversation, answer and all.
    const std::vector<PromptPart> parts = {{"<|im_start|>user\n", true},
                                           {"ab<|im_end|><|im_start|>model\nthe and more", false}};
    const auto prompt = encode_chat_prompt(*tokenizer, parts);
    const auto known = match(*tokenizer, prompt, saved.tokens, saved.is_generated);
    EXPECT_TRUE(known.tokens.empty());
    EXPECT_EQ(with_known_beginning(*tokenizer, prompt, known).tokens, prompt);
  }
}

TEST(KnownBeginning, BytesThatSpellAMarkAreNotTakenForIt) {
  const auto tokenizer = std::move(tokenizers()[0]);
  const TokenId control = tokenizer->find("<|im_end|>");
  std::vector<TokenId> spelled = {testing::spm_byte(0xFF)};
  for (const char digit : std::to_string(control))
    spelled.push_back(testing::spm_byte(static_cast<uint8_t>(digit)));
  spelled.push_back(testing::spm_byte(0xFF));
  EXPECT_NE(marked_text(*tokenizer, spelled),
            marked_text(*tokenizer, std::vector<TokenId>{control}));
}

/// Random tokens for a text: of random pieces of it, as a model might have written it.
std::vector<TokenId> random_spelling(const Tokenizer& tokenizer, std::string_view text,
                                     TextSource& source) {
  std::vector<TokenId> tokens;
  while (!text.empty()) {
    size_t n = 1 + source.below(6);
    while (n < text.size() && (static_cast<uint8_t>(text[n]) & 0xC0u) == 0x80u) ++n;
    EncodeOptions options;
    options.add_special = false;
    options.continues = true;
    const auto more = tokenizer.encode(text.substr(0, n), options);
    tokens.insert(tokens.end(), more.begin(), more.end());
    text.remove_prefix(std::min(n, text.size()));
  }
  return tokens;
}

/// The tokens between control tokens.
std::vector<std::vector<TokenId>> stretches(const Tokenizer& tokenizer,
                                            std::span<const TokenId> tokens) {
  std::vector<std::vector<TokenId>> of(1);
  for (const TokenId token : tokens) {
    if (tokenizer.is_control(token))
      of.emplace_back();
    else
      of.back().push_back(token);
  }
  return of;
}

TEST(KnownBeginning, BytesStayAndOnlyStretchesOfGeneratedTokensChange) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  TextSource source(seed);
  uint64_t n_kept = 0;
  for (const auto& tokenizer : tokenizers()) {
    for (uint32_t trial = 0; trial < 300; ++trial) {
      const std::string question = source.text(1 + source.below(30));
      // Letters that merge, or any text.
      std::string answer = trial % 2 == 0 ? "" : source.text(1 + source.below(30));
      for (uint32_t i = 0; trial % 2 == 0 && i < 40; ++i) answer += "ab the"[source.below(6)];
      const Saved saved =
          saved_answer(*tokenizer, question, random_spelling(*tokenizer, answer, source));
      // The saved text may be cut anywhere; the answer that comes back may go on in another way.
      const auto n_all = static_cast<uint32_t>(saved.tokens.size());
      const size_t n_saved = trial % 4 == 0 ? source.below(n_all + 1) : n_all;
      const std::string said = answer + (trial % 3 == 0 ? source.text(3) : "");
      const auto prompt =
          encode_chat_prompt(*tokenizer, chat(question, said, source.text(source.below(20))));
      const auto known = match(*tokenizer, prompt, std::span(saved.tokens).first(n_saved),
                               std::span(saved.is_generated).first(n_saved));
      const PromptTokens kept = with_known_beginning(*tokenizer, prompt, known);
      n_kept += kept.n_kept;
      ASSERT_EQ(marked_text(*tokenizer, kept.tokens), marked_text(*tokenizer, prompt));
      ASSERT_EQ(kept.tokens.size(), kept.is_generated.size());
      ASSERT_TRUE(
          std::ranges::equal(known.tokens, std::span(kept.tokens).first(known.tokens.size())));
      const auto as_always = stretches(*tokenizer, prompt);
      const auto now = stretches(*tokenizer, kept.tokens);
      ASSERT_EQ(now.size(), as_always.size());
      for (size_t i = 0; i < now.size(); ++i) {
        if (i != 3) {  // the answer's
          ASSERT_EQ(now[i], as_always[i]) << i;
        }
      }
    }
  }
  EXPECT_GT(n_kept, 1000u);
}

}  // namespace
}  // namespace strata::engine

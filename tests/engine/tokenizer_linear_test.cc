// Time linear in the text. Times are printed by tools/bench_tokenize; here the work is counted, and
// texts of a mebibyte are encoded, which would take hours were some step quadratic.
#include <gtest/gtest.h>

#include <memory>

#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/small_vocabulary.h"

namespace strata::engine {
namespace {

using testing::kMark;
using testing::make_bpe_spec;
using testing::make_spm_spec;

struct TextKind {
  const char* name;
  const char* unit;
};
constexpr TextKind kKinds[] = {
    {"one letter", "a"},
    {"words", "the quick brown fox jumps, "},
    {"spaces", " "},
    {"newlines", "\n"},
    {"digits", "7"},
    {"marks", "!"},
    {"ideographs", "\xE6\x9D\xB1"},
    {"combining marks", "\xCC\x81"},
    {"spaces before letters", "                              a"},
    {"line ends", "\r\n"},
    {"apostrophes", "'"},
};
constexpr uint64_t kMebibyte = 1 << 20;
constexpr uint32_t kMaxPatterns = 6;  // of one pre-tokenizer

std::string repeated(std::string_view unit, uint64_t bytes) {
  std::string out;
  out.reserve(bytes + unit.size());
  while (out.size() < bytes) out += unit;
  return out;
}

/// Doubling tokens of every unit of one character, and a few words.
std::vector<std::pair<std::string, std::string>> merges() {
  std::vector<std::pair<std::string, std::string>> out = {
      {"t", "h"},       {"th", "e"},          {" ", "b"},       {"o", "x"},
      {"\xE6", "\x9D"}, {"\xE6\x9D", "\xB1"}, {"\xCC", "\x81"}, {"\r", "\n"}};
  for (const char* unit : {"a", " ", "\n", "7", "!", "\xE6\x9D\xB1", "\xCC\x81", "'"})
    for (std::string half = unit; half.size() < 48; half += half) out.emplace_back(half, half);
  return out;
}

std::unique_ptr<Tokenizer> bpe(const char* pre) {
  return Tokenizer::make(make_bpe_spec(merges(), pre));
}

std::unique_ptr<Tokenizer> spm() {
  testing::ScoredPieces pieces;
  float score = 0;
  for (const auto& [left, right] : merges()) {
    std::string piece;
    for (const char c : left + right) piece += c == ' ' ? std::string(kMark) : std::string(1, c);
    if (utf8_fault(piece) == piece.size()) pieces.emplace_back(piece, score -= 1);
  }
  for (const char* letter : {"a", "7", "!", "t", "h", "e", "o", "x"})
    pieces.emplace_back(letter, -99);
  pieces.emplace_back(kMark, -99);
  auto spec = make_spm_spec(pieces);
  spec.add_space_prefix = false;
  return Tokenizer::make(std::move(spec));
}

/// The steps of encoding, which must give the text back.
uint64_t steps_of(const Tokenizer& tokenizer, const std::string& text) {
  EncodeWork work;
  const auto ids = tokenizer.encode(text, {.add_special = false, .work = &work});
  EXPECT_TRUE(tokenizer.decode(ids) == text);
  return work.steps();
}

void expect_linear(const Tokenizer& tokenizer) {
  for (const TextKind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    const uint64_t half = steps_of(tokenizer, repeated(kind.unit, kMebibyte / 2));
    const uint64_t whole = steps_of(tokenizer, repeated(kind.unit, kMebibyte));
    EXPECT_LT(static_cast<double>(whole), 2.3 * static_cast<double>(half));
    // At most 3 look-ups and as many queue entries a byte; each pattern searches each word once.
    EXPECT_LE(whole, (3 + 3 + kMaxPatterns) * (kMebibyte + 64));
  }
}

TEST(LinearTime, SpmTakesAMebibyteOfAnything) { expect_linear(*spm()); }

TEST(LinearTime, Gpt2TakesAMebibyteOfAnything) { expect_linear(*bpe("gpt-2")); }

TEST(LinearTime, LlamaBpeTakesAMebibyteOfAnything) { expect_linear(*bpe("llama-bpe")); }

TEST(LinearTime, EveryPreTokenizerCutsAMebibyteOfAnything) {
  for (const char* name :
       {"default", "qwen2", "smollm", "deepseek-llm", "deepseek-coder", "deepseek-v3"}) {
    const PreTokenizer pre_tokenizer(name);
    for (const TextKind& kind : kKinds) {
      SCOPED_TRACE(std::string(name) + ": " + kind.name);
      EncodeWork work;
      const std::string text = repeated(kind.unit, kMebibyte);
      const auto ends = pre_tokenizer.split(text, work);
      EXPECT_EQ(ends.back(), text.size());
      EXPECT_LE(work.matches, kMaxPatterns * (kMebibyte + 64));
    }
  }
}

TEST(LinearTime, ManySpecialTokensAndNearlyOnesAreFoundInOnePass) {
  auto spec = make_bpe_spec({});
  // Each begins like all longer ones: a search from every place would read 1,000 bytes of each.
  for (size_t n = 900; n < 1000; ++n)
    testing::add_token(spec, std::string(n, '<') + "|", TokenKind::kControl);
  const auto tokenizer = Tokenizer::make(spec);
  std::string text(kMebibyte, '<');
  text += '|';
  const auto ids = tokenizer->encode(text, {.add_special = false, .parse_special = true});
  EXPECT_EQ(ids.back(), static_cast<TokenId>(spec.tokens.size() - 1));
  EXPECT_TRUE(tokenizer->decode(ids, true) == text);
}

}  // namespace
}  // namespace strata::engine

#include "tools/makers/spm_vocabulary.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "base/check.h"

namespace strata::makers {
namespace {

constexpr const char* kSpaceMark = "\xe2\x96\x81";
// Token types, as the format numbers them.
constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;

/// The word of a number: "ab", "ac", ... by its base-26 digits, at least two letters.
std::string word_of(uint32_t number) {
  std::string word;
  do {
    word.insert(word.begin(), static_cast<char>('a' + number % 26));
    number /= 26;
  } while (number > 0 || word.size() < 2);
  return word;
}

}  // namespace

void add_spm_vocabulary(engine::GgufWriter& writer, uint32_t n_tokens) {
  STRATA_CHECK(n_tokens >= kSpmTokensMin, "n_tokens=%u", n_tokens);
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {kUnknown, kControl, kControl};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(fmt::format("<0x{:02X}>", byte));
  types.resize(tokens.size(), kByte);
  tokens.emplace_back(kSpaceMark);
  for (char letter = 'a'; letter <= 'z'; ++letter) tokens.emplace_back(1, letter);
  for (uint32_t i = 0; tokens.size() < n_tokens; ++i)
    tokens.push_back(i % 2 == 0 ? word_of(i / 2) : kSpaceMark + word_of(i / 2));
  types.resize(tokens.size(), kNormal);
  std::vector<float> scores(tokens.size());
  for (size_t i = 0; i < scores.size(); ++i)  // longer pieces come later and merge last
    scores[i] = types[i] == kNormal ? -static_cast<float>(i) : 0.0f;
  writer.add_string("tokenizer.ggml.model", "llama");
  writer.add_strings("tokenizer.ggml.tokens", tokens);
  writer.add_reals("tokenizer.ggml.scores", scores);
  writer.add_ints("tokenizer.ggml.token_type", types);
  writer.add_uint("tokenizer.ggml.bos_token_id", 1);
  writer.add_uint("tokenizer.ggml.eos_token_id", 2);
  writer.add_uint("tokenizer.ggml.unknown_token_id", 0);
}

}  // namespace strata::makers

#include "engine/text/tokenizer_check.h"

#include <cmath>

#include <fmt/format.h>

#include "base/error.h"
#include "engine/text/byte_token.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/utf8.h"

namespace strata::engine {
namespace {

[[noreturn]] void unsupported(const std::string& path, std::string_view key,
                              const std::string& message) {
  throw Error(ErrorCode::kUnsupported, message,
              path.empty() ? std::string(key) : fmt::format("{}: {}", path, key),
              "Use a model with a known tokenizer, or convert it again with a current converter.");
}

void check_id(const TokenizerSpec& spec, const std::string& path, std::string_view key,
              TokenId id) {
  if (id != kNoToken && (id < 0 || static_cast<uint64_t>(id) >= spec.tokens.size()))
    bad_tokenizer(
        path, key,
        fmt::format("token id {} is outside the vocabulary of {} tokens", id, spec.tokens.size()));
}

/// Scores say which merge comes first, so only a vocabulary without merges can do without.
void check_scores(const TokenizerSpec& spec, const std::string& path) {
  const size_t n_tokens = spec.tokens.size();
  if (spec.scores.size() == n_tokens) return;
  if (!spec.scores.empty())
    bad_tokenizer(path, "tokenizer.ggml.scores",
                  fmt::format("{} scores for {} tokens", spec.scores.size(), n_tokens));
  if (spec.model != "llama") return;
  for (size_t i = 0; i < n_tokens; ++i) {
    const bool is_plain =
        spec.kinds[i] == TokenKind::kNormal || spec.kinds[i] == TokenKind::kUserDefined;
    const std::string& text = spec.tokens[i];
    if (is_plain && !text.empty() && utf8_step(text).bytes < text.size())
      bad_tokenizer(path, "tokenizer.ggml.scores",
                    fmt::format("the scores are missing: wanted {}, to merge token {} and others",
                                n_tokens, i));
  }
}

void check_tokens(const TokenizerSpec& spec, const std::string& path) {
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const std::string& text = spec.tokens[i];
    if (text.size() > kMaxTokenBytes)
      bad_tokenizer(path, "tokenizer.ggml.tokens",
                    fmt::format("token {} has {} bytes; at most {} are taken", i, text.size(),
                                kMaxTokenBytes));
    if (spec.kinds[i] == TokenKind::kByte && byte_of_token(text) < 0)
      bad_tokenizer(
          path, "tokenizer.ggml.tokens",
          fmt::format(
              "token {} is of type byte; wanted <0xNN> with two hex digits, found {} other bytes",
              i, text.size()));
    if (!spec.scores.empty() && std::isnan(spec.scores[i]))
      bad_tokenizer(path, "tokenizer.ggml.scores",
                    fmt::format("the score of token {} is not a number", i));
    const auto kind = static_cast<uint8_t>(spec.kinds[i]);
    if (kind < 1 || kind > 6)
      bad_tokenizer(path, "tokenizer.ggml.token_type",
                    fmt::format("token {} has type {}; wanted 1 to 6", i, kind));
  }
}

}  // namespace

void bad_tokenizer(const std::string& path, std::string_view key, const std::string& message) {
  throw Error(ErrorCode::kBadFile, message,
              path.empty() ? std::string(key) : fmt::format("{}: {}", path, key),
              "Convert the model again, or download it again.");
}

std::string quoted_start(std::string_view text) {
  constexpr size_t kShownBytes = 60;
  std::string shown;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (shown.size() + step.bytes > kShownBytes) return fmt::format("\"{}...\"", shown);
    if (step.status != Utf8Status::kWhole || text[0] == '\n')
      shown += kReplacementCharacter;
    else
      shown += text.substr(0, step.bytes);
    text.remove_prefix(step.bytes);
  }
  return fmt::format("\"{}\"", shown);
}

void validate_tokenizer_spec(const TokenizerSpec& spec, const std::string& path) {
  if (spec.model != "llama" && spec.model != "gpt2")
    unsupported(path, "tokenizer.ggml.model",
                fmt::format("unknown tokenizer model {}; known: llama (SPM), gpt2 (BPE)",
                            quoted_start(spec.model)));
  if (spec.model == "gpt2" && !PreTokenizer::is_known(spec.pre))
    unsupported(path, "tokenizer.ggml.pre",
                fmt::format("unknown pre-tokenizer {}; known: {}", quoted_start(spec.pre),
                            PreTokenizer::known_names()));
  const size_t n_tokens = spec.tokens.size();
  if (n_tokens == 0) bad_tokenizer(path, "tokenizer.ggml.tokens", "the vocabulary is empty");
  if (n_tokens > INT32_MAX || spec.merges.size() > INT32_MAX)
    bad_tokenizer(path, "tokenizer.ggml.tokens", "the vocabulary has more than 2^31 entries");
  if (spec.kinds.size() != n_tokens)
    bad_tokenizer(path, "tokenizer.ggml.token_type",
                  fmt::format("{} types for {} tokens", spec.kinds.size(), n_tokens));
  check_scores(spec, path);
  check_tokens(spec, path);
  check_id(spec, path, "tokenizer.ggml.bos_token_id", spec.bos);
  check_id(spec, path, "tokenizer.ggml.eos_token_id", spec.eos);
  check_id(spec, path, "tokenizer.ggml.eot_token_id", spec.eot);
  check_id(spec, path, "tokenizer.ggml.eom_token_id", spec.eom);
  check_id(spec, path, "tokenizer.ggml.unknown_token_id", spec.unk);
  check_id(spec, path, "tokenizer.ggml.padding_token_id", spec.pad);
  if (spec.add_bos && spec.bos == kNoToken)
    bad_tokenizer(path, "tokenizer.ggml.add_bos_token",
                  "a begin token is asked for, but bos_token_id is missing");
  if (spec.add_eos && spec.eos == kNoToken)
    bad_tokenizer(path, "tokenizer.ggml.add_eos_token",
                  "an end token is asked for, but eos_token_id is missing");
}

}  // namespace strata::engine

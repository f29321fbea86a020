#include <fmt/format.h>

#include "base/error.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_check.h"

namespace strata::engine {
namespace {

/// A special token's id. Converters write -1 as the largest 32-bit number where a model has no such
/// token.
TokenId read_id(const GgufFile& file, std::string_view key, uint64_t n_tokens,
                TokenId when_absent) {
  const std::optional<uint64_t> id = file.get_uint(key);
  if (!id)
    return when_absent >= 0 && static_cast<uint64_t>(when_absent) < n_tokens ? when_absent
                                                                             : kNoToken;
  if (*id == UINT32_MAX) return kNoToken;
  if (*id >= n_tokens)
    bad_tokenizer(file.path(), key,
                  fmt::format("token id {} is outside the vocabulary of {} tokens", *id, n_tokens));
  return static_cast<TokenId>(*id);
}

void read_scores(const GgufFile& file, TokenizerSpec& spec) {
  const auto scores = file.get_reals("tokenizer.ggml.scores");
  if (!scores) return;
  spec.scores.reserve(scores->size());
  for (const double score : *scores) spec.scores.push_back(static_cast<float>(score));
}

void read_kinds(const GgufFile& file, TokenizerSpec& spec) {
  constexpr std::string_view kKey = "tokenizer.ggml.token_type";
  spec.kinds.assign(spec.tokens.size(), TokenKind::kNormal);
  const auto kinds = file.get_uints(kKey);
  if (!kinds) return;
  spec.kinds.clear();
  spec.kinds.reserve(kinds->size());
  for (const uint64_t kind : *kinds) {
    if (kind > 6)
      bad_tokenizer(file.path(), kKey,
                    fmt::format("token {} has type {}; wanted 0 to 6", spec.kinds.size(), kind));
    // 0 is "undefined": never made from text and without text of its own, which is what unused
    // means.
    spec.kinds.push_back(kind == 0 ? TokenKind::kUnused : static_cast<TokenKind>(kind));
  }
}

void read_special_ids(const GgufFile& file, TokenizerSpec& spec) {
  const bool is_spm = spec.model == "llama";
  const uint64_t n_tokens = spec.tokens.size();
  spec.bos = read_id(file, "tokenizer.ggml.bos_token_id", n_tokens, is_spm ? 1 : kNoToken);
  spec.eos = read_id(file, "tokenizer.ggml.eos_token_id", n_tokens, is_spm ? 2 : kNoToken);
  spec.unk = read_id(file, "tokenizer.ggml.unknown_token_id", n_tokens, is_spm ? 0 : kNoToken);
  spec.eot = read_id(file, "tokenizer.ggml.eot_token_id", n_tokens, kNoToken);
  spec.eom = read_id(file, "tokenizer.ggml.eom_token_id", n_tokens, kNoToken);
  // Early Llama conversions name one id past the vocabulary as padding. Nothing pads here, so it is
  // no reason to refuse the file; separators (spelt seperator_token_id or separator_token_id) are
  // not read at all.
  const std::optional<uint64_t> pad = file.get_uint("tokenizer.ggml.padding_token_id");
  spec.pad = pad && *pad < n_tokens ? static_cast<TokenId>(*pad) : kNoToken;
}

}  // namespace

TokenizerSpec read_tokenizer_spec(const GgufFile& file) {
  TokenizerSpec spec;
  const auto model = file.get_string("tokenizer.ggml.model");
  const auto* tokens = file.get_strings("tokenizer.ggml.tokens");
  if (!model || *model == "none" || *model == "no_vocab")
    bad_tokenizer(file.path(), "tokenizer.ggml.model", "the file has no tokenizer");
  spec.model = *model;
  if (tokens == nullptr)
    bad_tokenizer(file.path(), "tokenizer.ggml.tokens", "the file has no vocabulary");
  spec.tokens = *tokens;
  read_scores(file, spec);
  read_kinds(file, spec);
  read_special_ids(file, spec);
  const bool is_spm = spec.model == "llama";
  // Which models want a begin token and take whole words without merging hangs on the name, not on
  // other keys.
  spec.pre = file.get_string("tokenizer.ggml.pre").value_or("default");
  const bool is_llama3 = spec.pre == "llama-bpe" || spec.pre == "llama3" || spec.pre == "llama-v3";
  spec.ignore_merges = !is_spm && is_llama3;
  spec.add_bos = file.get_bool("tokenizer.ggml.add_bos_token").value_or(is_spm || is_llama3);
  spec.add_eos = file.get_bool("tokenizer.ggml.add_eos_token").value_or(false);
  spec.add_space_prefix = is_spm && file.get_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  spec.remove_extra_whitespaces =
      file.get_bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  if (!is_spm) {
    const auto* merges = file.get_strings("tokenizer.ggml.merges");
    if (merges == nullptr && spec.model == "gpt2")
      bad_tokenizer(file.path(), "tokenizer.ggml.merges",
                    "a gpt2 vocabulary needs merges, and the file has none");
    if (merges != nullptr) spec.merges = *merges;
  }
  validate_tokenizer_spec(spec, file.path());
  return spec;
}

}  // namespace strata::engine

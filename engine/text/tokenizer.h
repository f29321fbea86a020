// engine/text/tokenizer.h - text to token ids and back: SPM and byte-level BPE, as the model file describes them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/gguf/gguf_file.h"

namespace strata::engine {

using TokenId = int32_t;
inline constexpr TokenId kNoToken = -1;

enum class TokenKind : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

/// Everything a tokenizer needs, as plain data. Read from a file by read_tokenizer_spec.
struct TokenizerSpec {
  std::string model;  // "llama" (SPM) or "gpt2" (BPE)
  std::string pre;    // pre-tokenizer name of BPE: "smollm", "llama-bpe", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;       // SPM; may be empty
  std::vector<TokenKind> kinds;    // as many as tokens
  std::vector<std::string> merges; // BPE: "left right"
  TokenId bos = kNoToken, eos = kNoToken, eot = kNoToken, eom = kNoToken, unk = kNoToken, pad = kNoToken;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = true;    // SPM
  bool remove_extra_whitespaces = false;
  bool ignore_merges = false;      // BPE (llama-bpe): a word that is a token is taken whole
};

/// Errors: kBadFile (no vocabulary, counts differ, ids out of range), kUnsupported (model or pre unknown: names the known ones).
TokenizerSpec read_tokenizer_spec(const GgufFile& file);

struct EncodeOptions {
  bool add_special = true;     // BOS / EOS as the file asks
  bool parse_special = false;  // text like <|im_start|> becomes its control token; user text never does
};

/// Immutable and shareable between threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Errors: kUnsupported (pre-tokenizer unknown), kBadFile (a merge names no token ...).
  static std::unique_ptr<Tokenizer> make(TokenizerSpec spec);

  /// Time is linear in the text. Errors: kBadText where `text` is not UTF-8 (says the byte offset).
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const;
  /// The bytes a token stands for; empty for control tokens unless `render_special`.
  std::string piece(TokenId token, bool render_special = false) const;
  std::string decode(std::span<const TokenId> tokens, bool render_special = false) const;

  uint32_t vocab_size() const;
  const TokenizerSpec& spec() const { return spec_; }
  bool is_control(TokenId token) const;
  /// End of generation: eos, eot, eom and the known end-of-turn texts.
  bool is_end(TokenId token) const;
  TokenId find(std::string_view text) const;  // the token with exactly this text, or kNoToken

 protected:
  explicit Tokenizer(TokenizerSpec spec);
  /// Appends the tokens of one stretch of text without special tokens; `is_first` where nothing stands before it.
  virtual void encode_plain(std::string_view text, bool is_first, std::vector<TokenId>& out) const = 0;
  virtual std::string piece_bytes(TokenId token) const = 0;
  TokenizerSpec spec_;

 private:
  struct SpecialIndex;
  std::shared_ptr<const SpecialIndex> special_;
};

/// Turns a stream of tokens into text that never splits a code point: bytes of an unfinished one are held back.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  /// The text that became complete with this token.
  std::string push(TokenId token);
  /// What is left at the end: an unfinished code point becomes U+FFFD.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace strata::engine

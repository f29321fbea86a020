// engine/text/tokenizer.h - text to token ids and back: SPM and byte-level BPE, as the model file
// describes them.
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
// Of a token's text; the longest known vocabulary entry has 1,024.
inline constexpr uint64_t kMaxTokenBytes = 4096;
// What is reserved for a token's text, so that all but very long ones allocate nothing.
inline constexpr uint64_t kLongTokenBytes = 256;
// Of one text, so that positions fit 32 bits after escaping.
inline constexpr uint64_t kMaxTextBytes = 1ull << 30;

enum class TokenKind : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

/// Everything a tokenizer needs, as plain data. Read from a file by read_tokenizer_spec.
struct TokenizerSpec {
  std::string model;  // "llama" (SPM) or "gpt2" (BPE)
  std::string pre;    // pre-tokenizer name of BPE: "smollm", "llama-bpe", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;        // SPM: as many as tokens; none where no piece merges
  std::vector<TokenKind> kinds;     // as many as tokens
  std::vector<std::string> merges;  // BPE: "left right"
  TokenId bos = kNoToken, eos = kNoToken, eot = kNoToken, eom = kNoToken, unk = kNoToken,
          pad = kNoToken;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = true;  // SPM
  // Shown by inspect; as in other loaders, SPM encoding does not apply it.
  bool remove_extra_whitespaces = false;
  bool ignore_merges = false;  // BPE (llama-bpe): a word that is a token is taken whole
};

/// Errors: kBadFile (no vocabulary, counts differ, ids out of range), kUnsupported (model or pre
/// unknown: names the known ones).
TokenizerSpec read_tokenizer_spec(const GgufFile& file);

/// What encoding cost, in steps that do not depend on the machine. Tests hold it against the length
/// of the text.
struct EncodeWork {
  uint64_t lookups = 0;     // pairs of symbols looked up in the vocabulary
  uint64_t queue_pops = 0;  // candidate merges taken from the queue
  uint64_t matches = 0;     // searches of the pre-tokenizer's regexes
  uint64_t steps() const { return lookups + queue_pops + matches; }
};

struct EncodeOptions {
  bool add_special = true;  // BOS / EOS as the file asks
  // Text like <|im_start|> becomes its control token; user text never does.
  bool parse_special = false;
  bool continues = false;      // other text stands before: no space is put there
  EncodeWork* work = nullptr;  // where given, the steps are added to it
};

/// Immutable and shareable between threads.
class Tokenizer {
 public:
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  virtual ~Tokenizer() = default;
  /// Errors: those of validate_tokenizer_spec; kBadFile (a merge names no token, two tokens have
  /// one text, texts collide on purpose).
  static std::unique_ptr<Tokenizer> make(TokenizerSpec spec);

  /// Time is linear in the text. Errors: kBadText where `text` is not UTF-8 (says the byte offset),
  /// is longer than kMaxTextBytes, or holds a character that the vocabulary cannot express.
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const;
  /// The bytes a token stands for; empty for control tokens unless `render_special`, and for ids
  /// outside the vocabulary (a model may have more output rows than the tokenizer has tokens).
  std::string piece(TokenId token, bool render_special = false) const;
  /// Appends them to `out`.
  void append_piece(TokenId token, std::string& out, bool render_special = false) const;
  /// The pieces joined; the space that SPM vocabularies put before a text stays.
  std::string decode(std::span<const TokenId> tokens, bool render_special = false) const;

  uint32_t vocab_size() const;
  const TokenizerSpec& spec() const { return spec_; }
  bool is_control(TokenId token) const;
  /// End of generation: eos, eot, eom and the known end-of-turn texts.
  bool is_end(TokenId token) const;
  TokenId find(std::string_view text) const;  // the token with exactly this text, or kNoToken

 protected:
  /// A stretch of text without special tokens; `is_first` where nothing but a special token stands
  /// before it.
  struct Stretch {
    std::string_view text;
    uint64_t offset = 0;  // in the whole text, for messages
    bool is_first = false;
  };
  explicit Tokenizer(TokenizerSpec spec);
  virtual void encode_plain(const Stretch& stretch, std::vector<TokenId>& out,
                            EncodeWork& work) const = 0;
  /// The bytes of a normal or user-defined token; `token` is in the vocabulary.
  virtual void append_piece_bytes(TokenId token, std::string& out) const = 0;
  /// Text may become this token: it is normal or user-defined, never control, unknown,
  /// byte or unused.
  bool is_plain(TokenId token) const;
  TokenizerSpec spec_;

 private:
  struct SpecialIndex;
  std::shared_ptr<const SpecialIndex> special_;
};

/// Turns a stream of tokens into text that never splits a code point: bytes of an unfinished one
/// are held back.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer);
  /// The text that became complete with this token; it holds until the next call.
  std::string_view push(TokenId token);
  /// What is left at the end: an unfinished code point becomes U+FFFD.
  std::string_view finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
  std::string shown_;  // what the last call gave
};

}  // namespace strata::engine

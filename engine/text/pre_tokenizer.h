// engine/text/pre_tokenizer.h - cuts a text into the words inside which byte-level BPE merges.
// The rules are the regexes that the models were trained with (their tokenizer.json), applied one
// after another: each cuts the stretches that the one before left, matches and gaps alike becoming
// stretches of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace strata::engine {

/// Immutable and shareable between threads.
class PreTokenizer {
 public:
  /// `name` as in tokenizer.ggml.pre. Errors: kUnsupported (names the known ones).
  explicit PreTokenizer(std::string_view name);
  ~PreTokenizer();

  static bool is_known(std::string_view name);
  /// The names, separated by ", ", for messages.
  static std::string known_names();

  /// The end offsets of the words of `text`, ascending, the last being text.size(). `text` is
  /// well-formed UTF-8. Errors: kBadText where the regex engine gives up (it has limits, and text
  /// is never lost).
  std::vector<uint32_t> split(std::string_view text, EncodeWork& work) const;

 private:
  struct Compiled;
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace strata::engine

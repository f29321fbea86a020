// engine/text/tokenizer_check.h - what must hold before a tokenizer is made, whoever made the spec.
#pragma once

#include <string>
#include <string_view>

#include "engine/text/tokenizer.h"

namespace strata::engine {

/// Errors: kBadFile (counts differ, ids out of range, texts too long, byte tokens that name no
/// byte, scores that are missing or no numbers), kUnsupported (model or pre unknown). `path` goes
/// before the key in the error's place; may be empty.
void validate_tokenizer_spec(const TokenizerSpec& spec, const std::string& path);

/// Throws kBadFile; the place is the key, behind the path where that is not empty.
[[noreturn]] void bad_tokenizer(const std::string& path, std::string_view key,
                                const std::string& message);

/// The start of a file's text, as messages quote it: a hostile one may have megabytes.
std::string quoted_start(std::string_view text);

}  // namespace strata::engine

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

/// The start of a file's text, as messages quote it: a hostile one may have megabytes.
std::string quoted_start(std::string_view text);

}  // namespace strata::engine

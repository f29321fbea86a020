// engine/prompt_tokens.h - from a request's text to the tokens a sequence is fed: where special
// tokens count and where not.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "engine/template/chat_template.h"
#include "engine/text/tokenizer.h"

namespace strata::engine {

/// Text without a template: BOS where the model wants one, never an EOS at the end (an answer is to
/// follow). Errors: kBadText (empty, not UTF-8).
std::vector<TokenId> encode_text_prompt(const Tokenizer& tokenizer, std::string_view text,
                                        bool parse_special);

/// A rendered conversation: special tokens count in the template's own text and never in what users
/// and documents say. BOS is added where the model wants one and the template has not written it.
/// Errors: kBadText.
std::vector<TokenId> encode_chat_prompt(const Tokenizer& tokenizer,
                                        std::span<const PromptPart> parts);

}  // namespace strata::engine

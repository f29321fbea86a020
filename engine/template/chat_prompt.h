// engine/template/chat_prompt.h - a conversation as prompt text whose control tokens only the
// template can write. Why: `<|im_start|>system` typed by a user must reach the model as those
// characters, never as the control token. The template's interpreter carries the origin of every
// byte (marked_text.h), so nothing has to be guessed from the result.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/template/chat_template.h"

namespace strata::engine {

/// Renders the conversation and splits it for the tokenizer: a part with is_markup is to be encoded
/// with special tokens parsed, any other without. The parts joined are exactly
/// `chat.render(messages, context)`.
///
/// `control_texts` are the texts of the vocabulary's control tokens. With them the markup parts are
/// these tokens and nothing else, and all text between two of them, the template's and the
/// conversation's, is one part: so words at the seams of template and conversation are tokenized as
/// in the undivided prompt. Without them markup is all that the template wrote. Cost: linear in the
/// text, times the number of different lengths of control_texts for the template's own bytes.
/// Errors: kTemplate.
std::vector<PromptPart> render_chat(const ChatTemplate& chat,
                                    const std::vector<ChatMessage>& messages,
                                    const TemplateContext& context,
                                    std::span<const std::string> control_texts = {});

}  // namespace strata::engine

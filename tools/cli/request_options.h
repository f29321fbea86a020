// tools/cli/request_options.h - settings in the engine's own words. Nothing below this point knows
// an option's name.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "engine/grammar/json_grammar.h"
#include "engine/sampler.h"
#include "engine/template/chat_template.h"
#include "tools/cli/command_line.h"

namespace strata::cli {

engine::EngineOptions engine_options(const Settings& settings);

/// Errors: kUsage, naming `where`.
double kv_share(const std::string& text, const std::string& where);
/// The rule of --kv-budget, --kv-near and --attn-layers; `budget` may be "paper" where a method is
/// named. Errors: kUsage.
index::Rule kv_rule(const Settings& settings, std::optional<index::Method> method,
                    const std::string& budget, const std::string& where = "--kv-budget");
index::Budget kv_budget(const std::string& text, const std::string& where = "--kv-budget");

/// Where --sparse-prefill begins; engine::kNeverSparse = nowhere. Errors: kUsage, naming `where`.
uint64_t sparse_from(const std::string& text, const std::string& where = "--sparse-prefill");

/// A seed of -1 is drawn here. Errors: kUsage (a logit bias that is none).
engine::SamplerOptions sampler_options(const Command& command);

/// What --json-schema binds the answer to; nothing without it. Errors: kUsage (no JSON, a schema
/// that is not supported, --ignore-eos beside it), kIo.
std::optional<engine::JsonGrammar> answer_grammar(const Command& command);

/// The documents, then the question, as one text (-f and standard input, then -p). Standard input
/// is read where -f names `-`, or where something is piped in and no -f stands for a document.
/// Errors: kUsage (no prompt at all), kBadText (empty, not UTF-8), kIo.
std::string gather_prompt(const Command& command, std::string_view verb);

/// The prompt as one user turn, after --system where that is given. Errors as above.
std::vector<engine::ChatMessage> gather_messages(const Command& command, std::string_view verb);

}  // namespace strata::cli

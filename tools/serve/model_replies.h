// tools/serve/model_replies.h - what the routes beside answers say: the model, its contexts, its
// tokens. Pure functions of a service and a body.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "tools/serve/answer_service.h"
#include "tools/serve/api_request.h"

namespace strata::serve {

/// The model's name, or its file's without the ending.
std::string model_id(const ServiceFacts& facts);

/// OpenAI's list, with llama.cpp's `meta`.
nlohmann::ordered_json models_json(const ServiceFacts& facts, int64_t created);
/// As llama.cpp's /props.
nlohmann::ordered_json props_json(const ServiceFacts& facts, const ApiDefaults& defaults,
                                  std::string_view version);
/// As llama.cpp's /slots.
nlohmann::ordered_json slots_json(const ServiceFacts& facts, const ServiceCounts& counts);
/// All counts, for the page.
nlohmann::ordered_json status_json(const ServiceFacts& facts, const ServiceCounts& counts,
                                   std::span<const engine::LayerBlocks> layers);

/// {"content", "add_special", "parse_special", "with_pieces"} -> {"tokens"}. Errors: kUsage,
/// kBadText.
nlohmann::ordered_json tokenize_json(const AnswerService& service, std::string_view body);
/// {"tokens"} -> {"content"}. Errors: kUsage.
nlohmann::ordered_json detokenize_json(const AnswerService& service, std::string_view body);
/// {"messages", ...} -> {"prompt"}. Errors: kUsage, kTemplate.
nlohmann::ordered_json rendered_json(const AnswerService& service, std::string_view body,
                                     const ApiDefaults& defaults);

}  // namespace strata::serve

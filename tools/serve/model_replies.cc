#include "tools/serve/model_replies.h"

#include <fmt/format.h>

#include <filesystem>
#include <limits>

#include "engine/text/utf8.h"
#include "tools/serve/forced_call.h"
#include "tools/serve/json_body.h"

namespace strata::serve {
namespace {

// Bytes to tokens, and tokens to bytes: every one may become one of the other. An object is made
// for each token whose piece is wanted, which takes about 200 bytes.
constexpr size_t kTokenizedMax = size_t{4} << 20, kPiecesMax = size_t{1} << 20;

using Json = nlohmann::ordered_json;

Json body_object(std::string_view body) {
  JsonBudget budget;
  return parse_object(body, budget);
}

/// As llama.cpp says it: a text where the bytes are one, else their numbers.
Json piece_json(const std::string& bytes) {
  if (engine::utf8_fault(bytes) == bytes.size()) return bytes;
  Json numbers = Json::array();
  for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
  return numbers;
}

}  // namespace

std::string model_id(const ServiceFacts& facts) {
  return facts.model_name.empty() ? std::filesystem::path(facts.model_path).stem().string()
                                  : facts.model_name;
}

Json models_json(const ServiceFacts& facts, int64_t created) {
  const Json meta = {{"vocab_type", nullptr},          {"n_vocab", facts.vocab_size},
                     {"n_ctx", facts.n_ctx},           {"n_ctx_train", facts.n_ctx_train},
                     {"n_params", facts.n_parameters}, {"size", facts.file_bytes}};
  const Json model = {{"id", model_id(facts)},
                      {"object", "model"},
                      {"created", created},
                      {"owned_by", "strata"},
                      {"meta", meta}};
  return {{"object", "list"}, {"data", Json::array({model})}};
}

Json props_json(const ServiceFacts& facts, const ApiDefaults& defaults, std::string_view version) {
  const engine::SamplerOptions& sampler = defaults.sampler;
  const int64_t n_predict = defaults.n_predict > static_cast<uint64_t>(INT64_MAX)
                                ? -1
                                : static_cast<int64_t>(defaults.n_predict);
  const Json params = {{"n_predict", n_predict},
                       {"temperature", sampler.temperature},
                       {"top_k", sampler.top_k},
                       {"top_p", sampler.top_p},
                       {"min_p", sampler.min_p}};
  return {{"default_generation_settings", {{"n_ctx", facts.n_ctx}, {"params", params}}},
          {"total_slots", facts.n_parallel},
          {"model_alias", model_id(facts)},
          {"model_path", facts.model_path},
          {"modalities", {{"vision", false}, {"audio", false}}},
          {"chat_template", facts.chat_template},
          {"attention", facts.attention},
          {"build_info", version}};
}

Json slots_json(const ServiceFacts& facts, const ServiceCounts& counts) {
  Json slots = Json::array();
  for (const SlotFacts& slot : counts.slots)
    slots.push_back({{"id", slot.id},
                     {"n_ctx", facts.n_ctx},
                     {"is_processing", slot.is_busy},
                     {"n_past", slot.n_tokens},
                     {"n_prompt_tokens", slot.n_prompt},
                     {"n_decoded", slot.n_answered}});
  return slots;
}

/// Per layer where its weights stay, those of its FFN by themselves where they live apart, and its
/// blocks of K and V are; no blocks before the first look.
Json layers_json(const ServiceFacts& facts, std::span<const engine::LayerBlocks> blocks) {
  Json layers = Json::array();
  for (size_t i = 0; i < facts.layer_places.size(); ++i) {
    const engine::LayerBlocks of = i < blocks.size() ? blocks[i] : engine::LayerBlocks{};
    layers.push_back({{"weights", facts.layer_places[i]},
                      {"hbm", of.hbm},
                      {"dram", of.dram},
                      {"nvme", of.nvme}});
    if (i < facts.ffn_places.size() && !facts.ffn_places[i].empty())
      layers.back()["ffn"] = facts.ffn_places[i];
  }
  return layers;
}

Json status_json(const ServiceFacts& facts, const ServiceCounts& counts,
                 std::span<const engine::LayerBlocks> layers) {
  Json tiers = Json::object();
  for (const TierBytes& tier : counts.tiers)
    tiers[tier.name] = {{"budget_bytes", tier.budget_bytes}, {"weights_bytes", tier.weights_bytes},
                        {"kv_bytes", tier.kv_bytes},         {"index_bytes", tier.index_bytes},
                        {"read_bytes", tier.read_bytes},     {"written_bytes", tier.written_bytes}};
  return {{"model", model_id(facts)},
          {"attention", facts.attention},
          {"attention_budget", facts.attention_budget},
          {"plan", facts.plan},
          {"n_ctx", facts.n_ctx},
          {"kv_bytes_per_token", facts.kv_bytes_per_token},
          {"n_waiting", counts.n_waiting},
          {"n_busy", counts.n_busy},
          {"n_parallel", facts.n_parallel},
          {"hit_rate", counts.hit_rate},
          {"hbm_hit_rate", counts.hbm_hit_rate ? Json(*counts.hbm_hit_rate) : Json()},
          {"stalled_steps", counts.stalled_steps},
          {"stall_seconds", counts.stall_seconds},
          {"corrupt_blocks", counts.corrupt_blocks},
          {"read_retries", counts.read_retries},
          {"lost_extents", counts.lost_extents},
          {"write_failures", counts.write_failures},
          {"tiers", tiers},
          {"layers", layers_json(facts, layers)},
          {"slots", slots_json(facts, counts)}};
}

Json tokenize_json(const AnswerService& service, std::string_view body) {
  const Json object = body_object(body);
  const FieldReader fields(object, "");
  const auto given = fields.text("content");
  if (!given) fields.refuse("content", "a string");
  const std::string& content = *given;
  const bool has_pieces = fields.flag("with_pieces").value_or(false);
  const size_t most = has_pieces ? kPiecesMax : kTokenizedMax;
  if (content.size() > most)
    refuse_field("content",
                 fmt::format("content has {} bytes; wanted at most {}{}", content.size(), most,
                             has_pieces ? " with pieces" : ""),
                 "Send it in parts.");
  const auto tokens = service.tokenize(content, fields.flag("add_special").value_or(false),
                                       fields.flag("parse_special").value_or(true));
  if (!has_pieces) return {{"tokens", tokens}};
  Json pieces = Json::array();
  for (const engine::TokenId token : tokens)
    pieces.push_back({{"id", token}, {"piece", piece_json(service.detokenize({token}))}});
  return {{"tokens", pieces}};
}

Json detokenize_json(const AnswerService& service, std::string_view body) {
  const Json object = body_object(body);
  const FieldReader fields(object, "");
  const Json* listed = fields.array("tokens");
  if (listed == nullptr) fields.refuse("tokens", "a list of token ids");
  if (listed->size() > kTokenizedMax)
    refuse_field("tokens",
                 fmt::format("tokens has {} ids; wanted at most {}", listed->size(), kTokenizedMax),
                 "Send them in parts.");
  std::vector<engine::TokenId> tokens;
  tokens.reserve(listed->size());
  for (const Json& token : *listed) {
    constexpr uint64_t kMost = std::numeric_limits<engine::TokenId>::max();
    if (!token.is_number_unsigned() || token.get<uint64_t>() > kMost)
      fields.refuse("tokens", "a list of token ids, whole numbers from 0 on");
    tokens.push_back(static_cast<engine::TokenId>(token.get<uint64_t>()));
  }
  return {{"content", service.detokenize(tokens)}};
}

Json rendered_json(const AnswerService& service, std::string_view body,
                   const ApiDefaults& defaults) {
  ApiRequest request = parse_request(ApiShape::kChat, body, defaults);
  (void)bind_forced_call(request, tool_call_style(service.facts().chat_template));
  return {{"prompt", service.rendered(request.order)}};
}

}  // namespace strata::serve

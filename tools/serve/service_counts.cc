#include "tools/serve/service_counts.h"

#include <algorithm>

#include "engine/device_walk.h"
#include "index/method.h"
#include "tools/cli/tier_report.h"
#include "tools/cli/value_readers.h"

namespace strata::serve {
namespace {

double hit_rate(engine::Engine& engine, const engine::WalkCounts& walk) {
  if (engine.attention() == engine::Attention::kSelected)
    return engine.walk().selection_counts().hit_rate();
  if (walk.extents_attended == 0) return 1;
  return std::max(0.0, 1 - static_cast<double>(walk.extents_missing) /
                               static_cast<double>(walk.extents_attended));
}

/// Where a piece of a layer's weights stays.
std::string place_of(const engine::Engine& engine, uint32_t layer, LayerPiece piece) {
  if (engine.device() != nullptr && engine.device_plan().resident[layer].has(piece)) return "hbm";
  return engine.weight_plan().streamed[layer].has(piece) ? "nvme" : "dram";
}

uint64_t kv_bytes_per_token(const engine::Engine& engine) {
  const ModelShape& shape = engine.spec().shape;
  const uint64_t bytes = kv_position_bytes(
      KvLayout::make(engine.options().k_codec, engine.options().v_codec, shape.head_dim));
  uint64_t sum = 0;
  for (const LayerShape& layer : shape.layers) sum += layer.n_kv_heads * bytes;
  return sum;
}

}  // namespace

ServiceFacts service_facts(const engine::Engine& engine, const std::string& chat_template,
                           uint32_t n_parallel, const std::vector<std::string>& plan) {
  const engine::ModelSpec& spec = engine.spec();
  ServiceFacts facts;
  facts.model_name = spec.name.empty() ? spec.shape.architecture : spec.name;
  facts.model_path = engine.file().path();
  facts.chat_template = chat_template;
  facts.attention = "exact";
  if (const auto method = engine.options().method)
    for (const index::MethodName& of : index::method_names())
      if (of.method == *method) facts.attention = of.name;
  if (engine.attention() == engine::Attention::kSelected)
    facts.attention_budget = cli::budget_text(engine.options().selection.budget);
  facts.plan = plan;
  for (uint32_t layer = 0; layer < spec.shape.n_layers; ++layer) {
    facts.layer_places.push_back(place_of(engine, layer, LayerPiece::kAttention));
    const std::string ffn = place_of(engine, layer, LayerPiece::kFfn);
    facts.ffn_places.push_back(ffn == facts.layer_places.back() ? "" : ffn);
  }
  facts.kv_bytes_per_token = kv_bytes_per_token(engine);
  facts.n_ctx = engine.context().n_ctx;
  facts.n_ctx_train = spec.shape.n_ctx_train;
  for (const engine::GgufTensor& tensor : engine.file().tensors())
    facts.n_parameters += tensor.shape[0] * tensor.n_rows();
  facts.file_bytes = engine.weight_file_bytes();
  facts.n_parallel = n_parallel;
  facts.n_layers = spec.shape.n_layers;
  facts.vocab_size = spec.shape.vocab_size;
  return facts;
}

void count_engine(engine::Engine& engine, ServiceCounts& counts) {
  const cli::TierCounts moved = cli::tier_counts(engine);
  const tiers::BlockStore& store = engine.cache().store();
  const tiers::BlockPool& pool = store.pool();
  counts.stalled_steps = moved.kv.stalls;
  counts.stall_seconds = static_cast<double>(moved.kv.stall_us) * 1e-6;
  counts.corrupt_blocks = moved.store.corrupt_blocks;
  counts.read_retries = moved.store.retries;
  counts.lost_extents = moved.store.lost_extents;
  counts.write_failures = moved.store.write_failures;
  counts.hit_rate = hit_rate(engine, moved.walk);
  counts.tiers.clear();
  uint64_t to_device = 0, from_device = 0;  // what crosses the link is DRAM's, too
  uint64_t beside_device = 0;               // weights that the CPU reads in the device's place
  if (const engine::DeviceWalk* device = engine.walk().device()) {
    counts.hbm_hit_rate = device->kv_counts().hit_rate();
    const engine::DeviceIndexCounts index = device->index_counts();
    to_device =
        device->kv_counts().fetched_bytes + device->streamed_bytes() + index.to_device_bytes();
    from_device = device->kv_counts().written_bytes + index.weight_bytes;
    beside_device = device->cpu_weight_bytes();
    counts.tiers.push_back({.name = "hbm",
                            .budget_bytes = device->plan().hbm_bytes,
                            .weights_bytes = device->plan().weight_bytes,
                            .kv_bytes = device->plan().kv_bytes,
                            .index_bytes = device->plan().index_bytes,
                            .read_bytes = from_device,
                            .written_bytes = to_device});
  }
  const uint64_t weights = engine.model().weight_bytes();
  counts.tiers.push_back({.name = "dram",
                          .budget_bytes = weights + engine.context().kv.dram_bytes(),
                          .weights_bytes = weights,
                          .kv_bytes = uint64_t{pool.n_slots() - pool.n_free()} * pool.block_bytes(),
                          .index_bytes = engine.index_bytes(),
                          .read_bytes = moved.walk.read_bytes + to_device + beside_device,
                          .written_bytes = moved.walk.written_bytes + from_device});
  const tiers::PlaceSource* places = store.places();
  if (store.transfers() == nullptr && !engine.reads_weights()) return;
  counts.tiers.push_back({.name = "nvme",
                          .budget_bytes = places != nullptr ? places->budget_bytes() : 0,
                          .kv_bytes = places != nullptr ? places->used_bytes() : 0,
                          .read_bytes = moved.kv.read_bytes + moved.weights.read_bytes,
                          .written_bytes = moved.kv.written_bytes});
}

void count_answer(const engine::Generation& answer, ServiceCounts& sums) {
  ++(answer.finish_reason == engine::FinishReason::kCancelled ? sums.cancelled : sums.answered);
  sums.prompt_tokens += answer.usage.prompt_tokens;
  sums.cached_tokens += answer.usage.cached_tokens;
  sums.answer_tokens += answer.usage.completion_tokens;
  sums.drafts.proposed += answer.drafts.proposed;
  sums.drafts.accepted += answer.drafts.accepted;
  sums.prompt_seconds += answer.times.prefill_ms * 1e-3;
  sums.answer_seconds += answer.times.decode_ms * 1e-3;
}

}  // namespace strata::serve

#include "engine/engine.h"

#include <fmt/format.h>

#include <chrono>

#include "base/check.h"
#include "cpu_attn/kernels.h"
#include "engine/fingerprint.h"
#include "engine/machine.h"

namespace strata::engine {
namespace {

/// Every token id must have an embedding row; rows without a token (padding) are usual.
void check_vocabulary(const Engine& engine) {
  const uint32_t n_tokens = engine.tokenizer().vocab_size();
  const uint32_t n_rows = engine.spec().shape.vocab_size;
  if (n_tokens <= n_rows) return;
  throw Error(
      ErrorCode::kBadFile,
      fmt::format("the tokenizer has {} tokens, the embedding only {} rows", n_tokens, n_rows),
      fmt::format("{}: tokenizer.ggml.tokens", engine.file().path()),
      "fetch or convert the model again");
}

}  // namespace

Engine Engine::open(const EngineOptions& options) {
  Engine engine;
  engine.options_ = options;
  engine.kernels_ = &cpu_attn::choose_kernels(options.cpu_isa);
  engine.n_threads_ = options.n_threads > 0 ? options.n_threads : usable_cpus();
  engine.file_ = std::make_unique<GgufFile>(GgufFile::open(options.model_path));
  RopeOverrides rope = options.rope;
  rope.n_ctx = options.n_ctx;
  engine.spec_ = read_model_spec(*engine.file_, rope);
  engine.tokenizer_ = Tokenizer::make(read_tokenizer_spec(*engine.file_));
  check_vocabulary(engine);
  for (const GgufTensor& tensor : engine.file_->tensors())
    engine.weight_file_bytes_ += tensor.bytes;

  ContextRequest request;
  request.n_ctx = options.n_ctx;
  request.kv_dram_bytes = options.kv_dram_bytes;
  request.k_codec = options.k_codec;
  request.v_codec = options.v_codec;
  request.chunk_rows = options.chunk_rows;
  request.allow_untrained = options.allow_untrained;
  request.n_threads = engine.n_threads_;
  request.weight_bytes = Model::packed_bytes(*engine.file_, engine.spec_);
  request.available_bytes = available_dram_bytes();
  if (!options.nvme_directory.empty())
    request.nvme_bytes = options.nvme_budget_bytes > 0
                             ? options.nvme_budget_bytes
                             : free_disk_bytes(options.nvme_directory) / 2;
  engine.context_ = plan_context(engine.spec_.shape, request);
  return engine;
}

void Engine::load(const Model::Progress& progress) {
  STRATA_CHECK(model_ == nullptr, "loaded twice");
  const auto start = std::chrono::steady_clock::now();
  pool_ = std::make_unique<ThreadPool>(n_threads_);
  model_ = std::make_unique<Model>(Model::load(*file_, spec_, *pool_, progress));
  KvCacheOptions kv;
  kv.k_codec = options_.k_codec;
  kv.v_codec = options_.v_codec;
  kv.budget_bytes = context_.kv.slot_bytes;
  kv.chunk_rows = context_.chunk_rows;
  kv.n_ctx = context_.n_ctx;
  if (context_.kv.is_spilling()) kv.model = model_fingerprint(*file_, spec_, kernels_->isa);
  cache_ = std::make_unique<KvCache>(spec_.shape, kv, open_spill());
  walk_ = std::make_unique<Walk>(*model_, *cache_, *kernels_, *pool_, context_.chunk_rows);
  load_ms_ =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// Nothing where all of K and V stays in DRAM. The file is as large as this context can need.
std::unique_ptr<tiers::Spill> Engine::open_spill() {
  if (!context_.kv.is_spilling()) return nullptr;
  return tiers::open_spill({.directory = options_.nvme_directory,
                            .budget_bytes = context_.kv.nvme_bytes,
                            .place_bytes = context_.kv.place_bytes,
                            .n_frames = context_.kv.n_frames,
                            .io = options_.io},
                           notices_);
}

const Model& Engine::model() const {
  STRATA_CHECK(model_ != nullptr, "not loaded");
  return *model_;
}

KvCache& Engine::cache() {
  STRATA_CHECK(cache_ != nullptr, "not loaded");
  return *cache_;
}

Walk& Engine::walk() {
  STRATA_CHECK(walk_ != nullptr, "not loaded");
  return *walk_;
}

}  // namespace strata::engine

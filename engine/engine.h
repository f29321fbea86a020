// engine/engine.h - a model ready to run: file, spec, tokenizer, kernels, threads, then weights, KV
// cache and the walk. Why in two steps: open() reads the head of the file and decides everything
// that can be refused (context, memory, options), so that a prompt can be encoded and measured
// before load() reads gigabytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/kernel_table.h"
#include "base/thread_pool.h"
#include "base/trace.h"
#include "engine/context_size.h"
#include "engine/device.h"
#include "engine/device_choice.h"
#include "engine/device_model.h"
#include "engine/device_plan.h"
#include "engine/gguf/gguf_file.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/placement.h"
#include "engine/text/tokenizer.h"
#include "engine/walk.h"
#include "gpu_attn/device_model.h"

namespace strata::engine {

struct EngineOptions {
  std::string model_path;
  uint64_t n_ctx = 0;               // 0 = chosen (plan_context)
  uint64_t dram_bytes = 0;          // of everything of ours; 0 = what is free
  uint64_t kv_dram_bytes = 0;       // 0 = what n_ctx needs
  std::string nvme_directory = "";  // of the spill file; empty = none: K and V stay in DRAM
  // The user has named the directory: one that cannot be used is an error. Else K and V stay in
  // DRAM then, and what follows from that names the cause.
  bool nvme_is_named = true;
  uint64_t nvme_budget_bytes = 0;  // of the spill file; 0 = half of what the disk has free
  bool reads_saved = false;        // saved contexts will be read and written
  tiers::IoChoice io = tiers::IoChoice::kAuto;
  // Of K, V and weights that are read past the page cache, together; 0 = as the disk gives them.
  uint64_t disk_read_bytes_per_s = 0;
  uint64_t weights_dram_bytes = 0;  // the others are streamed from the file; 0 = all
  LoadMode load = LoadMode::kAuto;
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t chunk_rows = 512;
  bool chunk_is_named =
      true;                // false: a device may take more rows at a time, see device_chunk_rows()
  uint32_t n_threads = 0;  // 0 = usable_cpus()
  std::string cpu_isa;     // "" = the widest
  bool allow_untrained = false;
  // Sequences of n_ctx that share their beginning and are held at a time: full layers share its
  // blocks, windowed layers hold a window of each.
  uint32_t n_sequences = 1;
  // Answers at work at a time, each with a text of its own; together they have n_ctx positions.
  // Counted for each beyond the first: its windows, its tables, logits, index rows and saved
  // contexts on their way, and of what spills the extents that it fills.
  uint32_t n_answers = 1;
  // Tokens guessed ahead (GenerationRequest::n_draft_max); nothing = kDraftTokens where memory
  // holds what they need, else none. Steps on a device and selected ones take none.
  std::optional<uint32_t> n_draft_max = 0;
  RopeOverrides rope;
  DeviceChoice device = {.kind = DeviceChoice::Kind::kNone, .profile = ""};
  uint64_t hbm_bytes = 0;  // of the device's memory at most; 0 = what is free there, less a reserve
  // Of what the device does not hold, the share that is the CPU's for decoded tokens: of full
  // layers' K and V, which it attends, and of layers' weights, by which it multiplies; nothing = as
  // the placement says, and none without one. Blocks that are chosen are the device's. Of which
  // weights is what a placement says where there is one, but for 0.
  std::optional<double> cpu_share = 0;
  // The devices there are; null = those of the CUDA module, looked for where `device` wants one.
  const gpu_attn::CudaDevices* devices = nullptr;
  // Of retrieval; nothing = attention is exact.
  std::optional<index::Method> method = {};
  index::Rule selection = {};
  uint64_t sparse_from = kNeverSparse;  // with a method: GenerationRequest::sparse_from
  // Exactly this is reserved, and its n_ctx, chunk_rows and codecs count in place of those above;
  // budgets stay limits. Nothing = the rules by hand decide.
  std::optional<Placement> placement = {};
  Trace* trace = nullptr;  // of steps and transfers; outlives the engine
};

class Engine {
 public:
  /// Reads the model's head and makes the spill file where one is needed. Errors: those of
  /// GgufFile::open, read_model_spec, Tokenizer::make, choose_kernels, plan_weights, plan_context,
  /// tiers::spill_room, tiers::open_spill; where there is a placement, those of place().
  static Engine open(const EngineOptions& options);
  /// In place of what open() has decided, before load(). Errors: those of place_memory() and
  /// place_on_device(); kUsage where it wants a device and none computes, or the named one is to
  /// have nothing; tiers::open_spill. After any but the last nothing has changed.
  void place(const Placement& placement);
  /// Reads the weights and reserves KV and working memory. Errors: those of Model::load, KvCache,
  /// Walk. Called once.
  void load(const Model::Progress& progress);
  /// In place of load(): a KV cache and a walk of its own beside the weights and threads of a
  /// loaded engine of the same file, which outlives this one. One of the two walks at a time.
  void load_beside(const Engine& loaded);

  /// The weights alone, for a caller that keeps them and its own K and V; they must go before the
  /// engine does.
  Model load_model(ThreadPool& pool, const Model::Progress& progress) const;

  const GgufFile& file() const { return *file_; }
  const ModelSpec& spec() const { return spec_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const ContextPlan& context() const { return context_; }
  const WeightPlan& weight_plan() const { return weight_plan_; }
  /// What weights, K and V, and buffers could have had. Drafts that nobody asked for by number are
  /// among them where memory holds them.
  const ContextRequest& limits() const { return limits_; }
  const KernelTable& kernels() const { return *kernels_; }
  uint32_t n_threads() const { return n_threads_; }
  uint64_t weight_file_bytes() const { return weight_file_bytes_; }
  double load_ms() const { return load_ms_; }
  /// Names the model in saved contexts; zero where nothing is spilled or read back.
  const tiers::Hash128& fingerprint() const { return fingerprint_; }
  /// What computes in place of the CPU; null = nothing does.
  const OpenDevice* device() const { return device_ ? &*device_ : nullptr; }
  const DevicePlan& device_plan() const { return device_plan_; }  // where there is one
  uint64_t hbm_budget() const;                                    // of it; 0 = there is none
  uint64_t index_bytes() const;  // of index rows; 0 where nothing selects, or by no rows
  /// Lines for the user about a disk or system that lacks something.
  const std::vector<std::string>& notices() const { return notices_; }

  /// After load() only.
  const Model& model() const;
  ThreadPool& pool();
  KvCache& cache();
  Walk& walk();
  /// What steps that answer should attend.
  Attention attention() const { return options_.method ? Attention::kSelected : Attention::kExact; }
  const EngineOptions& options() const { return options_; }
  /// Whether steps read weights from the file: those of a device leave out what that holds; where K
  /// and V spill, some are the CPU's.
  bool reads_weights() const;
  /// Whether every step reads weights, K or V from disk: of a context that is full.
  bool reads_disk() const { return reads_weights() || context_.kv.is_spilling(); }
  /// Tokens that answers may guess ahead.
  uint32_t n_draft_max() const;
  /// Held at a time, with windows of their own.
  uint32_t n_sequences() const { return std::max(options_.n_sequences, options_.n_answers); }

 private:
  Engine() = default;
  void set_limits();
  void place_by_hand();
  void choose_by_hand();
  uint32_t drafts_wanted(bool on_device) const;
  void add_drafts();
  void check_method(KvCodec k_codec, KvCodec v_codec) const;
  DeviceNeeds needs_on_device(const gpu_attn::DeviceModel& model, const ContextPlan& context) const;
  uint64_t nvme_budget();
  std::unique_ptr<tiers::Spill> open_spill(std::vector<std::string>& notices) const;
  void reserve_kv();
  void reserve_walk();
  void open_device();
  void plan_device();
  void leave_out_held();
  DevicePlan divide_device() const;
  bool use_device();
  void widen_chunks();
  void set_cpu_share(const Placement* placement);
  void leave_device(const std::string& why);
  bool device_is_named() const { return options_.device.kind == DeviceChoice::Kind::kCuda; }
  BeyondDevices beyond_devices(bool spills, const WeightPlan& weights) const;
  std::string device_name() const;
  // In the order of construction: the later ones refer to the earlier ones.
  EngineOptions options_;
  std::unique_ptr<GgufFile> file_;
  ModelSpec spec_;
  std::unique_ptr<Tokenizer> tokenizer_;
  const KernelTable* kernels_ = nullptr;
  ContextRequest limits_;
  WeightPlan weight_plan_;
  ContextPlan context_;
  std::vector<PieceSet> held_;  // by the device and not in DRAM, of the rules by hand; empty: none
  uint64_t weight_file_bytes_ = 0;
  uint32_t n_threads_ = 0;
  double load_ms_ = 0;
  tiers::Hash128 fingerprint_;
  std::shared_ptr<tiers::RateLimit> read_limit_;  // null: none
  std::unique_ptr<tiers::Spill> spill_;  // from open() to load(), which gives it to the cache
  std::vector<std::string> notices_;
  std::string spill_problem_;  // why there is no spill file although there might be
  std::optional<OpenDevice> device_;
  DevicePlan device_plan_;
  gpu_attn::DeviceModel device_model_;  // without weights
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<const Model> model_;
  std::unique_ptr<index::SelectorSource> selectors_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Walk> walk_;
};

}  // namespace strata::engine

#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <future>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "cpu_attn/kernels.h"
#include "engine/device_walk.h"
#include "engine/dram_budget.h"
#include "engine/fingerprint.h"
#include "engine/generator.h"
#include "engine/machine.h"
#include "gpu_attn/open_module.h"

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

/// The tokenizer, made while memory is reserved: each takes as long as the other. `file` outlives
/// what is returned.
std::future<std::unique_ptr<Tokenizer>> make_aside(const GgufFile& file) {
  const auto make = [&file] { return Tokenizer::make(read_tokenizer_spec(file)); };
  try {
    return std::async(std::launch::async, make);
  } catch (const std::system_error&) {  // no thread
    return std::async(std::launch::deferred, make);
  }
}

}  // namespace

Engine Engine::open(const EngineOptions& options) {
  Engine engine;
  engine.options_ = options;
  engine.kernels_ = &cpu_attn::choose_kernels(options.cpu_isa);
  engine.n_threads_ = options.n_threads > 0 ? options.n_threads : usable_cpus();
  engine.file_ = std::make_unique<GgufFile>(GgufFile::open(options.model_path));
  RopeOverrides rope = options.rope;
  rope.n_ctx = options.placement ? options.placement->n_ctx : options.n_ctx;
  engine.spec_ = read_model_spec(*engine.file_, rope);
  for (const GgufTensor& tensor : engine.file_->tensors())
    engine.weight_file_bytes_ += tensor.bytes;
  if (options.disk_read_bytes_per_s > 0)
    engine.read_limit_ = std::make_shared<tiers::RateLimit>(options.disk_read_bytes_per_s);
  std::exception_ptr failure;
  const auto attempt = [&failure](const auto& work) {
    try {
      if (!failure) work();
    } catch (...) {
      failure = std::current_exception();
    }
  };
  attempt([&] {
    engine.open_device();
    engine.set_limits();  // by what memory is free before the tokenizer takes some
  });
  auto tokenizer = make_aside(*engine.file_);
  attempt([&] {
    if (options.placement)
      engine.place(*options.placement);
    else
      engine.place_by_hand();
  });
  engine.tokenizer_ = tokenizer.get();  // what is wrong with the file comes first
  check_vocabulary(engine);
  if (failure) std::rethrow_exception(failure);
  return engine;
}

/// Tokens guessed ahead where memory holds them too: as many as were asked for by number; where
/// nobody did, none on a device.
uint32_t Engine::drafts_wanted(bool on_device) const {
  if (options_.method) return 0;
  return options_.n_draft_max.value_or(on_device ? 0 : kDraftTokens);
}

void Engine::set_limits() {
  limits_.n_ctx = options_.n_ctx;
  limits_.kv_dram_bytes = options_.kv_dram_bytes;
  limits_.k_codec = options_.k_codec;
  limits_.v_codec = options_.v_codec;
  limits_.chunk_rows = options_.chunk_rows;
  limits_.allow_untrained = options_.allow_untrained;
  limits_.has_packs = options_.reads_saved;
  limits_.method = options_.method;
  if (options_.sparse_from != kNeverSparse) limits_.sparse = options_.selection;
  limits_.n_threads = n_threads_;
  limits_.n_answers = options_.n_answers;
  if (options_.n_draft_max) limits_.n_draft_max = drafts_wanted(false);
  limits_.has_device = device_.has_value();
  limits_.may_share = device_ && options_.cpu_share.value_or(1) > 0;
  limits_.may_spill_beside = device_ && device_is_named();
  limits_.available_bytes = available_dram_bytes();
  if (options_.dram_bytes > 0) {
    limits_.is_budgeted = true;
    limits_.available_bytes =
        std::min(limits_.available_bytes,
                 options_.dram_bytes - std::min(options_.dram_bytes, kProcessBytes));
  }
  if (!options_.nvme_directory.empty()) limits_.nvme_bytes = nvme_budget();
}

uint32_t Engine::n_draft_max() const {
  // Rows of several and of one on a device are not of the same bits.
  return device_ ? 0 : limits_.n_draft_max;
}

/// Blocks are chosen by rows of some codecs alone.
void Engine::check_method(KvCodec k_codec, KvCodec v_codec) const {
  if (options_.method)
    index::check_supported(*options_.method,
                           KvLayout::make(k_codec, v_codec, spec_.shape.head_dim));
  check_modes(options_.selection, spec_.shape);
}

void Engine::place_by_hand() {
  check_method(options_.k_codec, options_.v_codec);
  choose_by_hand();
  if (!spill_problem_.empty() && limits_.n_ctx == 0 && context_.n_ctx < spec_.shape.n_ctx_train)
    notices_.push_back(spill_problem_);
  plan_device();
  add_drafts();
  widen_chunks();
  set_cpu_share(nullptr);
  spill_ = open_spill(notices_);
}

/// Weights and context, within limits_. Where there is no spill file for a reason, what follows
/// from it says the reason.
void Engine::choose_by_hand() {
  const ModelShape shape = shape_of_sequences(spec_.shape, n_sequences());
  const WeightSizes sizes = weight_sizes(*file_, spec_);
  try {
    DividedDram divided = divide_dram(sizes, shape, limits_, options_.weights_dram_bytes, held_);
    weight_plan_ = std::move(divided.weights);
    context_ = divided.context;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDoesNotFit) throw;
    std::string what = error.what(), remedy = error.remedy();
    if (limits_.is_budgeted) {
      const uint64_t dram_bytes =
          smallest_dram(sizes, shape, limits_, options_.weights_dram_bytes, available_dram_bytes());
      if (dram_bytes > 0) remedy = remedy_with_dram(remedy, dram_bytes);
    }
    if (!spill_problem_.empty() && error.where() != "--weights-dram") {
      what += fmt::format(" ({})", spill_problem_);
      remedy += ", or name a folder on a disk with --nvme";
    }
    throw Error(error.code(), what, error.where(), remedy);
  }
}

void Engine::place(const Placement& placement) {
  STRATA_CHECK(model_ == nullptr, "placed after it was loaded");
  const bool leaves_device = device_ && !placement.has_device();
  if (placement.has_device() && !device_)
    throw Error(ErrorCode::kUsage, "the plan is of a device, and the CPU computes", "plan: device",
                "plan anew (`strata plan --save FILE`), or name the card with --device cuda:N");
  if (leaves_device && device_is_named())
    throw Error(ErrorCode::kUsage, "the plan is of the CPU alone, and a device is named",
                "plan: device", "use --device none, or plan anew (`strata plan --save FILE`)");
  const ModelShape kv_shape = shape_of_sequences(spec_.shape, n_sequences());
  ContextRequest limits = limits_;
  const auto place = [&] {
    return place_memory(weight_sizes(*file_, spec_), spec_.shape, kv_shape, limits,
                        options_.weights_dram_bytes, available_dram_bytes(), placement);
  };
  limits.n_draft_max = drafts_wanted(placement.has_device());
  PlacedMemory placed;
  try {
    placed = place();
  } catch (const Error& error) {
    const bool may_leave = !options_.n_draft_max && limits.n_draft_max > 0;
    if (error.code() != ErrorCode::kDoesNotFit || !may_leave) throw;
    limits.n_draft_max = 0;
    placed = place();
  }
  check_method(placement.k_codec, placement.v_codec);
  if (placement.has_device()) {
    gpu_attn::DeviceModel described = describe_for_device(
        *file_, spec_, KvLayout::make(placement.k_codec, placement.v_codec, spec_.shape.head_dim));
    const std::string why =
        why_not_on_device(described, beyond_devices(placement.is_spilling(), placed.weights));
    if (!why.empty())
      throw Error(ErrorCode::kUnsupported, why, "plan: device", "change that in the plan");
    device_plan_ =
        place_on_device(needs_on_device(described, placed.context), hbm_budget(), placement);
    device_model_ = std::move(described);
    set_cpu_share(&placement);
    if (placement.index_in_hbm && device_plan_.index_bytes == 0)
      notices_.push_back(
          "the plan lets the card search an index, and this run has none that a card searches");
  }
  if (leaves_device) device_.reset();
  options_.k_codec = placement.k_codec;
  options_.v_codec = placement.v_codec;
  limits_.n_draft_max = limits.n_draft_max;
  weight_plan_ = std::move(placed.weights);
  context_ = placed.context;
  const bool was_open = spill_ != nullptr;
  spill_.reset();  // its frames go before others are reserved
  std::vector<std::string> said_before;
  spill_ = open_spill(was_open ? said_before : notices_);
}

/// What this run wants that steps on a device may not be able to do.
BeyondDevices Engine::beyond_devices(bool spills, const WeightPlan& weights) const {
  return {.estimates_tails = options_.method && index::has_tail(*options_.method),
          .reads_sparsely = options_.method && options_.sparse_from != kNeverSparse,
          .spills = spills && !device_is_named(),
          .streams_weights = weights.n_streamed() > 0 && !device_is_named()};
}

uint64_t Engine::hbm_budget() const {
  if (!device_) return 0;
  const uint64_t free_bytes = device_->facts().free_bytes;
  return options_.hbm_bytes > 0 ? std::min(options_.hbm_bytes, free_bytes)
                                : usable_device_bytes(free_bytes);
}

uint64_t Engine::index_bytes() const {
  if (!options_.method) return 0;
  return index::index_bytes(
      *options_.method, index_shape(spec_.shape, options_.k_codec, options_.v_codec, context_.n_ctx,
                                    options_.n_answers));
}

DeviceNeeds Engine::needs_on_device(const gpu_attn::DeviceModel& model,
                                    const ContextPlan& context) const {
  uint64_t kv_bytes = context.kv.slot_bytes;
  if (context.kv.is_spilling())
    kv_bytes = kv_bytes_for_context(shape_of_sequences(spec_.shape, n_sequences()),
                                    model.kv_layout.k_codec, model.kv_layout.v_codec, context.n_ctx,
                                    context.chunk_rows);
  const bool chooses_spilled = context.kv.is_spilling() && options_.method;
  DeviceNeeds needs =
      device_needs(model, *file_, spec_.shape, device_->facts(), context.n_ctx, kv_bytes,
                   context.chunk_rows, chooses_spilled ? &options_.selection : nullptr);
  add_index_needs(spec_.shape, model.kv_layout, context.n_ctx, context.chunk_rows,
                  options_.n_answers, options_.method, options_.selection, needs);
  return needs;
}

/// One that was named must do, here and in what follows; "auto" says why and falls back to the CPU.
void Engine::open_device() {
  if (options_.device.kind == DeviceChoice::Kind::kNone) return;
  if (options_.device.kind == DeviceChoice::Kind::kVirtual)
    throw Error(ErrorCode::kUsage, "a virtual device computes nothing: it predicts times",
                "--device", "use it with `strata bench`, or give auto, none or cuda:N");
  const gpu_attn::CudaDevices devices =
      options_.devices != nullptr ? *options_.devices : gpu_attn::find_cuda_devices();
  ChosenDevice chosen = open_chosen_device(options_.device, devices);
  device_ = std::move(chosen.device);
  if (device_) return;
  const auto say_if = [&](bool is_stated, const char* option) {
    if (is_stated) notices_.push_back(fmt::format("{} does nothing: {}", option, chosen.note));
  };
  say_if(options_.hbm_bytes > 0, "--hbm");
  say_if(options_.cpu_share.value_or(0) > 0, "--cpu-share");  // "as is best" is none of it then
}

/// Drafts that nobody asked for by number. Nothing that was in memory goes to disk for them, and
/// the context stays as long as it is.
void Engine::add_drafts() {
  const uint32_t n_drafts = drafts_wanted(device_.has_value());
  if (n_drafts == limits_.n_draft_max) return;
  const ContextPlan context = context_;
  const WeightPlan weights = weight_plan_;
  const bool read_before = reads_disk();
  limits_.n_draft_max = n_drafts;
  try {
    choose_by_hand();
    if (context_.n_ctx == context.n_ctx && reads_disk() == read_before) return;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDoesNotFit) throw;
  }
  limits_.n_draft_max = 0;
  context_ = context;
  weight_plan_ = weights;
}

/// For the fingerprint: cards of one kind compute the same bits in the same steps. How attention is
/// cut follows from their multiprocessors, and from what no fingerprint holds: the device's memory
/// for K and V, the CPU's share, n_ctx, the chunk, where a token's step was captured
/// (engine/device_walk.cc). Nor does it hold who searches an index, whose choices may differ where
/// blocks weigh nearly the same (docs/adr/0027-search-on-the-card.md). K and V saved under another
/// share or search are taken up.
std::string Engine::device_name() const {
  if (!device_) return "";
  return fmt::format("cuda {} x {}", device_->facts().capability,
                     device_->facts().n_multiprocessors);
}

/// Of the spill file, which its folder must be able to hold.
uint64_t Engine::nvme_budget() {
  try {
    const uint64_t room = tiers::spill_room(options_.nvme_directory);
    return options_.nvme_budget_bytes > 0 ? options_.nvme_budget_bytes : room / 2;
  } catch (const Error& error) {
    if (options_.nvme_is_named) throw;
    spill_problem_ = fmt::format("K and V cannot go to disk: {}", error.what());
    return 0;
  }
}

Model Engine::load_model(ThreadPool& pool, const Model::Progress& progress) const {
  WeightOptions weights;
  weights.load = options_.load;
  weights.plan = weight_plan_;
  weights.trace = options_.trace;
  if (read_limit_)
    weights.make_io = [limit = read_limit_](uint32_t depth) {
      return tiers::paced(make_weight_io(depth), limit);
    };
  return Model::load(*file_, spec_, pool, progress, weights);
}

void Engine::load(const Model::Progress& progress) {
  STRATA_CHECK(model_ == nullptr, "loaded twice");
  const auto start = std::chrono::steady_clock::now();
  pool_ = std::make_shared<ThreadPool>(n_threads_);
  {
    TraceScope scope(options_.trace,
                     {.kind = TraceKind::kOperation, .index = kNoLayer, .name = "load_weights"});
    model_ = std::make_shared<const Model>(load_model(*pool_, progress));
    scope.set_bytes(model_->weight_bytes());
  }
  reserve_kv();
  load_ms_ =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void Engine::load_beside(const Engine& loaded) {
  STRATA_CHECK(model_ == nullptr && loaded.model_ != nullptr, "loaded twice, or nothing to share");
  STRATA_CHECK(file_->path() == loaded.file_->path() && n_threads_ == loaded.n_threads_,
               "another model or number of threads");
  pool_ = loaded.pool_;
  model_ = loaded.model_;
  reserve_kv();
}

void Engine::reserve_kv() {
  reserve_walk();
  if (device_ && !use_device()) reserve_walk();
  if (options_.method) walk_->select_by(options_.selection, context_.n_ctx);
}

/// False where memory that was free when this was planned is not any more, or may not be pinned: K
/// and V are then to be those of the CPU, which have another fingerprint.
bool Engine::use_device() {
  try {
    walk_->use_device(std::make_unique<DeviceWalk>(*device_, *model_, device_model_, *cache_,
                                                   device_plan_, context_.chunk_rows,
                                                   context_.n_ctx, *pool_));
    device_plan_ = walk_->device()->plan();
    if (const std::string& why = walk_->device()->index_problem(); !why.empty())
      notices_.push_back("the CPU searches the index: " + why);
    return true;
  } catch (const Error& error) {
    if (device_is_named() || error.code() != ErrorCode::kOutOfMemory) throw;
    leave_device(error.what());
  }
  walk_.reset();
  cache_.reset();
  std::vector<std::string> said_before;
  spill_ = open_spill(said_before);
  return false;
}

/// K and V, and the walk over them.
void Engine::reserve_walk() {
  KvCacheOptions kv;
  kv.k_codec = options_.k_codec;
  kv.v_codec = options_.v_codec;
  kv.budget_bytes = context_.kv.slot_bytes;
  kv.chunk_rows = context_.chunk_rows;
  kv.n_ctx = context_.n_ctx;
  if (spill_) fingerprint_ = model_fingerprint(*file_, spec_, kernels_->isa, device_name());
  kv.model = fingerprint_;
  if (options_.method) {
    selectors_ = std::make_unique<index::SelectorSource>(
        *options_.method,
        index_shape(spec_.shape, kv.k_codec, kv.v_codec, kv.n_ctx, options_.n_answers), *kernels_);
    kv.selectors = selectors_.get();
  }
  cache_ = std::make_unique<KvCache>(spec_.shape, kv, std::move(spill_));
  walk_ = std::make_unique<Walk>(*model_, *cache_, *kernels_, *pool_, context_.chunk_rows);
  walk_->set_trace(options_.trace);
}

/// Nothing where all of K and V stays in DRAM and nothing saved is read. The file is as large as
/// this context can need.
std::unique_ptr<tiers::Spill> Engine::open_spill(std::vector<std::string>& notices) const {
  tiers::SpillRequest request{.io = options_.io, .read_limit = read_limit_};
  if (context_.kv.n_frames == 0) return nullptr;
  request.place_bytes = context_.kv.place_bytes;
  request.n_frames = context_.kv.n_frames;
  request.block_bytes = context_.kv.block_bytes;
  request.n_block_frames = context_.kv.n_block_frames;
  if (context_.kv.is_spilling()) {
    request.directory = options_.nvme_directory;
    request.budget_bytes = context_.kv.nvme_bytes;
  }
  auto spill = tiers::open_spill(request, notices);
  spill->set_trace(options_.trace);
  return spill;
}

const Model& Engine::model() const {
  STRATA_CHECK(model_ != nullptr, "not loaded");
  return *model_;
}

ThreadPool& Engine::pool() {
  STRATA_CHECK(pool_ != nullptr, "not loaded");
  return *pool_;
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

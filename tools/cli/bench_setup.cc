#include "tools/cli/bench_setup.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/context_size.h"
#include "engine/dram_budget.h"
#include "engine/gguf/gguf_file.h"
#include "engine/inspect.h"
#include "engine/machine.h"
#include "engine/model_spec.h"
#include "tools/cli/attention_report.h"
#include "tools/cli/device_notices.h"
#include "tools/cli/notices.h"
#include "tools/cli/value_readers.h"
#include "tools/cli/weight_notices.h"

namespace strata::cli {
namespace {

constexpr uint64_t kDepthWanted = 32768;
constexpr uint64_t kDepthMax = uint64_t{1} << 30;  // positions are 32-bit

}  // namespace

using engine::bytes_text;

std::string bench_format(const Settings& settings) {
  const bool is_json = settings.json && !settings.output_format.starts_with("json");
  return is_json ? "json" : settings.output_format;
}

BenchSubject bench_subject(const engine::Engine& engine, const Settings& settings) {
  const auto facts = engine::inspect_model(engine.file());
  const engine::EngineOptions& options = engine.options();
  BenchSubject subject;
  subject.model_filename = settings.model;
  subject.model_type =
      fmt::format("{} {:.0f}M {}", facts.architecture, static_cast<double>(facts.parameters) / 1e6,
                  facts.tensor_types.empty() ? "" : facts.tensor_types[0].type);
  subject.model_size = engine.weight_file_bytes();
  subject.model_n_params = facts.parameters;
  subject.n_batch = engine.context().chunk_rows;
  subject.n_threads = engine.n_threads();
  subject.k_codec = options.k_codec;
  subject.v_codec = options.v_codec;
  subject.is_on_device = engine.device() != nullptr;
  subject.device = engine.device() != nullptr ? engine.device()->name()
                                              : fmt::format("cpu {}", engine.kernels().name);
  subject.is_spilling = engine.context().kv.is_spilling();
  subject.kv_dram_bytes = engine.context().kv.dram_bytes();
  if (const auto method = engine.options().method) {
    subject.attn_method = method_name(*method);
    subject.attn_budget = budget_text(engine.options().selection.budget);
    subject.kv_position_bytes = kv_position_bytes(
        KvLayout::make(options.k_codec, options.v_codec, engine.spec().shape.head_dim));
  }
  subject.recompute = recompute_cost(engine.spec().shape, options.k_codec, options.v_codec);
  subject.fill = settings.depth_fill == "random" ? DepthFill::kRandom : DepthFill::kPrefill;
  subject.by_layer = settings.verbose;
  subject.reads_ahead = !settings.no_read_ahead;
  subject.keeps_blocks = !settings.no_kept_blocks;
  return subject;
}

void load_for_bench(engine::Engine& engine) {
  say_streaming(engine);
  say_device(engine);
  LoadingBar bar;
  engine.load(bar.updates());
  bar.finish();
  for (const std::string& line : engine.notices()) notice("note: " + line);
}

void check_disk_bench(const Command& command, std::string_view flag) {
  const Settings& settings = command.settings;
  const auto refuse = [](const std::string& what, const std::string& where,
                         const std::string& remedy) {
    throw Error(ErrorCode::kUsage, what, where, remedy);
  };
  for (const std::string_view option : {"n-prompt", "n-gen", "roofline", "attribution"})
    if (command.is_set(option) && command.where(option).starts_with('-'))
      refuse(fmt::format("--{0} and --{1} contradict each other: the figures of --{0} have their "
                         "own lengths",
                         flag, option),
             command.where(option), "leave one of them out; -d says how deep the context is");
  if (command.is_set("dram"))
    refuse(fmt::format("--{} and --dram contradict each other: all of K and V stands in memory for "
                       "comparison",
                       flag),
           command.where("dram"), "leave one of them out; -d and --kv-dram decide what is used");
  if (settings.nvme.empty())
    refuse(fmt::format("--{} measures the disk of the spill file, and there is none", flag),
           command.where("nvme"), "name a folder on the disk with --nvme DIR");
  if (command.is_set("n-depth") && settings.n_depth.size() != 1)
    refuse(fmt::format("--{} wants one depth, found {}", flag, settings.n_depth.size()),
           command.where("n-depth"), "run it once for each");
}

uint32_t disk_bench_depth(const Command& command, std::string_view flag, uint32_t n_min) {
  const Settings& settings = command.settings;
  const auto file = engine::GgufFile::open(settings.model);
  const uint64_t n_trained = engine::read_model_spec(file, {}).shape.n_ctx_train;
  const uint64_t n_most = settings.allow_untrained ? kDepthMax : std::min(kDepthMax, n_trained);
  const uint64_t n_depth =
      command.is_set("n-depth") ? settings.n_depth.front() : std::min(kDepthWanted, n_most);
  if (n_depth > n_most)
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--{} at a depth of {} tokens, wanted at most {}{}", flag, n_depth, n_most,
                    n_most < kDepthMax ? ", which the model was trained for" : ""),
        command.where("n-depth"),
        n_most < kDepthMax ? "use a smaller -d, or pass --allow-untrained" : "use a smaller -d");
  if (n_depth < n_min)
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--{} at a depth of {} tokens, wanted at least {}", flag, n_depth, n_min),
        command.where("n-depth"), "use a larger -d");
  return static_cast<uint32_t>(n_depth);
}

uint64_t bench_working_bytes(const engine::Engine& engine) {
  if (engine.device() == nullptr) return kBenchWorkingBytes;
  engine::ContextRequest request = engine.limits();
  request.chunk_rows = engine.context().chunk_rows;
  return std::max(kBenchWorkingBytes,
                  engine::kProcessBytes + engine::buffer_bytes(engine.spec().shape, request));
}

void say_memory(uint64_t weight_bytes, uint64_t kv_bytes, uint64_t working_bytes) {
  const uint64_t peak = engine::peak_memory_bytes();
  const uint64_t allowed = weight_bytes + kv_bytes + working_bytes;
  notice(fmt::format("memory: peak {}, {} {} = weights {} + KV {} + {}", bytes_text(peak),
                     peak <= allowed ? "within" : "ABOVE", bytes_text(allowed),
                     bytes_text(weight_bytes), bytes_text(kv_bytes), bytes_text(working_bytes)));
}

void say_disk_bench_depth(const engine::Engine& engine, const BenchSubject& subject,
                          uint32_t n_depth) {
  const uint32_t n_ctx_train = engine.spec().shape.n_ctx_train;
  if (subject.fill == DepthFill::kRandom)
    notice("note: the depth holds random K and V, not text that was read (--depth-fill random)");
  if (n_depth > n_ctx_train)
    notice(fmt::format("note: beyond {} tokens this model was never trained (--allow-untrained)",
                       n_ctx_train));
}

std::function<void(uint64_t, uint64_t)> depth_progress() {
  return [filling = std::optional<Progress>()](uint64_t done, uint64_t total) mutable {
    if (!filling) filling.emplace("depth", engine::grouped_number, " tok/s");
    filling->update(done, total);
    if (done < total) return;
    filling->finish();
    filling.reset();
  };
}

}  // namespace strata::cli

#include "tools/cli/bench_setup.h"

#include <fmt/format.h>

#include "engine/byte_text.h"
#include "engine/inspect.h"
#include "engine/machine.h"
#include "tools/cli/attention_report.h"
#include "tools/cli/device_notices.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/value_readers.h"
#include "tools/cli/weight_notices.h"

namespace strata::cli {

using engine::bytes_text;

std::string bench_format(const Settings& settings) {
  const bool is_json = settings.json && !settings.output_format.starts_with("json");
  return is_json ? "json" : settings.output_format;
}

BenchSubject bench_subject(const engine::Engine& engine, const Settings& settings) {
  const auto facts = engine::inspect_model(engine.file());
  const engine::EngineOptions options = engine_options(settings);
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
  subject.fill = settings.depth_fill == "random" ? DepthFill::kRandom : DepthFill::kPrefill;
  return subject;
}

void load_for_bench(engine::Engine& engine) {
  say_streaming(engine.weight_plan());
  say_device(engine);
  LoadingBar bar;
  engine.load(bar.updates());
  bar.finish();
  for (const std::string& line : engine.notices()) notice("note: " + line);
}

void say_memory(uint64_t weight_bytes, uint64_t kv_bytes) {
  const uint64_t peak = engine::peak_memory_bytes();
  const uint64_t allowed = weight_bytes + kv_bytes + kBenchWorkingBytes;
  notice(fmt::format("memory: peak {}, {} {} = weights {} + KV {} + {}", bytes_text(peak),
                     peak <= allowed ? "within" : "ABOVE", bytes_text(allowed),
                     bytes_text(weight_bytes), bytes_text(kv_bytes),
                     bytes_text(kBenchWorkingBytes)));
}

}  // namespace strata::cli

// `strata bench --tiers`: two engines beside each other, and what the user hears of them.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/bench_setup.h"
#include "tools/cli/bench_tiers.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/tier_figure.h"

namespace strata::cli {
namespace {

using engine::bytes_text;

constexpr uint64_t kDramShare = 10;  // of K and V at the depth: one part of so many

engine::EngineOptions options_for(const Settings& settings, uint32_t n_depth) {
  engine::EngineOptions options = engine_options(settings);
  options.device.kind = engine::DeviceChoice::Kind::kNone;
  options.n_ctx = n_depth + kTierTokensMax + kBlockPositions;
  options.n_sequences = 2;         // the depth, and what is decoded behind it
  options.allow_untrained = true;  // checked in this verb's words
  return options;
}

/// With all of K and V in DRAM. Errors: those of Engine::open, in the words of this verb's options.
engine::Engine open_in_dram(const Settings& settings, uint32_t n_depth) {
  engine::EngineOptions options = options_for(settings, n_depth);
  options.kv_dram_bytes = 0;
  options.nvme_directory.clear();
  options.reads_saved = true;
  try {
    return engine::Engine::open(options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDoesNotFit || error.where() != "--ctx-size") throw;
    throw Error(error.code(), fmt::format("to compare with K and V in memory: {}", error.what()),
                "--n-depth", "measure at a smaller -d, or use -ctk q8_0 -ctv q8_0");
  }
}

/// With a tenth of K and V in DRAM, or what --kv-dram says, or the least with which it runs.
engine::Engine open_spilled(const Settings& settings, const engine::Engine& in_dram,
                            uint32_t n_depth) {
  engine::EngineOptions options = options_for(settings, n_depth);
  const ModelShape& shape = in_dram.spec().shape;
  const engine::KvContext context{options.k_codec, options.v_codec, options.n_ctx,
                                  in_dram.context().chunk_rows};
  const uint64_t all_bytes = in_dram.context().kv.slot_bytes;
  if (options.kv_dram_bytes == 0 && engine::can_spill(shape))
    options.kv_dram_bytes =
        std::max(all_bytes / kDramShare, engine::smallest_spilling_dram(shape, context));
  options.reads_saved = false;
  engine::Engine engine = engine::Engine::open(options);
  if (engine.context().kv.is_spilling()) return engine;
  if (!engine::can_spill(shape))
    throw Error(ErrorCode::kUsage, "every layer of this model has a window: nothing of it spills",
                "--tiers", "measure a model with full layers");
  throw Error(
      ErrorCode::kUsage,
      fmt::format("at a depth of {} all of K and V, {}, stays in memory, which must hold {} "
                  "beside a spill file",
                  n_depth, bytes_text(all_bytes), bytes_text(options.kv_dram_bytes)),
      "--n-depth",
      settings.kv_dram > 0 ? "use a larger -d, or a smaller --kv-dram"
                           : "use a larger -d, or a smaller -b");
}

}  // namespace

int run_tier_bench(const Command& command, AnswerSink& sink) {
  const Settings& settings = command.settings;
  check_disk_bench(command, "tiers");
  const uint32_t n_depth = disk_bench_depth(command, "tiers", kTierDepthMin);
  engine::Engine in_dram = open_in_dram(settings, n_depth);
  engine::Engine spilled = open_spilled(settings, in_dram, n_depth);
  BenchSubject subject = bench_subject(in_dram, settings);
  say_disk_bench_depth(in_dram, subject, n_depth);
  load_for_bench(in_dram);
  spilled.load_beside(in_dram);
  for (const std::string& line : spilled.notices()) notice("note: " + line);

  TierBench bench(in_dram, spilled,
                  {.directory = settings.nvme,
                   .n_depth = n_depth,
                   .n_samples = static_cast<uint32_t>(settings.repetitions),
                   .fill = subject.fill,
                   .io = engine_options(settings).io,
                   .cancel = &interrupt_flag()});
  TierReport report(sink, bench_format(settings), subject, n_depth);
  bench.run({.on_figure = [&](const TierFigure& figure) { report.add(figure); },
             .on_depth = depth_progress()});
  report.finish();
  say_memory(in_dram.model().weight_bytes(),
             in_dram.context().kv.dram_bytes() + spilled.context().kv.dram_bytes(),
             kBenchWorkingBytes);
  return 0;
}

}  // namespace strata::cli

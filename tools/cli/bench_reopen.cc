#include "tools/cli/bench_reopen.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/seconds_since.h"
#include "engine/context_cache.h"
#include "engine/kv_placement.h"
#include "tools/cli/attention_report.h"
#include "tools/cli/own_process.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kDramShare = 10;  // of K and V: one part of so many
constexpr uint64_t kDiskBytesMin = uint64_t{64} << 20;
constexpr uint64_t kDiskBytesMax = uint64_t{1} << 30;
constexpr uint64_t kPageBytes = 4096;
constexpr const char* kDropCaches = "/proc/sys/vm/drop_caches";

/// Logits of the question's last row and the seconds that it took, on a fork of the text.
double ask_fork(engine::Engine& engine, const engine::Sequence& text,
                std::span<const int32_t> tokens, engine::Attention attention,
                std::vector<float>& logits) {
  engine::Sequence sequence = text.fork(attention == engine::Attention::kSelected);
  const auto start = Clock::now();
  ask(engine, sequence, tokens, attention);
  const double seconds = seconds_since(start);
  logits.assign(engine.walk().logits(0).begin(), engine.walk().logits(0).end());
  return seconds;
}

}  // namespace

ReopenBench::ReopenBench(Options options, Events events)
    : options_(std::move(options)),
      events_(std::move(events)),
      folder_(options_.directory),
      output_(options_.directory) {}

void ReopenBench::fill(engine::Engine& engine, engine::Sequence& sequence) const {
  const auto text = std::span(tokens_).first(options_.n_depth);
  if (options_.fill == DepthFill::kRandom) {
    fill_random(engine, sequence, text, options_.cancel);
    index_blocks(engine, sequence);
    return;
  }
  engine::prefill(engine.walk(), sequence, text, engine.context().chunk_rows,
                  [&](uint64_t done, uint64_t total) {
                    if (events_.on_depth) events_.on_depth(done, total);
                    return true;
                  });
}

void ReopenBench::answer(engine::Engine& engine, const engine::Sequence& sequence) {
  using engine::Attention;
  ask_fork(engine, sequence, tokens_, Attention::kSelected, in_memory_.selected);  // first touch
  for (uint32_t i = 0; i < options_.n_samples; ++i)
    in_memory_.selected_s.push_back(
        ask_fork(engine, sequence, tokens_, Attention::kSelected, in_memory_.selected));
  in_memory_.exact_s.push_back(
      ask_fork(engine, sequence, tokens_, Attention::kExact, in_memory_.exact));
}

void ReopenBench::save(engine::Engine& engine, engine::Sequence& sequence) const {
  engine::ContextCache packs({.directory = folder_.path(), .limits = {}}, engine.cache(),
                             engine.fingerprint(), "bench");
  packs.begin(engine.cache().make_sequence(), sequence.tokens());
  packs.finish(engine.walk(), sequence);
  const auto counts = packs.counts();
  if (counts.saved_tokens == options_.n_depth && packs.rows_problem().empty()) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{} of {} tokens were saved: {}{}", counts.saved_tokens, options_.n_depth,
                          packs.problem(), packs.rows_problem()),
              folder_.path(), "look at the disk (dmesg), or name another one with --nvme");
}

/// What --kv-dram must say for the slots to be those that were asked for.
uint64_t ReopenBench::reopened_dram(const engine::Engine& engine) const {
  const ModelShape& shape = engine.spec().shape;
  const engine::EngineOptions& of = options_.in_memory;
  const engine::KvContext context{of.k_codec, of.v_codec, of.n_ctx, engine.context().chunk_rows,
                                  true,       of.method};
  const uint64_t slots = options_.slot_bytes > 0 ? options_.slot_bytes : kv_bytes_ / kDramShare;
  const auto holds = [&](uint64_t bytes) {
    return engine::place_spilling(shape, context, bytes).slot_bytes >= slots;
  };
  uint64_t least = engine::smallest_spilling_dram(shape, context);
  if (holds(least)) return least;
  uint64_t most = least + 2 * slots;
  while (!holds(most)) most += slots;
  while (most - least > 1) {
    const uint64_t middle = least + (most - least) / 2;
    (holds(middle) ? most : least) = middle;
  }
  return most;
}

void ReopenBench::prepare(engine::Engine engine) {
  engine.walk().set_cancel(options_.cancel);
  tokens_ = reopened_tokens(options_.n_depth, engine.spec().shape.vocab_size);
  kv_bytes_ = engine::kv_bytes_for_context(engine.spec().shape, options_.in_memory.k_codec,
                                           options_.in_memory.v_codec, options_.n_depth,
                                           engine.context().chunk_rows);
  model_bytes_ = engine.weight_file_bytes();
  dram_bytes_ = reopened_dram(engine);
  engine::Sequence sequence = engine.cache().make_sequence();
  segment_positions_ = sequence.index()->segment_extents() * kExtentPositions;
  fill(engine, sequence);
  answer(engine, sequence);
  save(engine, sequence);
}

/// Of the machine where this process may, and of the files that are read in any case.
bool ReopenBench::drop_pages() const {
  folder_.forget_pages();
  BenchFolder::forget_pages_of(options_.in_memory.model_path);
  std::ofstream all(kDropCaches);
  return static_cast<bool>(all << "1\n" << std::flush);
}

Reopened ReopenBench::reopen(bool is_selected) const {
  std::vector<std::string> arguments = options_.arguments;
  const auto add = [&](const std::string& flag, const std::string& value) {
    arguments.push_back(flag);
    arguments.push_back(value);
  };
  add("--reopened", folder_.path());
  add("--attn", is_selected ? method_name(options_.method) : "exact");
  add("--kv-dram", is_selected ? std::to_string(dram_bytes_) : "0");
  const EndedProcess process = run_own_process(arguments, output_.path() + "/out", options_.cancel);
  Reopened of = Reopened::from_json(process.out);
  of.begin = process.begin;
  check_same_logits(of.logits, is_selected ? "of the reopened context" : "of the restored context",
                    is_selected ? in_memory_.selected : in_memory_.exact, "with K and V in memory");
  if (is_selected && of.n_indexed + segment_positions_ <= options_.n_depth)
    throw Error(ErrorCode::kIo,
                fmt::format("the index rows of {} of {} positions were found", of.n_indexed,
                            options_.n_depth),
                folder_.path(), "report this with the model's name");
  return of;
}

void ReopenBench::sample_reads(RawDisk& disk, const Reopened& of, ReadSamples& reads) const {
  const double per_byte = disk.read_all() / static_cast<double>(disk.bytes());
  reads.model_s.push_back(per_byte * static_cast<double>(model_bytes_));
  reads.rows_s.push_back(per_byte * static_cast<double>(of.rows_bytes));
  reads.in_order_per_byte.push_back(per_byte);
  const auto read_blocks = [&](uint64_t n, uint32_t request) {
    const auto offsets = disk.draw(n, request, /*is_sorted=*/true);
    const double seconds = disk.read(offsets, request, RawDisk::kDepth);
    return seconds / static_cast<double>(offsets.size());
  };
  reads.blocks_s.push_back(read_blocks(of.n_blocks, request_bytes(of)) *
                           static_cast<double>(of.n_blocks));
  reads.larger_block_s.push_back(read_blocks(of.n_blocks, kLargerBlockBytes));
}

/// Of reads of single blocks; where they differ, whole pages.
uint32_t ReopenBench::request_bytes(const Reopened& of) {
  const uint64_t n = std::max<uint64_t>(1, of.n_blocks);
  const uint64_t bytes = of.block_bytes / n;
  return static_cast<uint32_t>(bytes > 0 && of.block_bytes % n == 0
                                   ? bytes
                                   : round_up(std::max<uint64_t>(1, bytes), kPageBytes));
}

void ReopenBench::run(engine::Engine engine) {
  prepare(std::move(engine));
  RawDisk disk =
      RawDisk::make(options_.directory, std::clamp(kv_bytes_, kDiskBytesMin, kDiskBytesMax),
                    options_.in_memory.io, options_.cancel);
  disk.write_all();
  std::vector<Reopened> reopened, whole;
  ReadSamples reads;
  for (uint32_t i = 0; i < options_.n_samples; ++i) {
    const bool is_all = drop_pages();
    if (i == 0 && events_.on_note)
      events_.on_note(is_all
                          ? fmt::format("the page cache is dropped before each ({})", kDropCaches)
                          : "the files are taken out of the page cache before each (fadvise)");
    reopened.push_back(reopen(true));
    sample_reads(disk, reopened.back(), reads);
    drop_pages();
    whole.push_back(reopen(false));
  }
  tell_reopening(reopened, reads);
  tell_whole(reopened, whole);
  tell_larger(reopened.back(), reads);
}

}  // namespace strata::cli

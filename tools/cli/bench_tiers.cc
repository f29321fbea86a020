#include "tools/cli/bench_tiers.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/seconds_since.h"
#include "engine/context_cache.h"
#include "tools/cli/bench_folder.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kDiskBytesMin = uint64_t{16} << 20;
constexpr uint64_t kDiskBytesMax = uint64_t{1} << 30;
constexpr uint32_t kPrefillMax = 2048;
constexpr double kRestoreWanted = 0.85;  // of the rate in order
constexpr double kRestoreFactor = 20;    // times faster than reading the text
constexpr double kWriteThroughWanted = 1.05;

/// Once what is on its way has ended.
tiers::TransferCounts moved_by(engine::Engine& engine) {
  while (engine.cache().store().wait_for_transfer()) continue;
  return engine.cache().store().transfer_counts();
}

uint64_t n_streams(const engine::KvCache& cache) {
  uint64_t n = 0;
  for (const LayerShape& layer : cache.shape().layers) n += layer.n_kv_heads;
  return std::max<uint64_t>(n, 1);
}

uint64_t disk_bytes(engine::Engine& spilled, uint32_t n_depth) {
  const engine::KvCache& cache = spilled.cache();
  return std::clamp(n_streams(cache) * blocks_for(n_depth) * cache.layout().block_bytes,
                    kDiskBytesMin, kDiskBytesMax);
}

}  // namespace

TierBench::TierBench(engine::Engine& in_dram, engine::Engine& spilled, const Options& options)
    : in_dram_(in_dram),
      spilled_(spilled),
      options_(options),
      disk_(RawDisk::make(options.directory, disk_bytes(spilled, options.n_depth), options.io,
                          options.cancel)),
      tokens_(draw_.tokens(options.n_depth + kTierTokensMax, in_dram.spec().shape.vocab_size)) {
  STRATA_CHECK(options.n_depth >= kTierDepthMin && spilled.cache().store().has_spill() &&
                   in_dram.cache().store().can_adopt() && !in_dram.cache().store().has_spill(),
               "a depth of %u, or engines that cannot be compared", options.n_depth);
  in_dram_.walk().set_cancel(options.cancel);
  spilled_.walk().set_cancel(options.cancel);
}

uint64_t TierBench::read_bytes(engine::Engine& engine) {
  return engine.cache().store().transfer_counts().read_bytes;
}

double TierBench::read_rate(double seconds) const {
  return static_cast<double>(disk_.bytes()) / seconds;
}

uint64_t TierBench::extent_bytes(uint32_t layer) const {
  const engine::KvCache& cache = spilled_.cache();
  const LayerShape& shape = cache.shape().layers[layer];
  if (shape.window > 0) return 0;
  return round_up(uint64_t{shape.n_kv_heads} * kExtentBlocks * cache.layout().block_bytes,
                  tiers::kPlaceAlignment);
}

uint64_t TierBench::extent_set_bytes() const {
  uint64_t bytes = 0;
  for (uint32_t layer = 0; layer < spilled_.cache().shape().n_layers; ++layer)
    bytes += extent_bytes(layer);
  return bytes;
}

/// Of the blocks behind the last whole extent.
uint64_t TierBench::end_set_bytes() const {
  const uint64_t n_blocks = div_up(options_.n_depth % kExtentPositions, kBlockPositions);
  uint64_t bytes = 0;
  for (const LayerShape& layer : in_dram_.cache().shape().layers)
    if (layer.window == 0)
      bytes += round_up(layer.n_kv_heads * n_blocks * in_dram_.cache().layout().block_bytes,
                        tiers::kPlaceAlignment);
  return bytes;
}

/// Of the extents that a step must read.
uint64_t TierBench::away_bytes(const engine::Sequence& sequence) const {
  engine::KvCache& cache = spilled_.cache();
  uint64_t bytes = 0;
  for (uint32_t layer = 0; layer < cache.shape().n_layers; ++layer) {
    if (cache.shape().layers[layer].window > 0 || cache.shape().layers[layer].n_kv_heads == 0)
      continue;
    for (uint32_t pos = 0; pos < sequence.n_pos(); pos += kExtentPositions)
      if (!cache.store().is_resident(cache.block_id(sequence, layer, 0, pos)))
        bytes += extent_bytes(layer);
  }
  return bytes;
}

void TierBench::keep_or_compare(std::vector<float>& wanted, engine::Engine& found,
                                const std::string& how) {
  const auto logits = found.walk().logits(0);
  if (wanted.empty()) wanted.assign(logits.begin(), logits.end());
  check_same_logits(logits, how, wanted, "with K and V in memory");
}

double TierBench::prefill(engine::Engine& engine, std::span<const int32_t> tokens) {
  engine::Sequence sequence = engine.cache().make_sequence();
  const auto start = Clock::now();
  engine::prefill(engine.walk(), sequence, tokens, engine.context().chunk_rows);
  return seconds_since(start);
}

void TierBench::measure_write_through(const Events& events) {
  // No more than the spilling engine holds beside writing it: what it read back would count too.
  const engine::KvCache& cache = spilled_.cache();
  const uint64_t n_held = cache.pool().n_slots() / n_streams(cache) * kBlockPositions;
  const auto n = static_cast<uint32_t>(std::min<uint64_t>(
      {kPrefillMax, options_.n_depth, n_held / kExtentPositions * kExtentPositions}));
  const std::span<const int32_t> tokens = std::span(tokens_).first(n);
  TierFigure figure{.name = "prefill, written through",
                    .formula = fmt::format("{} extents of every full layer x {}",
                                           n / kExtentPositions, extent_set_bytes()),
                    .formula_bytes = n / kExtentPositions * extent_set_bytes(),
                    .samples_s = {},
                    .measure = "x the time in DRAM",
                    .wanted = kWriteThroughWanted,
                    .is_at_most = true,
                    .is_share = false};
  std::vector<float> wanted;
  std::vector<double> in_dram_s;
  uint64_t n_requests = 0;    // all of them writes: nothing is read back
  prefill(in_dram_, tokens);  // both touch their memory first
  prefill(spilled_, tokens);
  for (uint32_t i = 0; i < options_.n_samples; ++i) {
    in_dram_s.push_back(prefill(in_dram_, tokens));
    keep_or_compare(wanted, in_dram_, "with K and V in memory");
    const tiers::TransferCounts before = moved_by(spilled_);
    figure.samples_s.push_back(prefill(spilled_, tokens));
    keep_or_compare(wanted, spilled_, "written through");
    const tiers::TransferCounts after = moved_by(spilled_);
    figure.bytes = after.written_bytes - before.written_bytes;
    n_requests = after.requests - before.requests;
    figure.values.push_back(figure.samples_s.back() / in_dram_s.back());
  }
  prefill_rate_ = n / median(in_dram_s);
  n_prefilled_ = n;
  figure.note = fmt::format(
      "{} positions in chunks of {}, {} writes of {:.0f} KiB; in DRAM {:.2f} ms, {:.0f} "
      "positions/s",
      n, spilled_.context().chunk_rows, n_requests,
      static_cast<double>(figure.bytes) / 1024 /
          static_cast<double>(std::max(n_requests, uint64_t{1})),
      median(in_dram_s) * 1e3, prefill_rate_);
  events.on_figure(figure);
}

void TierBench::fill(engine::Engine& engine, engine::Sequence& sequence, const Events& events) {
  const std::span<const int32_t> tokens = std::span(tokens_).first(options_.n_depth);
  if (options_.fill == DepthFill::kRandom)
    return fill_random(engine, sequence, tokens, options_.cancel);
  const auto start = Clock::now();
  engine::prefill(engine.walk(), sequence, tokens, engine.context().chunk_rows,
                  [&](uint64_t done, uint64_t total) {
                    if (events.on_depth) events.on_depth(done, total);
                    return true;
                  });
  if (&engine != &in_dram_) return;
  n_prefilled_ = options_.n_depth;
  prefill_rate_ = n_prefilled_ / seconds_since(start);
}

double TierBench::decode(engine::Engine& engine, const engine::Sequence& at) {
  engine::Sequence sequence = at.fork();
  const auto start = Clock::now();
  for (uint32_t i = 0; i < n_decoded_; ++i) {
    const engine::StepRow row{&sequence, tokens_[options_.n_depth + i], true};
    engine.walk().step({&row, 1});
  }
  return seconds_since(start);
}

/// Leaves the context of the depth in packs.
void TierBench::save(const std::string& folder, engine::Sequence& sequence) {
  engine::ContextCache packs({.directory = folder, .limits = {}}, in_dram_.cache(),
                             in_dram_.fingerprint(), "bench");
  packs.begin(in_dram_.cache().make_sequence(), sequence.tokens());
  packs.finish(in_dram_.walk(), sequence);
  if (packs.counts().saved_tokens != options_.n_depth)
    throw Error(ErrorCode::kIo,
                fmt::format("{} of {} tokens were saved: {}", packs.counts().saved_tokens,
                            options_.n_depth, packs.problem()),
                folder, "look at the disk (dmesg), or name another one with --nvme");
}

double TierBench::restore(const std::string& folder) {
  const auto start = Clock::now();
  engine::ContextCache packs({.directory = folder, .limits = {}, .saves = false}, in_dram_.cache(),
                             in_dram_.fingerprint(), "bench");
  engine::Sequence sequence =
      packs.restore(in_dram_.cache(), std::span(tokens_).first(options_.n_depth));
  found_s_ = seconds_since(start);
  if (sequence.n_pos() != options_.n_depth)
    throw Error(ErrorCode::kIo,
                fmt::format("{} of {} saved tokens were found", sequence.n_pos(), options_.n_depth),
                folder, "report this with the model's name and the output of strata --version");
  const engine::StepRow row{&sequence, tokens_[options_.n_depth], true};
  in_dram_.walk().step({&row, 1});
  return seconds_since(start);
}

void TierBench::measure_restore(const BenchFolder& folder, const Events& events) {
  const uint64_t n_whole = options_.n_depth / kExtentPositions;
  const uint64_t whole_bytes = n_whole * extent_set_bytes(), end_bytes = end_set_bytes();
  TierFigure rate{.name = "restore",
                  .formula = fmt::format(
                      "{} whole extents of every full layer x {}{}", n_whole, extent_set_bytes(),
                      end_bytes > 0 ? fmt::format(" and the end, {},", end_bytes) : ""),
                  .formula_bytes = whole_bytes + end_bytes,
                  .samples_s = {},
                  .measure = "of sequential read",
                  .wanted = kRestoreWanted};
  TierFigure time = rate;
  time.name = "restore, beside reading";
  time.measure = "x faster than prefill";
  time.wanted = kRestoreFactor;
  time.is_share = false;
  const double prefill_s = options_.n_depth / prefill_rate_;
  std::vector<double> found_s;
  restore(folder.path());  // touches what memory it needs first
  for (uint32_t i = 0; i < options_.n_samples; ++i) {
    folder.forget_pages();
    const double in_order = read_rate(disk_.read_all());
    const uint64_t n_before = read_bytes(in_dram_);
    rate.samples_s.push_back(restore(folder.path()));
    found_s.push_back(found_s_);
    rate.bytes = read_bytes(in_dram_) - n_before;
    keep_or_compare(first_logits_, in_dram_, "restored");
    rate.values.push_back(static_cast<double>(rate.bytes) / rate.samples_s.back() / in_order);
    time.values.push_back(prefill_s / rate.samples_s.back());
  }
  time.samples_s = rate.samples_s;
  time.bytes = rate.bytes;
  rate.note = fmt::format(
      "finding the packs ({:.2f} ms), reading and checking all of it, and a first token, which "
      "takes "
      "{:.2f} ms with K and V in memory; memory was touched before: what a virtual machine gives "
      "for the first time can cost more than the reading",
      median(found_s) * 1e3, median(first_token_s_) * 1e3);
  time.note = fmt::format("prefill {:.2f} s {}", prefill_s,
                          n_prefilled_ == options_.n_depth
                              ? "measured"
                              : fmt::format("at the {:.0f} positions/s of a text of {}, which is "
                                            "faster than the whole would be",
                                            prefill_rate_, n_prefilled_));
  events.on_figure(rate);
  events.on_figure(time);
}

void TierBench::run(const Events& events) {
  measure_sequential(events);
  measure_selection(events);
  measure_tags(events);
  measure_write_through(events);
  const BenchFolder folder(options_.directory);
  {
    engine::Sequence sequence = in_dram_.cache().make_sequence();
    fill(in_dram_, sequence, events);
    measure_decode(sequence, events);
    save(folder.path(), sequence);
  }
  measure_restore(folder, events);
}

}  // namespace strata::cli

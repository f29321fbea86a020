// tools/cli/bench_tiers_decode.cc - the figures of `bench --tiers` of decoding from disk.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>

#include "base/checked_math.h"
#include "engine/byte_text.h"
#include "tools/cli/bench_tiers.h"
#include "tools/cli/sample_statistics.h"
#include "tools/cli/tag_speed.h"

namespace strata::cli {
namespace {

constexpr uint64_t kSampleBytesMin = uint64_t{256} << 20;  // of a sample, where 32 tokens have it
constexpr double kDecodeWanted = 0.85;                     // of plain reads of the same size
constexpr double kDecodeTimeWanted = 1.10;                 // times what the bytes take

}  // namespace

/// While every other thread sums weights: a virtual disk may get the processors that these leave.
double TierBench::read_beside_work(std::span<const uint64_t> offsets, const DecodeSize& size) {
  constexpr uint64_t kPieceBytes = 1 << 16;
  const Bytes weights = in_dram_.model().weight_memory();
  const Bytes piece = weights.first(std::min<uint64_t>(weights.size(), kPieceBytes) / 8 * 8);
  std::atomic<bool> is_read = false;
  std::atomic<uint64_t> sink = 0;
  std::exception_ptr failure;
  double seconds = 0;
  in_dram_.pool().run([&](uint32_t worker) {
    if (worker > 0) {
      uint64_t sum = 0;
      while (!is_read.load(std::memory_order_relaxed)) sum += sum_of_block(piece, {});
      sink.fetch_add(sum);
      return;
    }
    try {
      seconds = disk_.read(offsets, size.request, size.depth);
    } catch (...) {
      failure = std::current_exception();
    }
    is_read = true;
  });
  if (failure) std::rethrow_exception(failure);
  return seconds;
}

void TierBench::measure_decode(const engine::Sequence& in_dram, const Events& events) {
  engine::Sequence spilled = spilled_.cache().make_sequence();
  fill(spilled_, spilled, events);
  for (uint32_t i = 0; i < options_.n_samples; ++i)
    first_token_s_.push_back(decode(in_dram_, in_dram));
  keep_or_compare(first_logits_, in_dram_, "with K and V in memory");
  decode(spilled_, spilled);  // what there is room for has come back into memory by then
  keep_or_compare(first_logits_, spilled_, "from disk");

  const auto& transfers = *spilled_.cache().store().transfers();
  DecodeSize size;
  size.depth = std::min(transfers.n_frames(), transfers.io().depth());
  size.request = static_cast<uint32_t>(transfers.frame_bytes());
  size.token_bytes = away_bytes(spilled);
  n_decoded_ = static_cast<uint32_t>(std::clamp<uint64_t>(
      div_up(kSampleBytesMin, std::max<uint64_t>(size.token_bytes, 1)), 1, kTierTokensMax));
  size.n_requests =
      std::min(div_up(n_decoded_ * size.token_bytes, size.request), disk_.bytes() / size.request);
  DecodeSamples samples;
  for (uint32_t i = 0; i < options_.n_samples; ++i) sample_decode(size, in_dram, spilled, samples);
  tell_decode(size, samples, events);
}

void TierBench::sample_decode(const DecodeSize& size, const engine::Sequence& in_dram,
                              const engine::Sequence& spilled, DecodeSamples& samples) {
  const auto draw = [&] { return disk_.draw(size.n_requests, size.request, /*is_sorted=*/false); };
  samples.in_order_s.push_back(disk_.read_all());
  samples.raw_s.push_back(disk_.read(draw(), size.request, size.depth));
  samples.beside_s.push_back(read_beside_work(draw(), size));
  const uint64_t n_before = read_bytes(spilled_);
  samples.spilled_s.push_back(decode(spilled_, spilled));
  samples.bytes = read_bytes(spilled_) - n_before;
  const auto logits = spilled_.walk().logits(0);
  const std::vector<float> last(logits.begin(), logits.end());
  samples.in_dram_s.push_back(decode(in_dram_, in_dram));
  check_same_logits(last, "from disk", in_dram_.walk().logits(0), "with K and V in memory");
}

void TierBench::tell_decode(const DecodeSize& size, const DecodeSamples& samples,
                            const Events& events) const {
  const uint64_t raw_bytes = size.n_requests * size.request;
  TierFigure raw{.name = fmt::format("random read, {} KiB", size.request >> 10),
                 .formula = fmt::format("{} requests x {}", size.n_requests, size.request),
                 .formula_bytes = raw_bytes,
                 .bytes = raw_bytes,
                 .samples_s = samples.raw_s,
                 .measure = "of sequential read"};
  raw.note =
      fmt::format("of the test file, {} in flight, between the samples of decoding", size.depth);
  TierFigure beside = raw;
  beside.name = "the same beside work";
  beside.samples_s = samples.beside_s;
  beside.note = "while every other thread computes: what is left of the disk for a step that does";
  TierFigure rate{.name = "decode, read from disk",
                  .formula = fmt::format("{} tokens x {} (extents in no slot as a sample begins)",
                                         n_decoded_, size.token_bytes),
                  .formula_bytes = n_decoded_ * size.token_bytes,
                  .bytes = samples.bytes,
                  .samples_s = samples.spilled_s,
                  .measure = "of random read",
                  .wanted = kDecodeWanted};
  TierFigure time = rate;
  time.name = "decode, beside its bytes";
  time.measure = "x the slower of disk and DRAM";
  time.wanted = kDecodeTimeWanted;
  time.is_at_most = true;
  time.is_share = false;
  std::vector<double> disk_s, of_beside;
  const double scale = static_cast<double>(samples.bytes) / static_cast<double>(raw_bytes);
  for (size_t i = 0; i < samples.raw_s.size(); ++i) {
    const double in_order = static_cast<double>(raw_bytes) / read_rate(samples.in_order_s[i]);
    raw.values.push_back(in_order / samples.raw_s[i]);
    beside.values.push_back(in_order / samples.beside_s[i]);
    disk_s.push_back(samples.raw_s[i] * scale);
    rate.values.push_back(disk_s[i] / samples.spilled_s[i]);
    of_beside.push_back(samples.beside_s[i] * scale / samples.spilled_s[i]);
    time.values.push_back(samples.spilled_s[i] / std::max(disk_s[i], samples.in_dram_s[i]));
  }
  const uint64_t all_bytes = div_up(options_.n_depth, kExtentPositions) * extent_set_bytes();
  rate.note = fmt::format(
      "{:.0f} % of K and V are on disk alone, at most {} of them in DRAM; {:.0f} % of random reads "
      "beside work",
      100 * static_cast<double>(size.token_bytes) / static_cast<double>(all_bytes),
      engine::bytes_text(spilled_.context().kv.dram_bytes()), 100 * median(of_beside));
  const auto of_token = [&](const std::vector<double>& seconds) {
    return median(seconds) * 1e3 / n_decoded_;
  };
  time.note = fmt::format(
      "a token: {:.2f} ms, its bytes at the rate of random reads {:.2f} ms, with K and V in DRAM "
      "{:.2f} ms",
      of_token(samples.spilled_s), of_token(disk_s), of_token(samples.in_dram_s));
  for (const TierFigure* figure : {&raw, &beside, &rate, &time}) events.on_figure(*figure);
}

}  // namespace strata::cli

// tools/cli/bench_reopen_figures.cc - the figures of `bench --reopen`: parts, sums, ratios.
#include <fmt/format.h>

#include <algorithm>

#include "engine/byte_text.h"
#include "index/method.h"
#include "tools/cli/bench_reopen.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using engine::bytes_text;

constexpr double kBytesWanted = 1.3;  // times what the bytes take, computing aside
constexpr double kWholeWanted = 3;    // times as long as reopening
// Llama-3.1-8B: layers x KV heads, head_dim, and its weights at 4.5 bits.
constexpr uint64_t kLargerStreams = uint64_t{32} * 8;
constexpr uint32_t kLargerHeadDim = 128;
constexpr uint64_t kLargerModelBytes = uint64_t{8'030'000'000} / 16 * 9;

double seconds(Reopened::Clock::time_point from, Reopened::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

double median_ms(const std::vector<Reopened>& samples, Reopened::Clock::time_point Reopened::*from,
                 Reopened::Clock::time_point Reopened::*to) {
  std::vector<double> values;
  values.reserve(samples.size());
  for (const Reopened& of : samples) values.push_back(seconds(of.*from, of.*to) * 1e3);
  return median(values);
}

std::string parts_text(const std::vector<Reopened>& samples) {
  using R = Reopened;
  return fmt::format(
      "process and head of the model {:.0f} ms, weights {:.0f}, packs and index rows {:.0f}, "
      "question {:.0f}",
      median_ms(samples, &R::begin, &R::opened), median_ms(samples, &R::opened, &R::loaded),
      median_ms(samples, &R::loaded, &R::restored), median_ms(samples, &R::restored, &R::answered));
}

TierFigure part(const std::string& name, const std::string& formula, uint64_t bytes,
                const std::vector<double>& samples_s) {
  return {.name = name,
          .formula = formula,
          .formula_bytes = bytes,
          .bytes = bytes,
          .samples_s = samples_s};
}

double selected_share(const Reopened& of) {
  return static_cast<double>(of.selected_blocks) /
         static_cast<double>(std::max<uint64_t>(1, of.selectable_blocks));
}

}  // namespace

void ReopenBench::tell_reopening(const std::vector<Reopened>& reopened,
                                 const ReadSamples& reads) const {
  const Reopened& of = reopened.back();
  const std::string in_order = fmt::format("requests x {}, {} in flight", RawDisk::kRequestBytes,
                                           RawDisk::kRequestsInFlight);
  events_.on_figure(part("part: model", in_order, model_bytes_, reads.model_s));
  TierFigure rows = part("part: index rows", in_order, of.rows_bytes, reads.rows_s);
  rows.note = fmt::format("of {} positions; {} of DRAM for the index", of.n_indexed,
                          bytes_text(of.index_bytes));
  events_.on_figure(rows);
  TierFigure blocks = part(
      "part: chosen blocks",
      fmt::format("{} blocks x {}, {} in flight", of.n_blocks, request_bytes(of), RawDisk::kDepth),
      of.n_blocks * request_bytes(of), reads.blocks_s);
  blocks.bytes = of.block_bytes;
  blocks.note =
      fmt::format("{} rows share one choice per KV head and layer: {:.1f} % of the blocks",
                  kQuestionRows, 100 * selected_share(of));
  events_.on_figure(blocks);
  TierFigure compute =
      part("part: computing", "the question with K and V in memory", 0, in_memory_.selected_s);
  events_.on_figure(compute);

  TierFigure total = part("reopen and ask", "the parts' bytes",
                          model_bytes_ + rows.formula_bytes + blocks.formula_bytes, {});
  total.measure = "x its bytes, computing aside";
  total.wanted = kBytesWanted;
  total.is_at_most = true;
  total.is_share = false;
  const double compute_s = median(in_memory_.selected_s);
  std::vector<double> sums;
  for (size_t i = 0; i < reopened.size(); ++i) {
    total.samples_s.push_back(seconds(reopened[i].begin, reopened[i].answered));
    total.values.push_back((total.samples_s[i] - compute_s) / reads.sum(i));
    sums.push_back(reads.sum(i) * 1e3);
  }
  total.note = fmt::format(
      "from the start of a process to the first token: {}; the parts' bytes at their rates {:.0f} "
      "ms; --kv-dram {}: {} of slots, {:.1f} % of {}, the rest index, frames and packs",
      parts_text(reopened), median(sums), bytes_text(of.dram_bytes), bytes_text(of.slot_bytes),
      100 * static_cast<double>(of.slot_bytes) / static_cast<double>(kv_bytes_),
      bytes_text(kv_bytes_));
  events_.on_figure(total);
}

void ReopenBench::tell_whole(const std::vector<Reopened>& reopened,
                             const std::vector<Reopened>& whole) const {
  TierFigure figure = part("restore all and ask", "model, and K and V of the context",
                           model_bytes_ + kv_bytes_, {});
  figure.bytes = model_bytes_ + whole.back().kv_read_bytes;
  figure.measure = "x as long as reopening";
  figure.wanted = kWholeWanted;
  figure.is_share = false;
  for (size_t i = 0; i < whole.size(); ++i) {
    figure.samples_s.push_back(seconds(whole[i].begin, whole[i].answered));
    figure.values.push_back(figure.samples_s[i] / seconds(reopened[i].begin, reopened[i].answered));
  }
  figure.note = fmt::format(
      "exact attention, all of K and V in memory: {}; the question alone {:.0f} "
      "ms with K and V in memory",
      parts_text(whole), median(in_memory_.exact_s) * 1e3);
  events_.on_figure(figure);
}

void ReopenBench::tell_larger(const Reopened& of, const ReadSamples& reads) const {
  const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, kLargerHeadDim);
  const uint64_t n_blocks = kLargerStreams * (options_.n_depth / kBlockPositions);
  const auto n_chosen = static_cast<uint64_t>(static_cast<double>(n_blocks) * selected_share(of));
  const uint64_t rows_bytes = kLargerStreams * (options_.n_depth / segment_positions_) *
                              index::segment_bytes(options_.method, layout);
  TierFigure figure = part("8B shape (arithmetic)",
                           fmt::format("{} weights + {} rows + {} blocks x {}", kLargerModelBytes,
                                       rows_bytes, n_chosen, layout.block_bytes),
                           kLargerModelBytes + rows_bytes + n_chosen * layout.block_bytes, {});
  figure.measure = "x as long to read all";
  figure.is_share = false;
  std::vector<double> without_model;
  const uint64_t kv_bytes = n_blocks * layout.block_bytes;
  for (size_t i = 0; i < reads.in_order_per_byte.size(); ++i) {
    const double per_byte = reads.in_order_per_byte[i];
    const double model_s = per_byte * static_cast<double>(kLargerModelBytes);
    const double kv_s = per_byte * static_cast<double>(kv_bytes);
    const double chosen_s = per_byte * static_cast<double>(rows_bytes) +
                            reads.larger_block_s[i] * static_cast<double>(n_chosen);
    figure.samples_s.push_back(model_s + chosen_s);
    figure.values.push_back((model_s + kv_s) / (model_s + chosen_s));
    without_model.push_back(kv_s / chosen_s);
  }
  figure.note = fmt::format(
      "not measured: Llama-3.1-8B (32 layers x 8 KV heads x 128, f16, {} of K and V, weights at "
      "4.5 "
      "bits) from the rates above and the same share of blocks, computing left out; {:.1f} times "
      "where the model is loaded already",
      bytes_text(kv_bytes), median(without_model));
  events_.on_figure(figure);
}

}  // namespace strata::cli

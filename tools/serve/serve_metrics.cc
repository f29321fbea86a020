#include "tools/serve/serve_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace strata::serve {
namespace {

std::string head(std::string_view name, std::string_view kind, std::string_view help) {
  return fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, kind);
}

template <class Number>
std::string single(std::string_view name, std::string_view kind, std::string_view help,
                   Number value) {
  return head(name, kind, help) + fmt::format("{} {}\n", name, value);
}

std::string order_lines(const ServiceCounts& counts) {
  std::string out = head("strata_orders_total", "counter", "Orders by how they ended.");
  const std::pair<const char*, uint64_t> ends[] = {{"answered", counts.answered},
                                                   {"cancelled", counts.cancelled},
                                                   {"failed", counts.failed},
                                                   {"refused", counts.refused}};
  for (const auto& [end, n] : ends)
    out += fmt::format("strata_orders_total{{end=\"{}\"}} {}\n", end, n);
  out += single("strata_orders_waiting", "gauge", "Orders in the queue.", counts.n_waiting);
  out += single("strata_orders_at_work", "gauge", "Orders being answered.", counts.n_busy);
  out +=
      single("strata_prompt_tokens_total", "counter", "Tokens of prompts.", counts.prompt_tokens);
  out += single("strata_cached_tokens_total", "counter",
                "Tokens of prompts that were not read again.", counts.cached_tokens);
  out +=
      single("strata_answer_tokens_total", "counter", "Tokens of answers.", counts.answer_tokens);
  out += single("strata_draft_tokens_total", "counter", "Tokens that were guessed ahead.",
                counts.drafts.proposed);
  out += single("strata_accepted_draft_tokens_total", "counter",
                "Tokens of answers that had been guessed.", counts.drafts.accepted);
  out += single("strata_prompt_seconds_total", "counter", "Time of reading prompts.",
                counts.prompt_seconds);
  out +=
      single("strata_answer_seconds_total", "counter", "Time of answering.", counts.answer_seconds);
  out += single("strata_stalled_steps_total", "counter", "Steps that waited for a tier below.",
                counts.stalled_steps);
  out += single("strata_stall_seconds_total", "counter", "Time of waiting for a tier below.",
                counts.stall_seconds);
  out +=
      single("strata_block_hit_ratio", "gauge",
             "Share of the blocks of K and V that steps wanted which DRAM had.", counts.hit_rate);
  if (counts.hbm_hit_rate)
    out += single("strata_hbm_hit_ratio", "gauge",
                  "Share of the blocks of K and V that steps wanted which the card's memory had.",
                  *counts.hbm_hit_rate);
  return out;
}

std::string fault_lines(const ServiceCounts& counts) {
  return single("strata_corrupt_blocks_total", "counter",
                "Blocks that the disk gave back wrong, and that were computed again.",
                counts.corrupt_blocks) +
         single("strata_read_retries_total", "counter",
                "Reads that were repeated, of what failed or came back wrong.",
                counts.read_retries) +
         single("strata_lost_extents_total", "counter",
                "Extents of K and V that no read gave back, and that were computed again.",
                counts.lost_extents) +
         single("strata_write_failures_total", "counter", "Writes of K and V that failed.",
                counts.write_failures);
}

std::string tier_lines(const std::vector<TierBytes>& tiers) {
  std::string budgets = head("strata_tier_budget_bytes", "gauge", "What a tier may hold.");
  std::string held = head("strata_tier_bytes", "gauge", "What a tier holds.");
  std::string moved =
      head("strata_tier_moved_bytes_total", "counter", "Bytes read from and written to a tier.");
  for (const TierBytes& tier : tiers) {
    budgets +=
        fmt::format("strata_tier_budget_bytes{{tier=\"{}\"}} {}\n", tier.name, tier.budget_bytes);
    const std::pair<const char*, uint64_t> kinds[] = {
        {"weights", tier.weights_bytes}, {"kv", tier.kv_bytes}, {"index", tier.index_bytes}};
    for (const auto& [kind, bytes] : kinds)
      held +=
          fmt::format("strata_tier_bytes{{tier=\"{}\",kind=\"{}\"}} {}\n", tier.name, kind, bytes);
    const std::pair<const char*, uint64_t> directions[] = {{"read", tier.read_bytes},
                                                           {"written", tier.written_bytes}};
    for (const auto& [direction, bytes] : directions)
      moved += fmt::format("strata_tier_moved_bytes_total{{tier=\"{}\",direction=\"{}\"}} {}\n",
                           tier.name, direction, bytes);
  }
  return budgets + held + moved;
}

}  // namespace

void TimeHistogram::add(double seconds) {
  ++count_;
  sum_ += seconds;
  const auto bucket = std::ranges::lower_bound(kBounds, seconds);
  if (bucket != kBounds.end()) ++counts_[static_cast<size_t>(bucket - kBounds.begin())];
}

std::string TimeHistogram::text(std::string_view name) const {
  std::string out;
  uint64_t n_below = 0;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    n_below += counts_[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], n_below);
  }
  return out + fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, count_,
                           name, sum_, name, count_);
}

void ServeMetrics::add_request(std::string_view route, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{std::string(route), status}];
}

void ServeMetrics::add_first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  first_token_.add(seconds);
}

void ServeMetrics::add_token(double seconds) {
  const std::lock_guard lock(mutex_);
  token_.add(seconds);
}

void ServeMetrics::add_whole_answer(double seconds) {
  const std::lock_guard lock(mutex_);
  whole_answer_.add(seconds);
}

std::string ServeMetrics::text(const ServiceCounts* service) const {
  std::string out =
      single("strata_loading", "gauge", "1 while the model is read.", service == nullptr ? 1 : 0);
  if (service != nullptr)
    out += order_lines(*service) + fault_lines(*service) + tier_lines(service->tiers);
  const std::lock_guard lock(mutex_);
  out += head("strata_http_requests_total", "counter", "Requests by route and status.");
  for (const auto& [key, n] : requests_)
    out += fmt::format("strata_http_requests_total{{route=\"{}\",status=\"{}\"}} {}\n", key.first,
                       key.second, n);
  const std::tuple<const char*, const char*, const TimeHistogram&> histograms[] = {
      {"strata_first_token_seconds", "From an order to its first text.", first_token_},
      {"strata_token_seconds", "Time per token of an answer, behind the first.", token_},
      {"strata_whole_answer_seconds", "From an order to the end of its answer.", whole_answer_}};
  for (const auto& [name, help, histogram] : histograms)
    out += head(name, "histogram", help) + histogram.text(name);
  return out;
}

}  // namespace strata::serve

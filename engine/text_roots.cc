#include "engine/text_roots.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "engine/sha256.h"

namespace strata::engine {
namespace {

/// It is written into packs: what was drawn at random cannot be found from it, though what is easy
/// to guess can be tried by whoever may read them.
tiers::Hash128 root_of(const std::string& text) {
  const std::string digits = sha256_hex(text);
  const auto word = [&](size_t at) { return std::stoull(digits.substr(at, 16), nullptr, 16); };
  return {word(0), word(16)};
}

}  // namespace

tiers::Hash128 prefix_root(std::string_view owner) {
  if (owner.empty()) return {};
  return root_of("strata prefix root\n" + std::string(owner));
}

tiers::Hash128 sparse_root(const SparseReading& reading) {
  const index::Rule& rule = reading.rule;
  const auto names = index::method_names();
  const auto name = std::ranges::find(names, reading.method, &index::MethodName::method);
  std::string more;  // what older readings did not have
  if (rule.window_share > 0) more += fmt::format("\nwindow {}", rule.window_share);
  if (!rule.layers.empty()) more += "\nlayers ";
  for (const index::LayerMode mode : rule.layers) more += std::to_string(static_cast<int>(mode));
  // 1: the way in which Walk cuts chunks into runs and scores them (ADR 0019).
  return root_of(fmt::format("strata sparse reading 1\n{} {}\n{} {}\n{} {} {} {}\n{} {}{}",
                             name->name, index::rows_kind(reading.method),
                             static_cast<int>(rule.budget.kind), rule.budget.value,
                             static_cast<int>(rule.pool), rule.n_sink_blocks, rule.n_window_blocks,
                             rule.residency_tolerance, reading.from, reading.chunk_rows, more));
}

}  // namespace strata::engine

#include "tools/cli/plan_space.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "base/even_spread.h"
#include "engine/dram_budget.h"
#include "engine/kv_placement.h"

namespace strata::cli {
namespace {

using engine::Engine;
using engine::Placement;

constexpr double kMove = 0.1;  // a share

std::vector<PieceSet> streamed_layers(uint32_t n_streamed, uint64_t n_layers) {
  std::vector<PieceSet> layers(n_layers);
  for (uint64_t i = 0; i < n_layers; ++i)
    if (is_spread_to(i, n_streamed, n_layers)) layers[i] = kWholeLayer;
  return layers;
}

}  // namespace

Placement placement_of(const Engine& engine) {
  const engine::KvPlacement& kv = engine.context().kv;
  Placement placement;
  placement.n_ctx = static_cast<uint32_t>(engine.context().n_ctx);
  placement.chunk_rows = engine.context().chunk_rows;
  placement.k_codec = engine.options().k_codec;
  placement.v_codec = engine.options().v_codec;
  placement.streamed = engine.weight_plan().streamed;
  placement.kv_dram_bytes = kv.is_spilling() ? kv.dram_bytes() : 0;
  return placement;
}

PlanSpace::PlanSpace(const Engine& engine)
    : base_(placement_of(engine)),
      sizes_(engine::weight_sizes(engine.file(), engine.spec())),
      available_(engine.limits().available_bytes) {
  const ModelShape shape = engine::shape_of_sequences(engine.spec().shape, engine.n_sequences());
  engine::ContextRequest request = engine.limits();
  request.chunk_rows = base_.chunk_rows;
  const engine::KvContext context = kv_context(request, base_.n_ctx);
  buffers_ = engine::buffer_bytes(engine.spec().shape, request);
  whole_ = place_whole(shape, context).dram_bytes();
  // Of a short context that is more than all of it.
  smallest_ = engine::can_spill(shape) && request.nvme_bytes > 0
                  ? std::min(whole_, smallest_spilling_dram(shape, context))
                  : whole_;
}

uint64_t PlanSpace::room(uint32_t n_streamed) const {
  const uint64_t weights =
      weight_plan_of(sizes_, streamed_layers(n_streamed, n_layers())).total_bytes();
  return available_ - std::min(available_, weights + buffers_);
}

Placement PlanSpace::with(uint32_t n_streamed, uint64_t kv_bytes) const {
  Placement placement = base_;
  placement.streamed = streamed_layers(n_streamed, n_layers());
  placement.kv_dram_bytes = kv_bytes >= whole_ ? 0 : kv_bytes;
  return placement;
}

void list_presets(const PlanSpace& space, const TakePlan& take) {
  const uint32_t n_layers = space.n_layers();
  double nearest = 2;
  uint32_t even = n_layers + 1;
  bool has_first = false, has_whole = false;
  for (uint32_t n = 0; n <= n_layers; ++n) {
    const uint64_t room = space.room(n);
    if (!space.is_possible(n)) continue;
    if (!std::exchange(has_first, true)) {
      take("weights first", space.with(n, room));
      take("K and V on disk", space.with(n, space.smallest()));
    }
    if (room >= space.whole() && !std::exchange(has_whole, true))
      take(n == 0 ? "all in DRAM" : "K and V first", space.with(n, room));
    const double weights = 1 - static_cast<double>(n) / n_layers;
    const double kv = std::min(1.0, static_cast<double>(room) / static_cast<double>(space.whole()));
    if (std::abs(weights - kv) < nearest) {
      nearest = std::abs(weights - kv);
      even = n;
    }
  }
  if (even <= n_layers) take("even shares", space.with(even, space.room(even)));
  if (!space.is_possible(n_layers)) return;
  take("weights on disk", space.with(n_layers, space.room(n_layers)));
  take("all on disk", space.with(n_layers, space.smallest()));
}

void list_moves(const PlanSpace& space, const Placement& of, const TakePlan& take) {
  const auto n_streamed =
      static_cast<uint32_t>(std::ranges::count_if(of.streamed, &PieceSet::is_any));
  const uint32_t n_moved =
      std::max(1u, static_cast<uint32_t>(std::lround(space.n_layers() * kMove)));
  const uint64_t kv = of.kv_dram_bytes == 0 ? space.whole() : of.kv_dram_bytes;
  const auto moved_bytes = static_cast<uint64_t>(static_cast<double>(kv) * kMove);
  // What K and V have where they have all that is left, or what they had.
  const auto try_kv = [&](const char* name, uint32_t n, uint64_t wanted) {
    if (n <= space.n_layers() && space.is_possible(n))
      take(name, space.with(n, std::clamp(wanted, space.smallest(), space.room(n))));
  };
  try_kv("fewer weights", n_streamed + n_moved, space.whole());
  if (n_streamed > 0) try_kv("more weights", n_streamed - std::min(n_streamed, n_moved), kv);
  try_kv("less K and V", n_streamed, kv - moved_bytes);
  try_kv("more K and V", n_streamed, kv + moved_bytes);
}

void draw_plans(const PlanSpace& space, uint64_t seed, uint32_t n_draws, const TakePlan& take) {
  std::mt19937_64 random(seed);
  for (uint32_t i = 0; i < n_draws; ++i) {
    const auto n = static_cast<uint32_t>(random() % (space.n_layers() + 1));
    if (!space.is_possible(n)) continue;
    const uint64_t most = std::min(space.room(n), space.whole());
    const double share = std::uniform_real_distribution<double>(0, 1)(random);
    const uint64_t kv = space.smallest() +
                        static_cast<uint64_t>(share * static_cast<double>(most - space.smallest()));
    if (!take(fmt::format("random {}", i + 1), space.with(n, kv))) return;
  }
}

}  // namespace strata::cli

#include "planner/virtual/predict.h"

#include <algorithm>

#include "base/check.h"
#include "planner/virtual/predicted_step.h"

namespace strata::planner {
namespace {

constexpr uint32_t kMeasuredTokens = 3;

double ms_between(const Usage& from, const Usage& to) {
  return std::chrono::duration<double, std::milli>(to.time - from.time).count();
}

/// What holds before any step has run.
Prediction laid_out(PredictedStep& step) {
  const DeviceMemory& memory = step.device().memory();
  return {.fits = step.why_not().empty(),
          .why_not = step.why_not(),
          .busiest = {},
          .hbm_bytes = memory.arena().used_bytes(),
          .pinned_bytes = memory.pinned_bytes()};
}

void set_result(Prediction& prediction, PredictedStep& step, const Usage& from, double n_tokens) {
  const Usage to = step.device().usage();
  prediction.ms = ms_between(from, to) / n_tokens;
  prediction.busiest = busiest_part(from, to);
  prediction.n_events = step.device().clock().n_events();
  prediction.event_hash = step.device().clock().hash();
}

}  // namespace

const char* kv_place_name(KvPlace place) {
  switch (place) {
    case KvPlace::kHbm:
      return "HBM";
    case KvPlace::kDramOnCpu:
      return "DRAM, on the CPU";
    case KvPlace::kDramInPlace:
      return "DRAM, across the link";
    case KvPlace::kDramStreamed:
      return "DRAM, streamed";
    case KvPlace::kSelectedDram:
      return "DRAM, selected";
    case KvPlace::kSelectedNvme:
      return "NVMe, selected";
  }
  return "";
}

Prediction predict_decode(const DeviceProfile& profile, const PredictedModel& model,
                          const Placement& placement, uint32_t n_positions) {
  PredictedStep step(profile, model, placement, n_positions + kMeasuredTokens + 1, 1);
  Prediction prediction = laid_out(step);
  if (!prediction.fits) return prediction;
  step.run(n_positions, 1, true);
  const Usage from = step.device().usage();
  for (uint32_t i = 1; i <= kMeasuredTokens; ++i) step.run(n_positions + i, 1, true);
  set_result(prediction, step, from, kMeasuredTokens);
  return prediction;
}

Prediction predict_prefill(const DeviceProfile& profile, const PredictedModel& model,
                           const Placement& placement, uint32_t n_positions) {
  STRATA_CHECK(placement.kv != KvPlace::kSelectedNvme && n_positions > 0, "n_positions=%u",
               n_positions);
  STRATA_CHECK(placement.prefill_rows > 1 && placement.prefill_rows % kBlockPositions == 0,
               "prefill_rows=%u", placement.prefill_rows);
  PredictedStep step(profile, model, placement, n_positions, placement.prefill_rows);
  Prediction prediction = laid_out(step);
  if (!prediction.fits) return prediction;
  for (uint32_t first = 0; first < n_positions; first += placement.prefill_rows) {
    const uint32_t n_rows = std::min(placement.prefill_rows, n_positions - first);
    step.run(first, n_rows, first + n_rows == n_positions);
  }
  set_result(prediction, step, {}, 1);
  return prediction;
}

uint32_t fewest_streamed_layers(const DeviceProfile& profile, const PredictedModel& model,
                                Placement placement, uint32_t n_positions) {
  const auto fits = [&](uint32_t n_streamed) {
    placement.n_streamed_layers = n_streamed;
    for (const bool is_prefill : {false, true}) {
      if (is_prefill && placement.kv == KvPlace::kSelectedNvme) continue;
      PredictedStep step(profile, model, placement, n_positions + kMeasuredTokens + 1,
                         is_prefill ? placement.prefill_rows : 1);
      if (!step.why_not().empty()) return false;
    }
    return true;
  };
  if (fits(0)) return 0;
  // One streamed layer takes two layers of buffers: from there on, fewer in HBM is less.
  uint32_t low = 1, high = model.shape.n_layers + 1;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (middle <= model.shape.n_layers && !fits(middle))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace strata::planner

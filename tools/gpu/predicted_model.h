// tools/gpu/predicted_model.h - what the virtual device that is nearest to a card makes of the same
// steps: the operations that the card is given, queued on it, and its clock.
//
// It charges a kernel's look at tables and positions as a read across the link, for it can see into
// no memory of its own: a kernel shorter than the link's latency takes that long.
#pragma once

#include <string>
#include <vector>

#include "planner/virtual/virtual_device.h"
#include "tools/gpu/placed_model.h"
#include "tools/gpu/step_table.h"

namespace strata::gpu_bench {

struct PredictedSteps {
  double us = 0;  // of all; 0 = it could not be run, and why
  std::string why_not;
  std::vector<OperationTime> operations;  // where they were wanted
};

/// Attention is cut for so many multiprocessors, as on the card.
PredictedSteps predict_steps(const planner::DeviceProfile& profile, const ModelSource& source,
                             const TextSteps& text, uint64_t hbm_bytes_max,
                             uint32_t n_multiprocessors, bool wants_operations);

}  // namespace strata::gpu_bench

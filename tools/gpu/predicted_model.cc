#include "tools/gpu/predicted_model.h"

#include <chrono>
#include <stdexcept>

#include "planner/virtual/virtual_table.h"

namespace strata::gpu_bench {
namespace {

double us_of(const planner::Usage& from, const planner::Usage& to) {
  return std::chrono::duration<double, std::micro>(to.time - from.time).count();
}

void run(PlacedModel& placed, const OnDevice& on) {
  if (placed.can_be_graph())
    placed.queue_graph();
  else
    placed.queue();
  on.check(on.table.wait_stream(on.stream));
}

}  // namespace

PredictedSteps predict_steps(const planner::DeviceProfile& profile, const ModelSource& source,
                             const TextSteps& text, uint64_t hbm_bytes_max,
                             uint32_t n_multiprocessors, bool wants_operations) {
  PredictedSteps predicted;
  try {
    planner::VirtualDevice device(profile, {.has_bytes = false});
    Device* opened = planner::as_device(device);
    StepTable table(planner::virtual_table(), opened, true);
    DeviceStream* stream = nullptr;
    const int error = table.table().create_stream(opened, &stream);
    const OnDevice on{table.table(), opened, stream, n_multiprocessors, false};
    on.check(error);
    PlacedModel placed(on, source, text, hbm_bytes_max);
    run(placed, on);  // then layers are on their way as behind any other step
    const planner::Usage from = device.usage();
    run(placed, on);
    predicted.us = us_of(from, device.usage());
    if (!wants_operations) return predicted;
    table.begin();
    placed.queue();
    on.check(table.end(stream, &predicted.operations));
  } catch (const std::runtime_error& error) {
    predicted.why_not = error.what();
  }
  return predicted;
}

}  // namespace strata::gpu_bench

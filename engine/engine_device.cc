// engine/engine_device.cc - what of a run is beside a device, by hand: which weights it holds, how
// many rows a prompt's steps have, what is the CPU's; and how a device is left.
#include <algorithm>

#include "base/error.h"
#include "engine/engine.h"

namespace strata::engine {

void Engine::plan_device() {
  if (!device_) return;
  device_model_ = describe_for_device(
      *file_, spec_, KvLayout::make(options_.k_codec, options_.v_codec, spec_.shape.head_dim));
  std::string why = why_not_on_device(device_model_);
  if (why.empty() && device_is_named() && weight_plan_.n_streamed() > 0) leave_out_held();
  if (why.empty())
    why = why_not_on_device(device_model_, beyond_devices(context_.kv.is_spilling(), weight_plan_));
  if (!why.empty()) {
    if (device_is_named())
      throw Error(ErrorCode::kUnsupported, why, "--device", "change that, or use --device none");
    leave_device(why);
    return;
  }
  try {
    device_plan_ = divide_device();
  } catch (const Error& error) {
    if (device_is_named() || error.code() != ErrorCode::kDoesNotFit) throw;
    leave_device(error.what());
  }
}

/// Its memory, for the context as it is: where DRAM leaves out what it holds, no more than that.
DevicePlan Engine::divide_device() const {
  const auto n_held = static_cast<uint64_t>(std::ranges::count(held_, kWholeLayer));
  return engine::plan_device(needs_on_device(device_model_, context_), hbm_budget(),
                             held_.size() - n_held);
}

/// DRAM does not hold all weights: so it need not hold those that the card does, and has room for
/// other layers, K and V. Beside a context that grew with that the card may hold fewer: it is
/// divided again until DRAM leaves out what it holds, with a layer less each time.
void Engine::leave_out_held() {
  const ContextPlan context = context_;
  const WeightPlan weights = weight_plan_;
  try {
    for (DevicePlan plan = divide_device(); plan.resident != held_; plan = divide_device()) {
      held_ = plan.resident;
      choose_by_hand();
    }
  } catch (const Error& error) {  // of a model that is no larger than what reads it
    if (error.code() != ErrorCode::kDoesNotFit) throw;
    held_.clear();
    context_ = context;
    weight_plan_ = weights;
  }
}

/// More rows of a prompt at a time, unless they are named, where nothing gives way to their
/// buffers: each chunk reads all weights anew and makes f16 of them (docs/measurements.md, "On a
/// card"). Where the device's memory does not hold K and V anyway, they may take a sixteenth of it.
void Engine::widen_chunks() {
  if (!device_ || options_.chunk_is_named) return;
  constexpr uint64_t kBufferShare = 16;
  const auto not_held = [](const DeviceNeeds& needs, const DevicePlan& plan) {
    return needs.kv_bytes - std::min(needs.kv_bytes, plan.kv_bytes);
  };
  const ContextPlan context = context_;
  const WeightPlan weights = weight_plan_;
  const uint32_t chunk_rows = limits_.chunk_rows;
  const bool holds_kv = not_held(needs_on_device(device_model_, context_), device_plan_) == 0;
  for (const uint32_t n_rows : {2048u, 1024u}) {
    if (n_rows <= context.chunk_rows) return;
    try {
      limits_.chunk_rows = n_rows;
      choose_by_hand();
      const DeviceNeeds needs = needs_on_device(device_model_, context_);
      const DevicePlan plan = divide_device();
      if (context_.n_ctx == context.n_ctx && !context_.kv.is_spilling() &&
          weight_plan_.n_streamed() == weights.n_streamed() &&
          plan.n_streamed() == device_plan_.n_streamed() &&
          plan.index_bytes == device_plan_.index_bytes &&
          (holds_kv ? not_held(needs, plan) == 0
                    : needs.buffer_bytes <= hbm_budget() / kBufferShare)) {
        device_plan_ = plan;
        return;
      }
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDoesNotFit) throw;
    }
    limits_.chunk_rows = chunk_rows;
    context_ = context;
    weight_plan_ = weights;
  }
}

bool Engine::reads_weights() const {
  const bool is_all_device =
      device_ && !device_plan_.resident.empty() && !context_.kv.is_spilling();
  for (size_t layer = 0; layer < weight_plan_.streamed.size(); ++layer) {
    const PieceSet held = is_all_device ? device_plan_.resident[layer] : kNoPiece;
    if (without(weight_plan_.streamed[layer], held).is_any()) return true;
  }
  return false;
}

/// What the CPU does beside the device: where no option says otherwise, as placed; null: by hand.
void Engine::set_cpu_share(const Placement* placement) {
  const double share = options_.cpu_share.value_or(placement != nullptr ? placement->cpu_share : 0);
  device_plan_.cpu_share = options_.method ? 0 : share;
  device_plan_.n_texts = options_.n_answers;
  if (options_.cpu_share == 0.0) device_plan_.on_cpu.clear();
  if (options_.cpu_share == 0.0 || placement != nullptr) return;
  std::vector<PieceSet> others = device_plan_.resident;  // with what comes from the file
  for (size_t layer = 0; layer < others.size(); ++layer)
    for (const LayerPiece piece : kEachPiece)
      if (weight_plan_.streamed[layer].has(piece)) others[layer].add(piece);
  device_plan_.on_cpu = share_products(others, share);
}

/// The CPU is to compute after all, within what was planned: its chunks are smaller.
void Engine::leave_device(const std::string& why) {
  notices_.push_back("the CPU computes: " + why);
  device_.reset();
  limits_.has_device = false;
  limits_.chunk_rows = std::min(context_.chunk_rows, options_.chunk_rows);
  context_.chunk_rows = chunk_rows_for(shape_of_sequences(spec_.shape, n_sequences()), limits_);
}

}  // namespace strata::engine

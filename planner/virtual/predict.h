// planner/virtual/predict.h - what a token and a prompt would take on a card that is not there.
// Why: "does it fit, and how fast" is asked before a card is bought. No closed form: the copies,
// events and kernels of a step are queued on a VirtualDevice, and its clock answers.
//
// A prediction is as good as the profile's figures, none of which is measured. Not in it: the time
// of searching for positions to attend, of sampling, of the host's calls, and what a disk's file
// system adds.
#pragma once

#include <cstdint>
#include <string>

#include "base/kv_layout.h"
#include "base/model_shape.h"
#include "planner/step_plan_builder.h"
#include "planner/virtual/virtual_device.h"

namespace strata::planner {

struct PredictedModel {
  ModelShape shape;   // layers are full or windowed
  PieceBytes pieces;  // of weights, as they are read
  KvLayout layout;
  bool is_quantised = true;  // weights are multiplied in int8 where rows are few
};

/// Where K and V of full layers are, and how a decoded token attends them. Those of windowed layers
/// are in HBM. A prompt is attended by the GPU: what is not in HBM comes a layer ahead into one of
/// two buffers there, and goes home as it is made.
enum class KvPlace : uint8_t {
  kHbm,
  kDramOnCpu,     // the CPU attends, in place
  kDramInPlace,   // kernels read it across the link
  kDramStreamed,  // copied a layer ahead into one of two buffers
  kSelectedDram,  // some positions; those that HBM does not cache are read across the link
  kSelectedNvme,  // some positions; those that HBM does not cache come from the disk to DRAM first
};
const char* kv_place_name(KvPlace place);  // "DRAM, on the CPU"

struct Placement {
  KvPlace kv = KvPlace::kHbm;
  // Layers whose weights come from DRAM in every step, two ahead; spread evenly over the model. The
  // others and the output head are in HBM; embedding rows are read from DRAM.
  uint32_t n_streamed_layers = 0;
  uint64_t selected_positions = 2048;  // that a token attends of each full layer's KV head
  double hit_share = 0.8;              // of these, cached in HBM
  uint64_t nvme_read_bytes = uint64_t{64} << 10;
  uint32_t prefill_rows = 2048;   // of a prompt's chunk
  uint64_t hbm_bytes_max = 0;     // as VirtualDeviceOptions
  uint64_t pinned_bytes_max = 0;  // as VirtualDeviceOptions
};

struct Prediction {
  bool fits = false;
  std::string why_not;  // where it does not
  double ms = 0;        // of one decoded token, or until a prompt's first one
  BusyPart busiest;
  uint64_t hbm_bytes = 0;     // taken, in whole granules of the arena
  uint64_t pinned_bytes = 0;  // of DRAM
  uint64_t n_events = 0;
  uint64_t event_hash = 0;
};

/// A token decoded behind n_positions, the mean of three after a first one.
Prediction predict_decode(const DeviceProfile& profile, const PredictedModel& model,
                          const Placement& placement, uint32_t n_positions);

/// A prompt of n_positions until its first token. Not for kSelectedNvme.
Prediction predict_prefill(const DeviceProfile& profile, const PredictedModel& model,
                           const Placement& placement, uint32_t n_positions);

/// Layers to stream, the fewest with which decode and prefill fit beside K and V at `placement.kv`;
/// more than the model has where none do.
uint32_t fewest_streamed_layers(const DeviceProfile& profile, const PredictedModel& model,
                                Placement placement, uint32_t n_positions);

}  // namespace strata::planner

// engine/device_plan.h - what a device's memory holds: a pure function of the model's sizes and the
// budget, where no placement is given. Weights come first: every step reads all of them, and those
// that stay need no slots to pass through. Then K and V that a token of each answer attends, as its
// rule chooses them in all full layers, and windows; then rows of an index, all or none, of which a
// token that chooses reads every one; then the rest of K and V, which prompts read, too. Where all
// of K and V are smaller than the rows and have no room beside them, they come first: the host
// searches so short a text in no time.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/layer_piece.h"

namespace strata::engine {

/// Bytes as a device allocates them.
uint64_t device_aligned(uint64_t bytes);

/// What a model and a context would like to have there.
struct DeviceNeeds {
  uint64_t buffer_bytes = 0;          // of a step, and block tables: must be there
  uint64_t head_bytes = 0;            // output projection and every vector: must be there
  std::vector<uint64_t> layer_bytes;  // matrices, as packed
  std::vector<std::array<uint64_t, kLayerPieces>> piece_bytes;  // of each layer, by LayerPiece
  uint64_t index_bytes = 0;      // rows of an index that the device can scan; 0: there are none
  uint64_t kv_bytes = 0;         // of the context
  uint64_t kv_bytes_min = 0;     // of these, what must be there (chosen_on_device_min())
  uint64_t kv_bytes_chosen = 0;  // of these, what comes before the rows (chosen_on_device())
  uint64_t block_bytes = 0;      // of K and V

  uint64_t bytes_of(size_t layer, PieceSet pieces) const;
};

/// What is not resident of a layer passes through two slots of slot_bytes, in every step. K and V
/// beyond kv_bytes are read where they lie in memory.
struct DevicePlan {
  uint64_t hbm_bytes = 0;     // of the budget that is used
  uint64_t weight_bytes = 0;  // that stay, with what must be there
  uint64_t slot_bytes = 0;
  uint64_t index_bytes = 0;  // of rows that are scanned there; 0: the host scans
  uint64_t kv_bytes = 0;     // whole blocks
  // Of full layers' K and V beyond kv_bytes, what the CPU attends for few rows (device_beside.h).
  double cpu_share = 0;
  uint32_t n_texts = 1;  // at work at a time: of K and V that spill each has an even part there
  std::vector<PieceSet> resident;  // per layer
  // Per layer, of what is not resident: what the CPU multiplies few rows by, so that for them it
  // does not pass (device_products.h). Empty: nothing.
  std::vector<PieceSet> on_cpu;

  uint64_t n_streamed() const;  // layers of which something passes
  uint64_t n_in_part() const;   // of those, the ones of which a piece stays
  uint64_t n_on_cpu() const;    // of those, the ones of which the CPU multiplies by something
};

/// Where no budget is given: what is free, less what the driver and the desktop want to have.
uint64_t usable_device_bytes(uint64_t free_bytes);

/// The plan in which exactly these pieces of each layer stay, with no K and V yet.
DevicePlan device_plan_of(const DeviceNeeds& needs, std::vector<PieceSet> resident);

/// DevicePlan::on_cpu with so large a share of the layers that pass, spread evenly, each with all
/// that passes of it.
std::vector<PieceSet> share_products(const std::vector<PieceSet>& resident, double share);

/// The fewest layers pass that may, but n_streamed_min at least. Errors: kDoesNotFit, with the
/// smallest budget that would do.
DevicePlan plan_device(const DeviceNeeds& needs, uint64_t hbm_bytes, uint64_t n_streamed_min = 0);

}  // namespace strata::engine

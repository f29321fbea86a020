// engine/weight_budget.h - which layers' weights stay in DRAM and which are streamed from the model
// file: a pure function of their sizes and a budget.
// Why spread: a streamed layer is read while the layers before it compute, so the disk is busy all
// the time only where streamed and resident layers alternate.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/layer_piece.h"

namespace strata::engine {

/// Layers in memory at once of those that are streamed: one computes, the next one is filled. The
/// ring has buffers for one more, as far as kReadBuffersMax goes.
inline constexpr uint32_t kWeightSlots = 2;

/// Of a layer, or of one piece of it.
struct LayerSize {
  uint64_t packed_bytes = 0;    // of its matrices
  uint64_t file_bytes = 0;      // that reads bring for them
  uint32_t n_reads = 0;         // that bring them
  uint64_t read_bytes_max = 0;  // of the largest of those
};

struct WeightSizes {
  /// Never streamed. The embedding, of which a step reads single rows. The output head: it is the
  /// only piece of its size, so a slot for it would take what it takes. Norms and biases: a few KiB
  /// per layer that reads of their own would cost more than they hold.
  uint64_t always_bytes = 0;
  std::vector<LayerSize> layers;
  std::vector<std::array<LayerSize, kLayerPieces>> pieces;  // of each layer, by LayerPiece

  /// What is read of a layer of which those pieces, at least one, are streamed.
  const LayerSize& streamed_size(size_t layer, PieceSet streamed) const;
};

struct WeightPlan {
  std::vector<PieceSet> streamed;  // per layer
  uint64_t resident_bytes = 0;     // with what is never streamed
  uint32_t n_slots = 0;            // 0: everything is resident
  uint64_t slot_bytes = 0;         // the largest of what is streamed of a layer
  uint32_t n_buffers = 0;          // that reads end in before they are packed
  uint64_t buffer_bytes = 0;

  uint64_t total_bytes() const {
    return resident_bytes + n_slots * slot_bytes + n_buffers * buffer_bytes;
  }
  uint32_t n_streamed() const;  // layers of which something is
  uint32_t n_in_part() const;   // of those, the ones of which a piece stays
};

/// The plan in which exactly these pieces of each layer are streamed.
WeightPlan weight_plan_of(const WeightSizes& sizes, std::vector<PieceSet> streamed);

/// The plan with the fewest streamed layers, evenly spread, that stays within the budget (0 = no
/// limit). What is `held` elsewhere, in a device's memory, is streamed: so only steps of the CPU
/// read it. Errors: kDoesNotFit, with the smallest budget that would do where nothing is held.
WeightPlan plan_weights(const WeightSizes& sizes, uint64_t budget_bytes,
                        const std::vector<PieceSet>& held = {});

/// The smallest budget that plan_weights() accepts.
uint64_t smallest_weight_budget(const WeightSizes& sizes);

}  // namespace strata::engine

// engine/kv_placement.h - how K and V of a context are divided between DRAM and a spill file: a
// pure function of the shape and the two budgets. Every full layer is written through to the spill
// file; DRAM holds what fits, at least what one step needs. Windowed layers stay in DRAM. What is
// in DRAM to move K and V, staging frames and saved contexts on their way, is of the same budget,
// and so are the index by which blocks are chosen and the tables that a device reads them by.
#pragma once

#include <cstdint>
#include <optional>

#include "base/kv_layout.h"
#include "base/model_shape.h"
#include "index/choose.h"
#include "index/method.h"

namespace strata::engine {

struct KvContext {
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint64_t n_ctx = 0;
  uint32_t chunk_rows = 512;
  bool has_packs = false;                    // saved contexts are read and written
  std::optional<index::Method> method = {};  // of retrieval; nothing = there is no index
  bool has_device = false;                   // that may compute the steps
  uint32_t n_answers = 1;                    // at work at a time, each with a text of its own
  std::optional<index::Rule> sparse = {};    // by which prompts are read; nothing = exactly
  bool spills_beside = false;                // what spills does so beside that device
};

struct KvPlacement {
  uint64_t slot_bytes = 0;   // of the arena of blocks
  uint64_t place_bytes = 0;  // of one extent in the spill file, and of one staging frame
  uint32_t n_frames = 0;     // for what is read back; 0 = nothing is
  uint32_t block_bytes = 0;
  uint32_t n_block_frames = 0;    // for blocks that selected steps read one by one; 0 = none does
  uint64_t nvme_bytes = 0;        // of the spill file at most; 0 = all of K and V in DRAM
  uint64_t pack_bytes = 0;        // of packs that are open, as pack_bytes()
  uint64_t pack_index_bytes = 0;  // of these: by which packs are found, as pack_index_bytes()
  uint64_t index_bytes = 0;       // of the index and of choosing by it, as index_dram_bytes()
  uint64_t table_bytes = 0;       // of a device's tables, where one may compute, and of the
                                  // sequences of all answers but one

  bool is_spilling() const { return nvme_bytes > 0; }
  uint64_t dram_bytes() const;
};

/// False where the model has no full layer: nothing of it can leave DRAM.
bool can_spill(const ModelShape& shape);
/// As so many sequences with one beginning take K and V: windowed layers count once for each.
ModelShape shape_of_sequences(ModelShape shape, uint32_t n_sequences);
/// Of the largest extent of a full layer, padded: a place in the spill file, a staging frame.
uint64_t place_bytes(const ModelShape& shape, const KvContext& context);
/// What reading and writing saved contexts takes of DRAM beside the frames: one region that is read
/// and one that is written, heads and tags of the packs that hold the context, and those of the
/// runs being written and sealed; rows_memory_bytes() of an index; pack_index_bytes(). Each further
/// answer writes one more region and run. 0 where there are none.
uint64_t pack_bytes(const ModelShape& shape, const KvContext& context);
/// What the heads of all packs that can be found may take (tiers::PackLimits::index_bytes): a 64th
/// of the context's K and V, at least 256 KiB and at most 16 MiB. At 8 to 10 bytes a position that
/// is a million and a half.
uint64_t pack_index_bytes(const ModelShape& shape, const KvContext& context);
/// Index rows of n_ctx positions and of a fork for each answer, and what a selected step holds of
/// estimates.
/// 0 where there is no index.
uint64_t index_dram_bytes(const ModelShape& shape, const KvContext& context);
/// All of K and V in DRAM; beside packs windowed layers twice, as below. A device's tables count
/// here, and where K and V spill beside it.
KvPlacement place_whole(const ModelShape& shape, const KvContext& context);
/// The least DRAM with which a context runs while it spills: the blocks of one step and of the one
/// before, which may still be on its way to the disk, those of an extent that is computed again,
/// all of windowed layers twice (computing again starts a second set), and the fewest staging
/// frames. Where blocks are chosen, also those that must be in DRAM at a time
/// (chosen_blocks_min()), and the frames they are read into.
uint64_t smallest_spilling_dram(const ModelShape& shape, const KvContext& context);
/// What the spill file needs: every extent of full layers, and two more of each.
uint64_t spill_bytes(const ModelShape& shape, const KvContext& context);
/// Spills; dram_bytes >= smallest_spilling_dram().
KvPlacement place_spilling(const ModelShape& shape, const KvContext& context, uint64_t dram_bytes);

}  // namespace strata::engine

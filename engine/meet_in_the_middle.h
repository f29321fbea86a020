// engine/meet_in_the_middle.h - a restored context comes from both ends: its beginning is computed
// from its tokens while its end is read from the disk, until the two meet.
// Why: where the disk is slow beside the processor, neither should wait for the other; attention
// makes late positions dear to compute and costs the disk nothing. Law L1 makes a computed block
// the saved one bit for bit, so every meeting point is right and a clock may choose it.
// Source: Cake (arXiv 2410.03065), with the layers of an extent read together.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/walk.h"

namespace strata::engine {

/// Where they met. Both 0 where the context is read when a step uses it.
struct Meeting {
  uint32_t computed_tokens = 0;  // positions [0, computed_tokens) were computed again
  uint32_t loaded_tokens = 0;    // positions after them that were read; lost extents among them are
                                 // computed by the step that uses them
};

/// Brings what only packs hold of `sequence` into DRAM, from both ends in steps of chunk_rows,
/// where that is worth it: reading the rest takes more than half a second and than computing one
/// chunk would, and computing has a sixteenth of the rest at least. Rates are measured: of the disk
/// by the first frames of reads, of the processor by a step of 32 rows. Nothing is done, or what
/// was read so far stays and the rest is read when it is used, where that is not so, where there is
/// a spill file, and where DRAM has no room for all of it and one more set of windows.
/// `on_chunk(done)` after each step, with the positions that are there; false stops it.
/// Afterwards no frame is held. Errors: kCancelled (what was computed is kept); those of
/// Walk::step.
Meeting meet_in_the_middle(Walk& walk, Sequence& sequence, uint32_t chunk_rows,
                           const std::function<bool(uint64_t done)>& on_chunk = {});

}  // namespace strata::engine

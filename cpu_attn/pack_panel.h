// cpu_attn/pack_panel.h - one panel of packing, in two ways that give the same bytes.
#pragma once

#include <cstdint>

#include "base/packed_matrix.h"

namespace strata::cpu_attn {

/// A lane at a time, in plain C++: the reference, and what packs a panel of which only n_lanes <=
/// 16 rows exist. `rows`: n_lanes rows, row_bytes apart; `panel`: panel_bytes(type, n_in) bytes.
void pack_panel_by_lanes(TensorType type, const uint8_t* rows, uint64_t row_bytes, uint32_t n_lanes,
                         uint32_t n_in, uint8_t* panel);

/// All sixteen lanes at a time, by vectors, past the caches: `panel` is 64-byte aligned, and other
/// threads see it after a store fence (pack_panels has one). Float rows have a multiple of
/// kTurnedFloats elements.
void pack_panel_turned(TensorType type, const uint8_t* rows, uint64_t row_bytes, uint32_t n_in,
                       uint8_t* panel);
inline constexpr uint32_t kTurnedFloats = 8;

}  // namespace strata::cpu_attn

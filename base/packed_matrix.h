// base/packed_matrix.h - a weight matrix in the layout the CPU kernels read.
// Why: sixteen output rows lie side by side, so that a vector lane is one output and the reduction
// over inputs runs in input order in every kernel, whatever the number of activation rows (law L1;
// docs/adr/0001-one-arithmetic-order.md).
//
// A matrix [n_out, n_in] is cut into panels of kPanelRows output rows (the last padded with zero
// rows). What lies inside a panel depends on the type and is written down in
// base/panel_layout.inc; all panels have the same size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor_type.h"

namespace strata {

inline constexpr uint32_t kPanelRows = 16;

/// Borrowed view of a packed matrix: y[n_out] = W x[n_in].
struct PackedMatrix {
  const std::byte* bytes = nullptr;  // n_panels() * panel_bytes, 64-byte aligned
  TensorType type = TensorType::kF32;
  uint32_t n_out = 0;
  uint32_t n_in = 0;         // a multiple of the type's block
  uint64_t panel_bytes = 0;  // a multiple of 64

  uint32_t n_panels() const { return (n_out + kPanelRows - 1) / kPanelRows; }
  uint64_t total_bytes() const { return n_panels() * panel_bytes; }
};

}  // namespace strata

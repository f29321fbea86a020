// gpu_attn/linear_bytes.h - bytes that linear layers of few rows and the embedding move, by
// formula: what benches divide by times.
#pragma once

#include "base/device_kernels.h"

namespace strata::gpu_attn {

/// Every panel once, the rows once in the form that each kind of matrix reads, the results once.
inline uint64_t linear_bytes(const DeviceLinearArgs& args) {
  const uint64_t n_values = uint64_t{args.n_rows} * args.w[0].n_in;
  uint64_t bytes = 0;
  bool has_float = false, has_quantised = false;
  for (uint32_t j = 0; j < args.n_matrices; ++j) {
    const PackedMatrix& w = args.w[j];
    const bool is_float = tensor_type_info(w.type).block_elements == 1;
    (is_float ? has_float : has_quantised) = true;
    bytes += w.total_bytes() + uint64_t{args.n_rows} * w.n_out * 4;
  }
  if (has_float) bytes += n_values * 4;
  if (has_quantised) bytes += n_values + n_values / kActGroup * 4 + n_values / kActHalfGroup * 4;
  return bytes;
}

/// A row's share of its panel, and the row written. The card moves more of the panel: sectors of 32
/// bytes, which eight rows share.
inline uint64_t embed_bytes(const DeviceEmbedArgs& args) {
  return args.n_rows * (args.matrix.panel_bytes / kPanelRows + uint64_t{args.matrix.n_in} * 4);
}

}  // namespace strata::gpu_attn

// cpu_attn/pack.h - turns rows of a GGUF tensor into the panels the linear kernels read, and back
// for embeddings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/packed_matrix.h"

namespace strata::cpu_attn {

/// Bytes of one panel (16 rows of n_in elements), a multiple of 64.
uint64_t panel_bytes(TensorType type, uint32_t n_in);

/// Packs panels [panel_begin, panel_end). `rows` holds the file's bytes of rows [panel_begin * 16,
/// ...), as many as exist below n_out, aligned anyhow; `out` starts at panel panel_begin and is
/// 64-byte aligned. What is written is in memory rather than in a cache when this returns.
void pack_panels(TensorType type, uint32_t n_out, uint32_t n_in, uint32_t panel_begin,
                 uint32_t panel_end, std::span<const std::byte> rows, std::byte* out);

/// Decodes row `row` [n_in] to f32: the values dequantise() gives for the file's row, bit for bit.
void unpack_row(const PackedMatrix& matrix, uint32_t row, std::span<float> out);

/// Bytes that a step reads of the matrix: all of its panels, once.
inline uint64_t linear_bytes(const PackedMatrix& matrix) { return matrix.total_bytes(); }

}  // namespace strata::cpu_attn

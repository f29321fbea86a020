// base/kernel_table.h - the table of functions an instruction set fills (cpu_attn) and the engine
// calls. Why: the set is chosen once at start (`--cpu-isa` forces it); tests run every table the
// CPU has against one oracle. Plain structs only: files compiled with their own flags include this
// and nothing of the standard library that has inline code, so that no function exists twice with
// different flags (a test looks for weak symbols).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/index_kernels.h"
#include "base/kv_layout.h"
#include "base/packed_matrix.h"

namespace strata {

enum class CpuIsa : uint8_t { kScalar, kAvx2, kAvx512 };

inline constexpr uint32_t kActGroup = 32;      // activations that share one int8 scale
inline constexpr uint32_t kActHalfGroup = 16;  // grain of the sums that offsets and minima need

/// Activations as int8: x = scale * q within each group of 32, scale = max|x| / 127 (0 for a group
/// of zeros). n_in is a multiple of 32. Shapes: q [n_rows, n_in]; scales [n_rows, n_in / 32];
/// neg_sums [n_rows, n_in / 16]: minus the sum of each half group's q.
struct QuantRows {
  int8_t* q;
  float* scales;
  int32_t* neg_sums;
};

/// One linear layer's input and output. Weights of float types (F32, F16, BF16) read `x`; all
/// others read `quant`, which `quantize_rows` has filled from the same x.
struct LinearArgs {
  PackedMatrix w;
  const float* x;  // [n_rows, n_in]
  QuantRows quant;
  float* out;           // [n_rows, out_stride]; columns of the panels asked for are overwritten
  uint64_t out_stride;  // floats between rows of out, >= n_out
  uint32_t n_rows;
  uint32_t panel_begin;  // panels [panel_begin, panel_end) are computed: the grain of threading
  uint32_t panel_end;
};

inline constexpr uint32_t kMaxTileQueries = 192;  // queries in one attention tile

/// Attention of a tile of queries of one KV head over one segment of positions, giving one partial
/// per query. The segment holds positions [first_pos, first_pos + n_pos), first_pos a multiple of
/// kSegmentPositions, n_pos <= kSegmentPositions, in blocks of 32 (the last may be part full).
/// Query i attends the positions p of the segment with query_pos[i] - window < p <= query_pos[i]
/// (window = 0: no lower bound); a query with none gives m = -inf, l = 0, o = 0.
struct AttendArgs {
  const float* q;  // [n_queries, q_stride]: head_dim values each, RoPE applied, multiplied by the
                   // attention scale
  uint64_t q_stride;          // floats between queries
  const uint32_t* query_pos;  // [n_queries]
  uint32_t n_queries;         // <= kMaxTileQueries
  uint32_t window;
  KvLayout layout;
  const std::byte* const* blocks;  // [ceil(n_pos / 32)], each layout.block_bytes
  uint32_t first_pos;
  uint32_t n_pos;
  float* scratch;  // attend_scratch_floats(n_queries, head_dim) floats, 64-byte aligned
  float* o;        // [n_queries, head_dim]: sum of exp(s - m) v
  float* m;        // [n_queries]: largest score, natural log units
  float* l;        // [n_queries]: sum of exp(s - m)
  // What this thread attends next, if known: the first blocks are fetched from DRAM meanwhile. The
  // bits do not depend on it.
  const std::byte* const* next_blocks = nullptr;
  uint32_t n_next_blocks = 0;
  // Whether scratch is as the last call left it, of the same q, n_queries and layout: the queries,
  // as they are multiplied, are still there.
  bool has_prepared_q = false;
};

/// Running attention of several queries, merged in segment order.
struct MergeArgs {
  const float* o;
  const float* m;
  const float* l;  // the segment's partials, as AttendArgs wrote them
  float* run_o;
  float* run_m;
  float* run_l;  // running partials; run_m = -inf, run_l = 0, run_o = 0 at the start
  uint32_t n_queries;
  uint32_t head_dim;
};

enum class RopePairing : uint8_t {
  kAdjacent,
  kHalves
};  // (x[2i], x[2i+1]) or (x[i], x[i + n_rot / 2])

struct KernelTable {
  CpuIsa isa;
  const char* name;      // "scalar", "avx2", "avx512"
  const char* features;  // what it uses, such as "avx512 vnni"

  // Linear layers (cpu_attn/linear*).
  void (*quantize_rows)(const float* x, uint32_t n_rows, uint32_t n_in, QuantRows out);
  void (*linear)(const LinearArgs& args);
  bool has_tiles;  // `linear` multiplies rows of int8 in tiles, which have a peak of their own

  // Attention (cpu_attn/attend*).
  void (*attend_segment)(const AttendArgs& args);
  void (*merge_partials)(const MergeArgs& args);
  /// Stores one position's k and v [head_dim] into a block at row `row` (0..31)
  /// by the layout's codecs.
  void (*store_kv)(const KvLayout& layout, std::byte* block, uint32_t row, const float* k,
                   const float* v);

  // Rows of f32 (cpu_attn/row_ops*). In place where an output equals an input is allowed.
  /// out[i] = x[i] * w[i] / sqrt(mean(x^2) + eps); the sum runs in a fixed order.
  void (*rms_norm)(const float* x, const float* w, uint32_t n, float eps, float* out);
  /// Rotates the first n_rot dimensions of one head; cos_sin is [n_rot / 2] pairs (cos, sin).
  void (*rope)(float* x, const float* cos_sin, uint32_t n_rot, RopePairing pairing);
  void (*silu_mul)(const float* gate, const float* up, uint32_t n, float* out);  // silu(gate) * up
  void (*gelu_mul)(const float* gate, const float* up, uint32_t n,
                   float* out);  // gelu_tanh(gate) * up
  void (*add)(const float* a, const float* b, uint32_t n, float* out);
  void (*scale)(const float* x, float factor, uint32_t n, float* out);

  IndexKernels index;  // cpu_attn/index*
};

/// Scratch that attend_segment wants: scores of every query over one segment, the queries as they
/// are multiplied, and K and V of a segment turned for that.
constexpr uint64_t attend_scratch_floats(uint32_t n_queries, uint32_t head_dim) {
  return uint64_t{n_queries} * (kSegmentPositions + head_dim) +
         uint64_t{2} * kSegmentPositions * head_dim;
}

}  // namespace strata

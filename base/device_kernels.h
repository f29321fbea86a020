// base/device_kernels.h - the operations of a layer on a device: what gpu_attn fills in and the
// device's walk calls. Why: one table for the card, for the emulator that CI runs the same kernels
// in, and for the virtual device. Plain structs only, as in base/kernel_table.h.
//
// Every pointer is a device's: into its memory, or into host memory that it has pinned. Work is
// queued on a stream, in order; a call returns 0 or the device's error number (DeviceTable::status
// says what that is). Operations read weights and KV blocks in the layouts they have in every tier
// (base/packed_matrix.h, base/kv_layout.h), so that moving is copying. Rows are f32
// [n_rows, width]; the numbers agree with the CPU's within derived tolerances, not bit for bit.
// Where an operation gives rows, it may give their int8 form too, which quantised weights read:
// `quant`, whose q is null where it is not wanted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/kernel_table.h"
#include "base/kv_layout.h"
#include "base/packed_matrix.h"

namespace strata {

struct DeviceStream;  // a queue of one device, opaque

/// Decodes rows of the embedding: out[i] = scale * matrix[tokens[i]].
struct DeviceEmbedArgs {
  PackedMatrix matrix;
  const int32_t* tokens;  // [n_rows], each below matrix.n_out
  float* out;             // [n_rows, n_in]
  uint32_t n_rows;
  float scale;
};

/// residual += maybe_norm(projected + bias; post_norm), then normed = rms_norm(residual; weight):
/// what stands between two projections.
struct DeviceNormArgs {
  float* residual;         // [n_rows, n]
  const float* projected;  // [n_rows, n] or null: nothing is added
  const float* bias;       // [n] or null
  const float* post_norm;  // [n] or null
  const float* weight;     // [n]
  float* normed;           // [n_rows, n]
  QuantRows quant;         // of normed
  uint32_t n_rows;
  uint32_t n;  // a multiple of 4; of 32 where the int8 form is wanted
  float eps;
};

inline constexpr uint32_t kDeviceLinearMax = 3;  // matrices that one launch multiplies

/// out_j = W_j x for up to three matrices that read the same rows. Up to kDeviceFewRows rows are
/// multiplied straight from the packed weights, in int8 where they are quantised (as on the CPU);
/// more go through f16 and the tensor cores and want scratch.
struct DeviceLinearArgs {
  PackedMatrix w[kDeviceLinearMax];
  float* out[kDeviceLinearMax];  // [n_rows, w.n_out]
  uint32_t n_matrices;
  const float* x;   // [n_rows, n_in]
  QuantRows quant;  // of x; read where a matrix is quantised and the rows are few
  uint32_t n_rows;
  std::byte* scratch;  // device_linear_scratch_bytes(), 256-byte aligned; unused for few rows
};

inline constexpr uint32_t kDeviceFewRows = 8;

/// Biases, QK-norm and RoPE of n_rows rows; q goes to q_out times the attention scale, k and v
/// into their blocks by the layout's codecs. Row i of KV head h is row positions[i] % 32 of block
/// blocks[h * block_stride + positions[i] / 32 - first_block].
struct DeviceRotateArgs {
  const float* q;  // [n_rows, n_kv_heads * group * head_dim]
  const float* k;  // [n_rows, n_kv_heads * head_dim]
  const float* v;
  const float* q_bias;  // each null where there is none
  const float* k_bias;
  const float* v_bias;
  const float* q_norm;  // [head_dim]
  const float* k_norm;
  const float* cos_sin;       // [n_rows, n_rot / 2] pairs (cos, sin); null = no rotation
  const uint32_t* positions;  // [n_rows]
  std::byte* const* blocks;   // [n_kv_heads, block_stride]
  // A second table of the same shape whose blocks get the same bytes: their home in pinned host
  // memory. Null where there is none.
  std::byte* const* mirror;
  uint64_t block_stride;
  uint32_t first_block;
  KvLayout layout;
  float* q_out;  // [n_kv_heads][n_rows][group, head_dim]
  uint32_t n_rows;
  uint32_t n_kv_heads;
  uint32_t group;
  uint32_t n_rot;
  RopePairing pairing;
  float q_scale;
  float norm_eps;
};

inline constexpr uint32_t kDeviceGroupMax = 16;  // query heads per KV head

/// Attention of n_rows rows of one sequence over a block table, giving partials. Block i of KV head
/// h, blocks[h * block_stride + i], holds positions [32 (first_block + i), ...). A row at position
/// p attends positions q with p - window < q <= p (window = 0: no lower bound), as far as
/// the table has them. KV heads that attend tables of their own (blocks chosen for each) have
/// positions of their own: row i of head h stands at positions[h * position_stride + i] of its
/// table, which may be shorter than n_blocks. The table is cut into n_splits runs of split_blocks
/// blocks (a multiple of 8; the last may be short or empty); a query with nothing to attend in one
/// gives m = -inf, l = 0, o = 0. Blocks may lie in pinned host memory, which is then read across
/// the link.
struct DeviceAttendArgs {
  const float* q;                // as DeviceRotateArgs::q_out
  const uint32_t* positions;     // [n_rows] of each KV head, ascending by one
  uint64_t position_stride = 0;  // between those of two KV heads; 0 = all have the same
  const std::byte* const* blocks;
  uint64_t block_stride;
  uint32_t first_block;
  uint32_t n_blocks;  // of each KV head's table
  KvLayout layout;
  uint32_t n_rows;
  uint32_t n_kv_heads;
  uint32_t group;
  uint32_t window;
  uint32_t split_blocks;
  uint32_t n_splits;
  float* o;  // [n_splits][n_kv_heads][n_rows][group, head_dim]: sum of exp(s - m) v
  float* m;  // [n_splits][n_kv_heads][n_rows][group]: largest score, natural log units
  float* l;  // the same shape: sum of exp(s - m)
};

/// Merges n_splits partials of every query, in order, and divides: out is what the output
/// projection reads. A query with no position at all gives zeros.
struct DeviceMergeArgs {
  const float* o;
  const float* m;
  const float* l;   // as DeviceAttendArgs wrote them
  float* out;       // [n_rows, n_kv_heads * group * head_dim]
  QuantRows quant;  // of out
  uint32_t n_splits;
  uint32_t n_rows;
  uint32_t n_kv_heads;
  uint32_t group;
  uint32_t head_dim;
};

inline constexpr uint32_t kDevicePrefillHeadDimMax = 256;

/// Causal attention of a chunk (many rows of one sequence) over its table, the chunk's own blocks
/// included, by the tensor cores: out is what the output projection reads. Fields as in
/// DeviceAttendArgs; head_dim is at most kDevicePrefillHeadDimMax.
struct DevicePrefillArgs {
  const float* q;
  const uint32_t* positions;
  const std::byte* const* blocks;
  uint64_t block_stride;
  uint32_t first_block;
  uint32_t n_blocks;
  KvLayout layout;
  uint32_t n_rows;
  uint32_t n_kv_heads;
  uint32_t group;
  uint32_t window;
  float* out;       // [n_rows, n_kv_heads * group * head_dim]
  QuantRows quant;  // of out; wants a width that is a multiple of 32
  // Short chunks leave multiprocessors idle: then what a tile of queries attends is cut into
  // n_splits runs, whose partials are merged. device_prefill_splits() counts them.
  uint32_t n_splits = 1;
  std::byte* scratch = nullptr;  // device_prefill_scratch_bytes(), 256-byte aligned
};

enum class DeviceActivation : uint8_t { kSiluMul, kGeluMul };

/// out = act(gate) * up. `out` may be `gate`.
struct DeviceActivateArgs {
  const float* gate;  // [n_rows, n]
  const float* up;
  float* out;
  QuantRows quant;  // of out
  uint32_t n_rows;
  uint32_t n;  // a multiple of 4; of 32 where the int8 form is wanted
  DeviceActivation kind;
};

/// The largest value of each row and where it stands (the first of equals).
struct DeviceArgmaxArgs {
  const float* x;  // [n_rows, n]
  uint32_t n_rows;
  uint32_t n;
  float* value;    // [n_rows]
  int32_t* index;  // [n_rows]
};

/// Copies n blocks: to[i] from from[i]. The lists and either end may lie in pinned host memory.
/// Why: thousands of blocks move in one launch, where a copy each would cost more than its bytes.
struct DeviceCopyBlocksArgs {
  const std::byte* const* from;  // [n_blocks], 16-byte aligned blocks
  std::byte* const* to;
  uint32_t n_blocks;
  uint32_t block_bytes;  // a multiple of 16
};

/// words[index[i]] = value[i]: entries of a table that changed, in one launch. The lists may lie in
/// pinned host memory; an index that stands twice has the same value.
struct DeviceSetWordsArgs {
  uint64_t* words;
  const uint32_t* index;  // [n]
  const uint64_t* value;  // [n]
  uint32_t n;
};

inline constexpr uint32_t kDeviceScanHeadDimMax = 256;

/// Columns of the tensor cores' products in a scan, queries that have a key's (up to head_dim 64
/// half of the columns are another key's), those of a pass over the tiles, and dimensions: of fewer
/// the rest are zeros, of more queries the tiles pass again.
inline constexpr uint32_t kDeviceScanColumns = 8;
constexpr uint32_t device_scan_tile(uint32_t head_dim) {
  return head_dim <= 64 ? kDeviceScanColumns / 2 : kDeviceScanColumns;
}
constexpr uint32_t device_scan_pass(uint32_t head_dim, uint32_t n_queries) {
  const uint32_t tile = device_scan_tile(head_dim);
  return n_queries <= tile ? tile : 2 * tile;
}
constexpr uint32_t device_scan_dims(uint32_t head_dim) {
  return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}

/// What the queries of every KV head ask of tiles of rotated codes (base/index_kernels.h): queries
/// are rotated and rounded as RabitqQueryArgs has it, to the same bits, and a block's score is
/// ln(sum exp) of its 32 products, exact but for f32, and +infinity where it, or a product in bits
/// (1 / ln 2 of a nat), is not finite. All bytes are valid tiles. These are 64-byte aligned; they,
/// and the list of them, may lie in pinned host memory. head_dim is a multiple of 8, at most
/// kDeviceScanHeadDimMax.
struct DeviceScanArgs {
  const float* q;  // as DeviceRotateArgs::q_out: [n_kv_heads][n_queries][head_dim]
  // [n_kv_heads, tile_stride], rabitq_tile_bytes(head_dim) each; of each head n_tiles, none null.
  const std::byte* const* tiles;
  uint64_t tile_stride;
  uint32_t n_tiles;  // of each KV head
  uint32_t head_dim;
  uint32_t n_kv_heads;
  uint32_t n_queries;  // of each KV head, at most kDeviceFewRows * kDeviceGroupMax
  // [n_kv_heads, n_queries, score_stride]: kExtentBlocks per tile are written. Device memory, or
  // pinned host memory.
  float* block_scores;
  uint64_t score_stride;
  uint32_t n_warps = 2048;  // that the tiles are spread over, but at most 8 tiles to each
};

/// Rows to their int8 form.
struct DeviceQuantizeArgs {
  const float* x;  // [n_rows, n]
  QuantRows out;
  uint32_t n_rows;
  uint32_t n;
};

/// What a device computes. Each call queues on `stream` and returns 0 or the device's error number.
struct DeviceKernels {
  int (*embed)(DeviceStream* stream, const DeviceEmbedArgs& args);
  int (*norm)(DeviceStream* stream, const DeviceNormArgs& args);
  int (*quantize)(DeviceStream* stream, const DeviceQuantizeArgs& args);
  int (*linear)(DeviceStream* stream, const DeviceLinearArgs& args);
  int (*rotate)(DeviceStream* stream, const DeviceRotateArgs& args);
  int (*attend)(DeviceStream* stream, const DeviceAttendArgs& args);
  int (*merge)(DeviceStream* stream, const DeviceMergeArgs& args);
  int (*prefill)(DeviceStream* stream, const DevicePrefillArgs& args);
  int (*activate)(DeviceStream* stream, const DeviceActivateArgs& args);
  int (*argmax)(DeviceStream* stream, const DeviceArgmaxArgs& args);
  int (*copy_blocks)(DeviceStream* stream, const DeviceCopyBlocksArgs& args);
  int (*set_words)(DeviceStream* stream, const DeviceSetWordsArgs& args);
  int (*scan_codes)(DeviceStream* stream, const DeviceScanArgs& args);
};

/// Outputs whose weights are in scratch as f16 at a time: a vocabulary is multiplied in parts.
inline constexpr uint32_t kDeviceLinearPart = 16384;

/// Bytes of scratch that DeviceLinearArgs wants for n_rows rows of the widest of its matrices: the
/// rows and one part of a matrix in f16, and a scale per row.
constexpr uint64_t device_linear_scratch_bytes(uint32_t n_rows, uint32_t n_in, uint32_t n_out) {
  if (n_rows <= kDeviceFewRows) return 0;
  const uint64_t rows = (uint64_t{n_rows} * n_in * 2 + 255) / 256 * 256;
  const uint64_t scales = (uint64_t{n_rows} * 4 + 255) / 256 * 256;
  const uint64_t panels = (uint64_t{n_out} + kPanelRows - 1) / kPanelRows * kPanelRows;
  const uint64_t part = panels < kDeviceLinearPart ? panels : kDeviceLinearPart;
  return rows + scales + part * n_in * 2;
}

/// Queries (row, head of the group) that one thread block of prefill attends for.
constexpr uint32_t device_prefill_tile(uint32_t head_dim) { return head_dim <= 128 ? 128 : 64; }

/// Splits of prefill: tiles times splits go by in waves of two blocks per multiprocessor, and as
/// few splits are made as fill the waves nearly as well as any number to 8 does, for each has its
/// partials in scratch. A split has 256 positions at least. `n_blocks` is what a tile attends: of a
/// window its blocks alone. More blocks never give fewer splits.
constexpr uint32_t device_prefill_splits(uint32_t n_rows, uint32_t n_kv_heads, uint32_t group,
                                         uint32_t head_dim, uint32_t n_blocks,
                                         uint32_t n_multiprocessors) {
  const uint64_t tile = device_prefill_tile(head_dim);
  const uint64_t n_tiles = (uint64_t{n_rows} * group + tile - 1) / tile * n_kv_heads;
  const uint64_t slots = n_multiprocessors < 1 ? 2 : uint64_t{n_multiprocessors} * 2;
  const uint32_t longest = n_blocks / 8 < 1 ? 1 : n_blocks / 8 < 8 ? n_blocks / 8 : 8;
  const auto fill = [&](uint32_t n_splits) {
    const uint64_t n_waves = (n_tiles * n_splits + slots - 1) / slots;
    return static_cast<double>(n_tiles * n_splits) / static_cast<double>(n_waves * slots);
  };
  double best = 0;
  for (uint32_t n_splits = 1; n_splits <= longest; ++n_splits)
    best = fill(n_splits) > best ? fill(n_splits) : best;
  uint32_t n_splits = 1;
  while (fill(n_splits) < 0.85 * best) ++n_splits;
  return n_splits;
}

constexpr uint64_t device_prefill_scratch_bytes(uint32_t n_splits, uint32_t n_rows,
                                                uint32_t n_kv_heads, uint32_t group,
                                                uint32_t head_dim) {
  if (n_splits <= 1) return 0;
  return uint64_t{n_splits} * n_kv_heads * n_rows * group * (uint64_t{head_dim} + 2) * 4;
}

}  // namespace strata

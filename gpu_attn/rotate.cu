// gpu_attn/rotate.cu - from the projections q, k, v to what attention reads: biases, QK-norm, RoPE;
// q scaled and by KV head, K and V into their blocks.
//
// Formula  x = x + bias; x = x / rms(x) norm (over a head); (a, b) -> (a c - b s, a s + b c);
//          q times q_scale. K and V by base/kv_layout.h as cpu_attn/attend_store.inc stores them:
//          f16 to nearest even; q8_0 per 32 dimensions scale = f16(max|x| / 127), one f16 up where
//          that leaves max|x| more than half a step outside, q = x / scale to nearest even
// Shapes   base/device_kernels.h; head_dim any multiple of 8 (of 32 where a codec is q8_0)
// Threads  a warp per head of a row of q and of v; of K a warp per head and kTile rows. Lane l owns
//          dimensions l, 32 + l, ..: a q8_0 group is the warp at one step. Heads of 64, 128 and 256
//          that are rotated whole or not at all lie in registers (kSteps), with their angles: all
//          loads of a warp are under way at once. Of other shapes each dimension is read when its
//          turn comes, and its partner again
// K        is dimension-major: a row is a column of 2-byte (1-byte) elements 64 (32) bytes apart,
//          each its own sector. From kManyRows rows a warp takes eight neighbouring positions of a
//          head and stores 16 (8) bytes per dimension where they are whole; elements are never read
//          back, so that rows that share a sector do not meet. Rows before and after the chunk are
//          read as its first and last ones: a branch per row would make loads wait for each other
// Bytes    rotate_bytes(args) of gpu_attn/row_bytes.h
// Numbers  sums of squares: head_dim / 32 fused adds per lane, then a tree; rsqrtf (2 ulp)
// Lost     each load when its turn comes, tiles of eight rows with a branch per row: on an H200
//          (November 2026) one row of the 8B shape 3.8 us (f16), 512 rows 33 us; what is here
//          was not timed on a card yet
#include "base/check.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/row_quant.cuh"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kManyRows = 16;  // from here K is stored by tiles
constexpr uint32_t kTileRows = 8;   // 16 bytes of f16

/// What all rows share of a dimension of a head.
struct Dimension {
  uint32_t at;
  uint32_t partner;  // the other of its pair
  uint32_t pair;
  bool is_rotated;
  bool is_second;  // of its pair
  float bias, norm;
  float partner_bias, partner_norm;
};

/// `bias` [head_dim] of this head and `norm` [head_dim], each null where there is none.
__device__ __forceinline__ Dimension dimension_of(const DeviceRotateArgs& args, const float* bias,
                                                  const float* norm, uint32_t d) {
  const uint32_t half = args.n_rot / 2;
  const bool is_adjacent = args.pairing == RopePairing::kAdjacent;
  const uint32_t step = is_adjacent ? 1 : half;
  Dimension of;
  of.at = d;
  of.is_rotated = args.cos_sin != nullptr && d < args.n_rot;
  of.is_second = is_adjacent ? d % 2 == 1 : d >= half;
  of.partner = !of.is_rotated ? d : of.is_second ? d - step : d + step;
  of.pair = is_adjacent ? d / 2 : of.is_second ? d - half : d;
  of.bias = bias == nullptr ? 0.0f : bias[d];
  of.norm = norm == nullptr ? 1.0f : norm[d];
  of.partner_bias = bias == nullptr ? 0.0f : bias[of.partner];
  of.partner_norm = norm == nullptr ? 1.0f : norm[of.partner];
  return of;
}

/// One head of one row, and what it is changed by; each null where there is none.
struct HeadRow {
  const float* x;        // [head_dim]
  const float* bias;     // [head_dim]
  const float* norm;     // [head_dim]
  const float2* angles;  // [n_rot / 2]
};

__device__ __forceinline__ HeadRow head_row(const DeviceRotateArgs& args, const float* x,
                                            uint32_t n_heads, const float* bias, const float* norm,
                                            bool is_rotated, uint32_t row, uint32_t head) {
  const uint32_t head_dim = args.layout.head_dim;
  HeadRow of;
  of.x = x + (uint64_t{row} * n_heads + head) * head_dim;
  of.bias = bias == nullptr ? nullptr : bias + head * head_dim;
  of.norm = norm;
  of.angles =
      !is_rotated || args.cos_sin == nullptr
          ? nullptr
          : reinterpret_cast<const float2*>(args.cos_sin) + uint64_t{row} * (args.n_rot / 2);
  return of;
}

/// Dimension `of` of the head, rotated; `factor` is the norm's.
__device__ __forceinline__ float rotated(const HeadRow& head, const Dimension& of, float factor) {
  const float own = (head.x[of.at] + of.bias) * factor * of.norm;
  if (!of.is_rotated) return own;
  const float other = (head.x[of.partner] + of.partner_bias) * factor * of.partner_norm;
  const float2 angle = head.angles[of.pair];
  return of.is_second ? fmaf(other, angle.y, own * angle.x)
                      : fmaf(own, angle.x, -(other * angle.y));
}

/// 1 / rms of the head x + bias; 1 where there is no norm. The whole warp calls it.
__device__ __forceinline__ float head_factor(const DeviceRotateArgs& args, const HeadRow& head) {
  if (head.norm == nullptr) return 1.0f;
  float squares = 0.0f;
  for (uint32_t d = threadIdx.x % 32; d < args.layout.head_dim; d += 32) {
    const float value = head.x[d] + (head.bias == nullptr ? 0.0f : head.bias[d]);
    squares = fmaf(value, value, squares);
  }
  return rsqrtf(warp_sum(squares) / static_cast<float>(args.layout.head_dim) + args.norm_eps);
}

/// A lane's part of a head of kSteps * 32 dimensions.
template <uint32_t kSteps>
struct HeadValues {
  float x[kSteps];
  float2 angle[kSteps];  // that turns x
};

/// Asks for all of it.
template <uint32_t kSteps>
__device__ __forceinline__ HeadValues<kSteps> load_head(const DeviceRotateArgs& args,
                                                        const HeadRow& head) {
  const uint32_t lane = threadIdx.x % 32;
  HeadValues<kSteps> of;
#pragma unroll
  for (uint32_t j = 0; j < kSteps; ++j) {
    of.x[j] = head.x[j * 32 + lane];
    of.angle[j] = make_float2(1.0f, 0.0f);
  }
  if (head.angles == nullptr) return of;
  if (args.pairing == RopePairing::kHalves) {
#pragma unroll
    for (uint32_t j = 0; j < kSteps / 2; ++j)
      of.angle[j] = of.angle[j + kSteps / 2] = head.angles[j * 32 + lane];
  } else {
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) of.angle[j] = head.angles[j * 16 + lane / 2];
  }
  return of;
}

/// Bias, norm and rotation. The whole warp calls it.
template <uint32_t kSteps>
__device__ __forceinline__ void turn_head(const DeviceRotateArgs& args, const HeadRow& head,
                                          HeadValues<kSteps>& of) {
  const uint32_t lane = threadIdx.x % 32;
  if (head.bias != nullptr) {
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) of.x[j] += head.bias[j * 32 + lane];
  }
  if (head.norm != nullptr) {
    float squares = 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) squares = fmaf(of.x[j], of.x[j], squares);
    const float factor =
        rsqrtf(warp_sum(squares) / static_cast<float>(kSteps * 32) + args.norm_eps);
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) of.x[j] = of.x[j] * factor * head.norm[j * 32 + lane];
  }
  if (head.angles == nullptr) return;
  if (args.pairing == RopePairing::kHalves) {
#pragma unroll
    for (uint32_t j = 0; j < kSteps / 2; ++j) {
      const float a = of.x[j], b = of.x[j + kSteps / 2];
      of.x[j] = fmaf(a, of.angle[j].x, -(b * of.angle[j].y));
      of.x[j + kSteps / 2] = fmaf(a, of.angle[j].y, b * of.angle[j].x);
    }
  } else {
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) {
      const float own = of.x[j];
      const float other = __shfl_xor_sync(kFullMask, own, 1);
      of.x[j] = lane % 2 == 1 ? fmaf(other, of.angle[j].y, own * of.angle[j].x)
                              : fmaf(own, of.angle[j].x, -(other * of.angle[j].y));
    }
  }
}

/// Where a position's rows go: its block, and the same place of its mirror where there is one.
struct Home {
  std::byte* block;
  std::byte* mirror;

  template <class T>
  __device__ __forceinline__ void store(uint32_t offset, T value) const {
    *reinterpret_cast<T*>(block + offset) = value;
    if (mirror != nullptr) *reinterpret_cast<T*>(mirror + offset) = value;
  }
};

__device__ __forceinline__ Home home_of(const DeviceRotateArgs& args, uint32_t head,
                                        uint32_t position) {
  const uint64_t at = head * args.block_stride + position / kBlockPositions - args.first_block;
  return {args.blocks[at], args.mirror == nullptr ? nullptr : args.mirror[at]};
}

/// A q8_0 code and its group's scale.
struct Code {
  uint32_t byte;
  uint16_t scale;
};

/// Of the warp's 32 values. A NaN counts as 0 in the scale and gives -127, as on the CPU.
__device__ __forceinline__ Code code_of(float x) {
  const uint32_t magnitude = x == x ? float_to_bits(x) & kMagnitudeBits : 0;
  const float largest = bits_to_float(__reduce_max_sync(kFullMask, magnitude));
  uint16_t scale = float_to_f16(largest / 127.0f);
  if (f16_to_float(scale) * 127.5f < largest) ++scale;
  const float step = f16_to_float(scale);
  float q = step > 0.0f ? x / step : 0.0f;
  q = q > 127.0f ? 127.0f : q;
  q = q > -127.0f ? q : -127.0f;  // also for NaN
  return {float_to_bits(q + kRoundToInt) & 0xffu, scale};
}

// kSteps of what follows: head_dim / 32 where the head is kept in registers, else 0.

template <uint32_t kSteps>
__device__ __forceinline__ void rotate_q(const DeviceRotateArgs& args, uint32_t row,
                                         uint32_t head) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t head_dim = args.layout.head_dim;
  const uint32_t kv_head = head / args.group;
  const HeadRow of = head_row(args, args.q, args.n_kv_heads * args.group, args.q_bias, args.q_norm,
                              true, row, head);
  const uint64_t query = (uint64_t{kv_head} * args.n_rows + row) * args.group;
  float* out = args.q_out + (query + head - kv_head * args.group) * head_dim;
  if constexpr (kSteps > 0) {
    HeadValues<kSteps> values = load_head<kSteps>(args, of);
    turn_head(args, of, values);
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) out[j * 32 + lane] = values.x[j] * args.q_scale;
  } else {
    const float factor = head_factor(args, of);
    for (uint32_t d = lane; d < head_dim; d += 32)
      out[d] = rotated(of, dimension_of(args, of.bias, of.norm, d), factor) * args.q_scale;
  }
}

/// Dimension d of a row of V, 32 neighbouring ones in the warp where it is q8_0.
__device__ __forceinline__ void store_v_value(const DeviceRotateArgs& args, const Home& home,
                                              uint32_t at, uint32_t d, float value) {
  const uint32_t element = at * args.layout.head_dim + d;
  if (args.layout.v_codec == KvCodec::kF16)
    return home.store(args.layout.v_offset + element * 2, float_to_f16(value));
  const Code code = code_of(value);
  home.store(args.layout.v_offset + element, static_cast<uint8_t>(code.byte));
  if (threadIdx.x % 32 == 0)
    home.store(args.layout.v_scales_offset + (d / kScaleGroup * kBlockPositions + at) * 2,
               code.scale);
}

template <uint32_t kSteps>
__device__ __forceinline__ void store_v(const DeviceRotateArgs& args, uint32_t row, uint32_t head) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t position = args.positions[row];
  const uint32_t at = position % kBlockPositions;
  const HeadRow of =
      head_row(args, args.v, args.n_kv_heads, args.v_bias, nullptr, false, row, head);
  if constexpr (kSteps > 0) {
    HeadValues<kSteps> values = load_head<kSteps>(args, of);
    const Home home = home_of(args, head, position);
    turn_head(args, of, values);
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) store_v_value(args, home, at, j * 32 + lane, values.x[j]);
  } else {
    const Home home = home_of(args, head, position);
    for (uint32_t d = lane; d < args.layout.head_dim; d += 32)
      store_v_value(args, home, at, d, of.bias == nullptr ? of.x[d] : of.x[d] + of.bias[d]);
  }
}

/// Rows [first, first + kTile) of one head of K; those before and after the chunk are not real.
template <uint32_t kTile>
struct KTile {
  int64_t first;
  uint32_t head;
  uint32_t position[kTile];
  uint32_t real;  // bit r: row first + r
  // Neighbouring positions from a multiple of kTile on: they lie side by side in one block.
  bool is_whole;
  Home home;  // where whole, or of a single row

  __device__ __forceinline__ bool is_real(uint32_t r) const { return (real >> r & 1) != 0; }
  /// The row to read: a real one.
  __device__ __forceinline__ uint32_t row(const DeviceRotateArgs& args, uint32_t r) const {
    const int64_t row = first + r;
    return row < 0 ? 0 : row < args.n_rows ? static_cast<uint32_t>(row) : args.n_rows - 1;
  }
};

/// Tiles begin where positions are multiples of kTile, as far as positions ascend by one.
template <uint32_t kTile>
__device__ __forceinline__ KTile<kTile> k_tile(const DeviceRotateArgs& args, uint32_t tile_idx,
                                               uint32_t head) {
  KTile<kTile> tile;
  tile.first = static_cast<int64_t>(tile_idx) * kTile;
  if constexpr (kTile > 1) tile.first -= args.positions[0] % kTile;
  tile.head = head;
  tile.real = 0;
  bool are_neighbours = true;
#pragma unroll
  for (uint32_t r = 0; r < kTile; ++r) {
    const int64_t row = tile.first + r;
    if (row >= 0 && row < args.n_rows) tile.real |= 1u << r;
    tile.position[r] = args.positions[tile.row(args, r)];
  }
#pragma unroll
  for (uint32_t r = 1; r < kTile; ++r)
    are_neighbours = are_neighbours && tile.position[r] == tile.position[0] + r;
  tile.is_whole = are_neighbours && tile.real == (1u << kTile) - 1 && tile.position[0] % kTile == 0;
  tile.home = home_of(args, head, tile.position[0]);
  return tile;
}

/// Dimension d of the tile's rows.
template <uint32_t kTile>
__device__ __forceinline__ void store_k_f16(const DeviceRotateArgs& args, const KTile<kTile>& tile,
                                            uint32_t d, const float (&value)[kTile]) {
  if constexpr (kTile == kTileRows) {
    if (tile.is_whole)
      return tile.home.store(
          (d * kBlockPositions + tile.position[0] % kBlockPositions) * 2,
          make_uint4(floats_to_f16x2(value[0], value[1]), floats_to_f16x2(value[2], value[3]),
                     floats_to_f16x2(value[4], value[5]), floats_to_f16x2(value[6], value[7])));
  }
#pragma unroll
  for (uint32_t r = 0; r < kTile; ++r) {
    if (!tile.is_real(r)) continue;
    const Home home = kTile == 1 ? tile.home : home_of(args, tile.head, tile.position[r]);
    home.store((d * kBlockPositions + tile.position[r] % kBlockPositions) * 2,
               float_to_f16(value[r]));
  }
}

/// Eight codes of one dimension, and of lane 0 their scales.
__device__ __forceinline__ void store_codes(const Home& home, uint32_t codes_at, uint32_t scales_at,
                                            const Code (&code)[kTileRows]) {
  uint32_t bytes[2] = {0, 0};
  uint32_t halves[4];
#pragma unroll
  for (uint32_t r = 0; r < kTileRows; ++r) bytes[r / 4] |= code[r].byte << (r % 4 * 8);
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i)
    halves[i] = code[2 * i].scale | static_cast<uint32_t>(code[2 * i + 1].scale) << 16;
  home.store(codes_at, make_uint2(bytes[0], bytes[1]));
  if (threadIdx.x % 32 == 0)
    home.store(scales_at, make_uint4(halves[0], halves[1], halves[2], halves[3]));
}

/// Dimension d of the tile's rows, 32 neighbouring ones in the warp.
template <uint32_t kTile>
__device__ __forceinline__ void store_k_q8(const DeviceRotateArgs& args, const KTile<kTile>& tile,
                                           uint32_t d, const float (&value)[kTile]) {
  Code code[kTile];
#pragma unroll
  for (uint32_t r = 0; r < kTile; ++r) code[r] = code_of(value[r]);
  const uint32_t codes_at = d * kBlockPositions;
  const uint32_t scales_at = args.layout.k_scales_offset + d / kScaleGroup * kBlockPositions * 2;
  if constexpr (kTile == kTileRows) {
    const uint32_t at = tile.position[0] % kBlockPositions;
    if (tile.is_whole) return store_codes(tile.home, codes_at + at, scales_at + at * 2, code);
  }
#pragma unroll
  for (uint32_t r = 0; r < kTile; ++r) {
    if (!tile.is_real(r)) continue;
    const uint32_t at = tile.position[r] % kBlockPositions;
    const Home home = kTile == 1 ? tile.home : home_of(args, tile.head, tile.position[r]);
    home.store(codes_at + at, static_cast<uint8_t>(code[r].byte));
    if (threadIdx.x % 32 == 0) home.store(scales_at + at * 2, code[r].scale);
  }
}

template <uint32_t kTile>
__device__ __forceinline__ void store_k_values(const DeviceRotateArgs& args,
                                               const KTile<kTile>& tile, uint32_t d,
                                               const float (&value)[kTile]) {
  if (args.layout.k_codec == KvCodec::kF16)
    store_k_f16(args, tile, d, value);
  else
    store_k_q8(args, tile, d, value);
}

template <uint32_t kTile, uint32_t kSteps>
__device__ __forceinline__ void store_k(const DeviceRotateArgs& args, uint32_t tile_idx,
                                        uint32_t head) {
  const uint32_t lane = threadIdx.x % 32;
  const KTile<kTile> tile = k_tile<kTile>(args, tile_idx, head);
  HeadRow rows[kTile];
#pragma unroll
  for (uint32_t r = 0; r < kTile; ++r)
    rows[r] = head_row(args, args.k, args.n_kv_heads, args.k_bias, args.k_norm, true,
                       tile.row(args, r), head);
  float value[kTile];
  if constexpr (kSteps > 0) {
    HeadValues<kSteps> of[kTile];
#pragma unroll
    for (uint32_t r = 0; r < kTile; ++r) of[r] = load_head<kSteps>(args, rows[r]);
#pragma unroll
    for (uint32_t r = 0; r < kTile; ++r) turn_head(args, rows[r], of[r]);
#pragma unroll
    for (uint32_t j = 0; j < kSteps; ++j) {
#pragma unroll
      for (uint32_t r = 0; r < kTile; ++r) value[r] = of[r].x[j];
      store_k_values(args, tile, j * 32 + lane, value);
    }
  } else {
    float factor[kTile];
#pragma unroll
    for (uint32_t r = 0; r < kTile; ++r) factor[r] = head_factor(args, rows[r]);
    for (uint32_t d = lane; d < args.layout.head_dim; d += 32) {
      const Dimension of = dimension_of(args, rows[0].bias, rows[0].norm, d);
#pragma unroll
      for (uint32_t r = 0; r < kTile; ++r) value[r] = rotated(rows[r], of, factor[r]);
      store_k_values(args, tile, d, value);
    }
  }
}

struct RotateArgs {
  DeviceRotateArgs of;
  uint32_t n_k_items;  // 0: K is stored by tiles
};

template <uint32_t kSteps>
__global__ void __launch_bounds__(kWarps * 32) rotate_rows(const RotateArgs args) {
  uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
  const uint32_t n_kv_heads = args.of.n_kv_heads;
  const uint32_t n_heads = n_kv_heads * args.of.group;
  if (item < args.n_k_items)
    return store_k<1, kSteps>(args.of, item / n_kv_heads, item % n_kv_heads);
  item -= args.n_k_items;
  if (item < args.of.n_rows * n_kv_heads)
    return store_v<kSteps>(args.of, item / n_kv_heads, item % n_kv_heads);
  item -= args.of.n_rows * n_kv_heads;
  if (item < args.of.n_rows * n_heads) rotate_q<kSteps>(args.of, item / n_heads, item % n_heads);
}

/// In a launch of its own, for it takes several times the registers.
template <uint32_t kSteps>
__global__ void __launch_bounds__(kWarps * 32) store_k_tiles(const RotateArgs args) {
  const uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
  if (item < args.n_k_items)
    store_k<kTileRows, kSteps>(args.of, item / args.of.n_kv_heads, item % args.of.n_kv_heads);
}

using RotateKernel = void (*)(RotateArgs);

/// head_dim / 32 where a kernel keeps such heads in registers, else 0.
uint32_t steps_of(const DeviceRotateArgs& args) {
  const uint32_t head_dim = args.layout.head_dim;
  const bool is_whole = args.cos_sin == nullptr || args.n_rot == head_dim;
  return is_whole && (head_dim == 64 || head_dim == 128 || head_dim == 256) ? head_dim / 32 : 0;
}

RotateKernel rows_kernel(uint32_t steps) {
  return steps == 2   ? rotate_rows<2>
         : steps == 4 ? rotate_rows<4>
         : steps == 8 ? rotate_rows<8>
                      : rotate_rows<0>;
}

RotateKernel tiles_kernel(uint32_t steps) {  // eight rows of 256 are too many registers
  return steps == 2 ? store_k_tiles<2> : steps == 4 ? store_k_tiles<4> : store_k_tiles<0>;
}

dim3 grid_of(uint64_t n_items) {
  return dim3(static_cast<uint32_t>((n_items + kWarps - 1) / kWarps));
}

}  // namespace

int rotate(DeviceStream* stream, const DeviceRotateArgs& args) {
  const KvLayout& layout = args.layout;
  const uint32_t grain =
      layout.k_codec == KvCodec::kF16 && layout.v_codec == KvCodec::kF16 ? 8 : 32;
  STRATA_CHECK(args.n_rows >= 1 && args.n_kv_heads >= 1 && args.group >= 1,
               "n_rows=%u n_kv_heads=%u group=%u", args.n_rows, args.n_kv_heads, args.group);
  STRATA_CHECK(layout.head_dim >= grain && layout.head_dim % grain == 0, "head_dim=%u",
               layout.head_dim);
  STRATA_CHECK(args.cos_sin == nullptr || (args.n_rot % 2 == 0 && args.n_rot <= layout.head_dim),
               "n_rot=%u head_dim=%u", args.n_rot, layout.head_dim);
  const uint64_t n_rows = args.n_rows;
  const uint64_t n_qv = n_rows * args.n_kv_heads * (args.group + 1);
  const uint64_t n_k = n_rows * args.n_kv_heads;
  STRATA_CHECK(n_qv + n_k < (uint64_t{1} << 31), "n_rows=%u", args.n_rows);
  const dim3 block(kWarps * 32);
  const uint32_t steps = steps_of(args);
  if (args.n_rows < kManyRows)
    return launch(rows_kernel(steps), grid_of(n_k + n_qv), block, 0, stream->handle,
                  RotateArgs{args, static_cast<uint32_t>(n_k)});
  // Enough wherever the first tile begins.
  const uint64_t n_tiles = (n_rows + 2 * (kTileRows - 1)) / kTileRows * args.n_kv_heads;
  const int error = launch(tiles_kernel(steps), grid_of(n_tiles), block, 0, stream->handle,
                           RotateArgs{args, static_cast<uint32_t>(n_tiles)});
  if (error != 0) return error;
  return launch(rows_kernel(steps), grid_of(n_qv), block, 0, stream->handle, RotateArgs{args, 0});
}

}  // namespace strata::gpu_attn

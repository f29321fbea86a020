// gpu_attn/rotate.cu - from the projections q, k, v to what attention reads: biases, QK-norm, RoPE;
// q scaled and by KV head, K and V into their blocks.
//
// Formula  x = x + bias; x = x / rms(x) norm (over a head); (a, b) -> (a c - b s, a s + b c);
//          q times q_scale. K and V by base/kv_layout.h as cpu_attn/attend_store.inc stores them:
//          f16 to nearest even; q8_0 per 32 dimensions scale = f16(max|x| / 127), one f16 up where
//          that leaves max|x| more than half a step outside, q = x / scale to nearest even
// Shapes   base/device_kernels.h; head_dim any multiple of 8 (of 32 where a codec is q8_0)
// Threads  a warp per head of a row of q and of v; of K a warp per head and kTile rows. Lane l owns
//          dimensions l, 32 + l, ..: a q8_0 group is the warp at one step. The partner of a
//          rotation is computed again rather than exchanged, so that nothing is kept
// K        is dimension-major: a row is a column of 2-byte (1-byte) elements 64 (32) bytes apart,
//          each its own sector. From kManyRows rows a warp takes eight neighbouring positions of a
//          head and stores 16 (8) bytes per dimension where they are whole; elements are never read
//          back, so that rows that share a sector do not meet
// Bytes    rotate_bytes(args) of gpu_attn/row_bytes.h
// Numbers  sums of squares: head_dim / 32 fused adds per lane, then a tree; rsqrtf (2 ulp)
// Measured on an H200 (November 2026): one row of the 8B shape 3.8 us (f16), 512 rows 33 us
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

/// Dimension `of` of the head x [head_dim] of row `row`, rotated; `factor` is the norm's.
__device__ __forceinline__ float rotated(const DeviceRotateArgs& args, const Dimension& of,
                                         const float* x, float factor, uint32_t row) {
  const float own = (x[of.at] + of.bias) * factor * of.norm;
  if (!of.is_rotated) return own;
  const float other = (x[of.partner] + of.partner_bias) * factor * of.partner_norm;
  const float2 angle =
      reinterpret_cast<const float2*>(args.cos_sin)[uint64_t{row} * (args.n_rot / 2) + of.pair];
  return of.is_second ? fmaf(other, angle.y, own * angle.x)
                      : fmaf(own, angle.x, -(other * angle.y));
}

/// 1 / rms of the head x + bias; 1 where there is no norm. The whole warp calls it.
__device__ __forceinline__ float head_factor(const DeviceRotateArgs& args, const float* x,
                                             const float* bias, const float* norm) {
  if (norm == nullptr) return 1.0f;
  float squares = 0.0f;
  for (uint32_t d = threadIdx.x % 32; d < args.layout.head_dim; d += 32) {
    const float value = x[d] + (bias == nullptr ? 0.0f : bias[d]);
    squares = fmaf(value, value, squares);
  }
  return rsqrtf(warp_sum(squares) / static_cast<float>(args.layout.head_dim) + args.norm_eps);
}

__device__ __forceinline__ const float* head_part(const float* vector, uint64_t at) {
  return vector == nullptr ? nullptr : vector + at;
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

__device__ __forceinline__ void rotate_q(const DeviceRotateArgs& args, uint32_t row,
                                         uint32_t head) {
  const uint32_t head_dim = args.layout.head_dim;
  const uint32_t kv_head = head / args.group;
  const float* x = args.q + (uint64_t{row} * args.n_kv_heads * args.group + head) * head_dim;
  const float* bias = head_part(args.q_bias, head * head_dim);
  const float factor = head_factor(args, x, bias, args.q_norm);
  float* out = args.q_out + ((uint64_t{kv_head} * args.n_rows + row) * args.group +
                             (head - kv_head * args.group)) *
                                head_dim;
  for (uint32_t d = threadIdx.x % 32; d < head_dim; d += 32)
    out[d] = rotated(args, dimension_of(args, bias, args.q_norm, d), x, factor, row) * args.q_scale;
}

__device__ __forceinline__ void store_v(const DeviceRotateArgs& args, uint32_t row, uint32_t head) {
  const uint32_t head_dim = args.layout.head_dim;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t position = args.positions[row];
  const uint32_t at = position % kBlockPositions;
  const float* x = args.v + (uint64_t{row} * args.n_kv_heads + head) * head_dim;
  const float* bias = head_part(args.v_bias, head * head_dim);
  const Home home = home_of(args, head, position);
  const bool is_f16 = args.layout.v_codec == KvCodec::kF16;
  for (uint32_t d = lane; d < head_dim; d += 32) {
    const float value = bias == nullptr ? x[d] : x[d] + bias[d];
    const uint32_t element = at * head_dim + d;
    if (is_f16) {
      home.store(args.layout.v_offset + element * 2, float_to_f16(value));
      continue;
    }
    const Code code = code_of(value);
    home.store(args.layout.v_offset + element, static_cast<uint8_t>(code.byte));
    if (lane == 0)
      home.store(args.layout.v_scales_offset + (d / 32 * kBlockPositions + at) * 2, code.scale);
  }
}

/// Rows [first, first + kTile) of one head of K; those before and after the chunk are not real.
template <uint32_t kTile>
struct KTile {
  const float* x;  // of row `first`, real or not
  const float* bias;
  int64_t first;
  uint32_t head;
  uint32_t real;  // bit r: row first + r
  // Neighbouring positions from a multiple of kTile on: they lie side by side in one block.
  bool is_whole;
  Home home;    // where whole
  uint32_t at;  // of the first position in it
  float factor[kTile];

  __device__ __forceinline__ bool is_real(uint32_t r) const { return (real >> r & 1) != 0; }
  __device__ __forceinline__ float value(const DeviceRotateArgs& args, const Dimension& of,
                                         uint32_t r) const {
    if (!is_real(r)) return 0.0f;
    return rotated(args, of, x + static_cast<int64_t>(r) * args.n_kv_heads * args.layout.head_dim,
                   factor[r], static_cast<uint32_t>(first + r));
  }
};

/// Tiles begin where positions are multiples of kTile, as far as positions ascend by one.
template <uint32_t kTile>
__device__ __forceinline__ KTile<kTile> k_tile(const DeviceRotateArgs& args, uint32_t tile_idx,
                                               uint32_t head) {
  const uint32_t head_dim = args.layout.head_dim;
  const int64_t stride = static_cast<int64_t>(args.n_kv_heads) * head_dim;
  KTile<kTile> tile;
  tile.first = static_cast<int64_t>(tile_idx) * kTile - args.positions[0] % kTile;
  tile.head = head;
  tile.x = args.k + tile.first * stride + head * head_dim;
  tile.bias = head_part(args.k_bias, head * head_dim);
  tile.real = 0;
  uint32_t first_position = 0;
  bool are_neighbours = true;
#pragma unroll
  for (uint32_t r = 0; r < kTile; ++r) {
    tile.factor[r] = 1.0f;
    const int64_t row = tile.first + r;
    if (row < 0 || row >= args.n_rows) continue;
    tile.real |= 1u << r;
    const uint32_t position = args.positions[row];
    if (r == 0) first_position = position;
    are_neighbours = are_neighbours && position == first_position + r;
    tile.factor[r] = head_factor(args, tile.x + r * stride, tile.bias, args.k_norm);
  }
  tile.is_whole = are_neighbours && tile.real == (1u << kTile) - 1 && first_position % kTile == 0;
  tile.home = {nullptr, nullptr};
  if (tile.is_whole) tile.home = home_of(args, head, first_position);
  tile.at = first_position % kBlockPositions;
  return tile;
}

template <uint32_t kTile>
__device__ __forceinline__ void store_k_f16(const DeviceRotateArgs& args,
                                            const KTile<kTile>& tile) {
  for (uint32_t d = threadIdx.x % 32; d < args.layout.head_dim; d += 32) {
    const Dimension of = dimension_of(args, tile.bias, args.k_norm, d);
    uint32_t half[kTile];
#pragma unroll
    for (uint32_t r = 0; r < kTile; ++r) half[r] = float_to_f16(tile.value(args, of, r));
    if constexpr (kTile == kTileRows) {
      if (tile.is_whole) {
        tile.home.store((d * kBlockPositions + tile.at) * 2,
                        make_uint4(half[0] | half[1] << 16, half[2] | half[3] << 16,
                                   half[4] | half[5] << 16, half[6] | half[7] << 16));
        continue;
      }
    }
#pragma unroll
    for (uint32_t r = 0; r < kTile; ++r) {
      if (!tile.is_real(r)) continue;
      const uint32_t position = args.positions[tile.first + r];
      home_of(args, tile.head, position)
          .store((d * kBlockPositions + position % kBlockPositions) * 2,
                 static_cast<uint16_t>(half[r]));
    }
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

template <uint32_t kTile>
__device__ __forceinline__ void store_k_q8(const DeviceRotateArgs& args, const KTile<kTile>& tile) {
  for (uint32_t d = threadIdx.x % 32; d < args.layout.head_dim; d += 32) {
    const Dimension of = dimension_of(args, tile.bias, args.k_norm, d);
    Code code[kTile];
#pragma unroll
    for (uint32_t r = 0; r < kTile; ++r) code[r] = code_of(tile.value(args, of, r));
    const uint32_t codes_at = d * kBlockPositions;
    const uint32_t scales_at = args.layout.k_scales_offset + d / 32 * kBlockPositions * 2;
    if constexpr (kTile == kTileRows) {
      if (tile.is_whole) {
        store_codes(tile.home, codes_at + tile.at, scales_at + tile.at * 2, code);
        continue;
      }
    }
#pragma unroll
    for (uint32_t r = 0; r < kTile; ++r) {
      if (!tile.is_real(r)) continue;
      const uint32_t position = args.positions[tile.first + r];
      const uint32_t at = position % kBlockPositions;
      const Home home = home_of(args, tile.head, position);
      home.store(codes_at + at, static_cast<uint8_t>(code[r].byte));
      if (threadIdx.x % 32 == 0) home.store(scales_at + at * 2, code[r].scale);
    }
  }
}

template <uint32_t kTile>
__device__ __forceinline__ void store_k(const DeviceRotateArgs& args, uint32_t tile_idx,
                                        uint32_t head) {
  const KTile<kTile> tile = k_tile<kTile>(args, tile_idx, head);
  if (args.layout.k_codec == KvCodec::kF16)
    store_k_f16(args, tile);
  else
    store_k_q8(args, tile);
}

struct RotateArgs {
  DeviceRotateArgs of;
  uint32_t n_k_items;  // 0: K is stored by tiles
};

__global__ void __launch_bounds__(kWarps * 32) rotate_rows(const RotateArgs args) {
  uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
  const uint32_t n_kv_heads = args.of.n_kv_heads;
  const uint32_t n_heads = n_kv_heads * args.of.group;
  if (item < args.n_k_items) return store_k<1>(args.of, item / n_kv_heads, item % n_kv_heads);
  item -= args.n_k_items;
  if (item < args.of.n_rows * n_kv_heads)
    return store_v(args.of, item / n_kv_heads, item % n_kv_heads);
  item -= args.of.n_rows * n_kv_heads;
  if (item < args.of.n_rows * n_heads) rotate_q(args.of, item / n_heads, item % n_heads);
}

/// In a launch of its own, for it takes three times the registers.
__global__ void __launch_bounds__(kWarps * 32) store_k_tiles(const RotateArgs args) {
  const uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
  if (item < args.n_k_items)
    store_k<kTileRows>(args.of, item / args.of.n_kv_heads, item % args.of.n_kv_heads);
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
  if (args.n_rows < kManyRows)
    return launch(rotate_rows, grid_of(n_k + n_qv), block, 0, stream->handle,
                  RotateArgs{args, static_cast<uint32_t>(n_k)});
  // Enough wherever the first tile begins.
  const uint64_t n_tiles = (n_rows + 2 * (kTileRows - 1)) / kTileRows * args.n_kv_heads;
  const int error = launch(store_k_tiles, grid_of(n_tiles), block, 0, stream->handle,
                           RotateArgs{args, static_cast<uint32_t>(n_tiles)});
  if (error != 0) return error;
  return launch(rotate_rows, grid_of(n_qv), block, 0, stream->handle, RotateArgs{args, 0});
}

}  // namespace strata::gpu_attn

// gpu_attn/prefill.cu - causal attention of a chunk of rows by the tensor cores.
//
// Formula   out = softmax(q K^T) V over the positions p - window < i <= p of the table, q times the
//           scale already. A tile's positions go by in steps of 64 (32 for head_dim > 128) with a
//           running reference m, a sum l and an output o (online softmax; FlashAttention-2,
//           Dao 2023, algorithm 1).
// Shapes    A tile is 128 queries (64 for head_dim > 128) in the order (row, head of the group):
//           all of one KV head, so that K and V are read once for the whole group. K lies
//           [head_dim][32] and V [32][head_dim] in shared memory as in their block: both are read
//           by ldmatrix with transposition, nothing is turned around.
// Threads   4 warps; a warp owns 32 queries (16 for head_dim > 128) over all positions: 32 rows
//           read each K and V fragment once for two products, or shared memory (1 fragment per
//           4 clocks) would bound the tensor cores. Lane 4 g + t holds rows g and g + 8 of 16,
//           columns 2t, 2t + 1 of 8. Scores become the left operand of P V in registers.
// Memory    Q, and two stages of K and V filled by cp.async; where a codec is q8_0, one stage in
//           f16 that all threads decode from a raw copy of the blocks, the next copy running
//           beside the products. 16-byte chunks are permuted so that ldmatrix has no conflicts.
//           Head dims between the compiled ones are padded with zeros in shared memory.
// Bytes     prefill_bytes(); arithmetic prefill_flop(): 4 * head_dim per attended pair.
// Numbers   q log2(e), K and V in f16, scores and sums in f32, weights in f16 as 2^(s - m + 7): m
//           follows the largest score only when that has grown by more than 2^8, so that weights
//           stay below 2^15, o is seldom rescaled, and weights down to 2^-21 of the largest are
//           normal f16 numbers. K and V beyond f16 (a q8_0 scale above 515) are infinite here.
#include <cmath>

#include "base/check.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/gpu.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/tensor_tiles.cuh"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kThreads = 32 * kWarps;
constexpr uint32_t kRing = 64;         // blocks whose pointers are at hand
constexpr uint32_t kKeyChunks = 4;     // of a row of K: 32 positions
constexpr float kLog2E = 1.44269504f;  // scores are powers of two
constexpr float kLn2 = 0.693147181f;
constexpr float kSlack = 8.0f;  // how far the largest score may outgrow the reference
constexpr float kLift = 7.0f;   // weights are times 2^7
// Of a step's scores: what nvcc 13.0 makes of 128 dimensions for 12.0 would spill 56 bytes with all
// of them in registers (for 8.0 to 9.0 it needs 255, and spills none; fewer unrolled products or
// copies spill more). The emulator goes by 12.0 here, and by one part where dimensions are others.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 1200
constexpr uint32_t kPartsOfWide = 1;
#else
constexpr uint32_t kPartsOfWide = 2;
#endif

template <uint32_t kPaddedDim, bool kIsDecoding>
struct Shape {
  static constexpr uint32_t kHeadDim = kPaddedDim;
  static constexpr bool kDecodes = kIsDecoding;
  static constexpr uint32_t kRowTiles = kHeadDim <= 128 ? 2 : 1;  // of 16 queries, per warp
  static constexpr uint32_t kTileRows = 16 * kRowTiles * kWarps;
  static constexpr uint32_t kStepBlocks = kHeadDim <= 128 ? 2 : 1;
  static constexpr uint32_t kStep = kStepBlocks * kBlockPositions;
  // Of a step, each of whole blocks, whose scores are there at a time.
  static constexpr uint32_t kParts = kHeadDim == 128 && !kIsDecoding ? kPartsOfWide : 1;
  static constexpr uint32_t kPart = kStep / kParts;
  static constexpr uint32_t kRowChunks = kHeadDim * 2 / kChunk;  // of a row of Q or V
  static constexpr uint32_t kQueryBytes = kTileRows * kHeadDim * 2;
  static constexpr uint32_t kBlockBytes = kBlockPositions * kHeadDim * 2;  // of K or V, in f16
  static constexpr uint32_t kStageBytes = 2 * kStepBlocks * kBlockBytes;
  static_assert(kTileRows == device_prefill_tile(kHeadDim));
};

struct PrefillLaunch {
  DevicePrefillArgs args;
  uint32_t n_tiles;  // of one KV head
  float* o;          // the splits' partials, where there are several
  float* m;
  float* l;
};

/// What a thread block attends. It lies in shared memory: registers are for products.
struct Tile {
  uint32_t head;  // KV head
  uint32_t split;
  uint32_t first;                  // query, counted (row, head of the group)
  uint32_t n_queries;              // all of the KV head's
  uint32_t begin_block;            // of the table
  uint32_t end_block;              // not above begin_block where there is nothing to attend
  uint32_t end_position;           // behind the last that a query of this tile may attend here
  uint32_t table_position;         // of the table's first block
  uint32_t row_ends[kThreads];     // behind the last position that the query may attend
  const std::byte* blocks[kRing];  // block i of the run at i % kRing

  __device__ uint32_t block_position(uint32_t block) const {
    return table_position + block * kBlockPositions;
  }
  /// The last block again behind the end.
  __device__ const std::byte* block(uint32_t i) const {
    return blocks[(min(i, end_block - 1) - begin_block) % kRing];
  }
};
constexpr uint32_t kTileBytes = 1152;  // of shared memory
static_assert(sizeof(Tile) <= kTileBytes && kTileBytes % 128 == 0);

/// Behind the last position that a query may attend; those of padding are as the last.
__device__ __forceinline__ uint32_t end_of(const DevicePrefillArgs& args, uint32_t query) {
  return args.positions[0] + min(query / args.group, args.n_rows - 1) + 1;
}

template <class S>
__device__ __forceinline__ void find_tile(const PrefillLaunch& launch, Tile& tile) {
  const DevicePrefillArgs& args = launch.args;
  tile.split = blockIdx.x % args.n_splits;
  const uint32_t rest = blockIdx.x / args.n_splits;
  tile.head = rest % args.n_kv_heads;
  tile.first = (launch.n_tiles - 1 - rest / args.n_kv_heads) * S::kTileRows;  // heaviest first
  tile.n_queries = args.n_rows * args.group;
  tile.table_position = args.first_block * kBlockPositions;

  const uint32_t low = end_of(args, tile.first);
  const uint32_t high = end_of(args, tile.first + S::kTileRows - 1);
  const uint32_t lowest = args.window != 0 && low > args.window ? low - args.window : 0;
  const uint32_t from = max(lowest / kBlockPositions, args.first_block) - args.first_block;
  const uint32_t to = max((high - 1) / kBlockPositions + 1, args.first_block) - args.first_block;
  const uint32_t end = min(to, args.n_blocks);
  const uint32_t n_steps = end > from ? (end - from + S::kStepBlocks - 1) / S::kStepBlocks : 0;
  const uint32_t run = (n_steps + args.n_splits - 1) / args.n_splits * S::kStepBlocks;
  tile.begin_block = from + tile.split * run;
  tile.end_block = min(tile.begin_block + run, end);
  tile.end_position = min(high, tile.block_position(tile.end_block));
}

/// q log2(e) of the tile as f16, finite; zeros for padding.
template <class S>
__device__ __forceinline__ void load_queries(const PrefillLaunch& launch, const Tile& tile,
                                             unsigned char* queries) {
  const uint32_t head_dim = launch.args.layout.head_dim;
  const float* q = launch.args.q + (uint64_t{tile.head} * tile.n_queries + tile.first) * head_dim;
  for (uint32_t i = threadIdx.x; i < S::kTileRows * S::kRowChunks; i += kThreads) {
    const uint32_t row = i / S::kRowChunks;
    const uint32_t chunk = i % S::kRowChunks;
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (tile.first + row < tile.n_queries && chunk * 8 < head_dim) {
      const auto* from = reinterpret_cast<const float4*>(q + uint64_t{row} * head_dim + chunk * 8);
      const float4 a = from[0];
      const float4 b = from[1];
      packed = make_uint4(floats_to_finite_f16x2(a.x * kLog2E, a.y * kLog2E),
                          floats_to_finite_f16x2(a.z * kLog2E, a.w * kLog2E),
                          floats_to_finite_f16x2(b.x * kLog2E, b.y * kLog2E),
                          floats_to_finite_f16x2(b.z * kLog2E, b.w * kLog2E));
    }
    *reinterpret_cast<uint4*>(queries + permuted<S::kRowChunks>(row, chunk)) = packed;
  }
}

/// The running attention of a warp's queries: lane 4 g + t holds of row g + 8 h of each 16 the
/// columns 8 j + 2 t + e in o[..][j][2 h + e], m and its own share of l in [..][h].
template <class S>
struct Running {
  float o[S::kRowTiles][S::kHeadDim / 8][4];
  float m[S::kRowTiles][2];
  float l[S::kRowTiles][2];
};
template <class S>
using Scores = float[S::kRowTiles][S::kPart / 8][4];
template <class S>
using Weights = uint32_t[S::kRowTiles][S::kPart / 8][2];  // two neighbouring columns of row h

/// Reads the pointers of half a ring of blocks, [from, from + 32) of the tile's run; they can be
/// used after the next barrier.
__device__ __forceinline__ void read_pointers(const DevicePrefillArgs& args, Tile& tile,
                                              uint32_t from) {
  const uint32_t i = from + threadIdx.x;
  if (threadIdx.x < kRing / 2 && i < tile.end_block)
    tile.blocks[(i - tile.begin_block) % kRing] = args.blocks[tile.head * args.block_stride + i];
}

/// Calls body(i) for i = 0 .. n - 1, each by one thread; every trip but the last is all threads'.
template <uint32_t n, class Body>
__device__ __forceinline__ void for_each_chunk(const Body& body) {
  const uint32_t thread = threadIdx.x % kThreads;  // tells the compiler how large it is
#pragma unroll
  for (uint32_t first = 0; first < n; first += kThreads)
    if (first + kThreads <= n || first + thread < n) body(first + thread);
}

/// Copies K and V of a block as they are, all of it real.
template <class S>
__device__ __forceinline__ void stage_whole_block(const KvLayout& layout, const std::byte* block,
                                                  unsigned char* keys, unsigned char* values) {
  for_each_chunk<S::kHeadDim * kKeyChunks>([&](uint32_t i) {
    cp_async16(keys + permuted<kKeyChunks>(i / kKeyChunks, i % kKeyChunks), block + i * kChunk);
  });
  const std::byte* from = block + layout.v_offset;
  for_each_chunk<kBlockPositions * S::kRowChunks>([&](uint32_t i) {
    cp_async16(values + permuted<S::kRowChunks>(i / S::kRowChunks, i % S::kRowChunks),
               from + i * kChunk);
  });
}

/// The same with zeros instead of padding and of the V of positions from n_real on: a weight of
/// zero times what lies there could be NaN.
template <class S>
__device__ __forceinline__ void stage_part_block(const KvLayout& layout, const std::byte* block,
                                                 uint32_t n_real, unsigned char* keys,
                                                 unsigned char* values) {
  const uint32_t row_bytes = layout.head_dim * 2;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < S::kHeadDim * kKeyChunks; i += kThreads)
    cp_async16_or_zero(keys + permuted<kKeyChunks>(i / kKeyChunks, i % kKeyChunks),
                       block + i * kChunk, i / kKeyChunks < layout.head_dim && n_real != 0);
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < kBlockPositions * S::kRowChunks; i += kThreads) {
    const uint32_t row = i / S::kRowChunks;
    const uint32_t chunk = i % S::kRowChunks;
    cp_async16_or_zero(values + permuted<S::kRowChunks>(row, chunk),
                       block + layout.v_offset + row * row_bytes + chunk * kChunk,
                       row < n_real && chunk * kChunk < row_bytes);
  }
}

/// Starts the copies of the step that begins with block `first`, as one group.
template <class S>
__device__ __forceinline__ void stage_step(const DevicePrefillArgs& args, const Tile& tile,
                                           uint32_t first, unsigned char* stage) {
  const KvLayout& layout = args.layout;
  const uint32_t n_real = tile.end_position - tile.block_position(first);
  unsigned char* values = stage + S::kStepBlocks * S::kBlockBytes;
  if (n_real >= S::kStep && layout.head_dim == S::kHeadDim) {
#pragma unroll
    for (uint32_t i = 0; i < S::kStepBlocks; ++i)
      stage_whole_block<S>(layout, tile.block(first + i), stage + i * S::kBlockBytes,
                           values + i * S::kBlockBytes);
  } else {
#pragma unroll 1
    for (uint32_t i = 0; i < S::kStepBlocks; ++i) {
      const uint32_t before = i * kBlockPositions;
      stage_part_block<S>(layout, tile.block(first + i), n_real > before ? n_real - before : 0,
                          stage + i * S::kBlockBytes, values + i * S::kBlockBytes);
    }
  }
  cp_async_commit();
}

/// scores = Q K^T of the warp's rows and the step's positions.
template <class S>
__device__ __forceinline__ void multiply_keys(const unsigned char* queries,
                                              const unsigned char* keys, Scores<S>& scores) {
  const uint32_t warp = threadIdx.x / 32;
  const LaneRows<S::kRowChunks> query_rows(queries +
                                           warp * S::kRowTiles * 16 * S::kRowChunks * kChunk);
  const LaneRows<kKeyChunks> key_rows(keys);
#pragma unroll
  for (uint32_t r = 0; r < S::kRowTiles; ++r)
#pragma unroll
    for (uint32_t j = 0; j < S::kPart / 8; ++j)
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) scores[r][j][e] = 0.0f;
#pragma unroll
  for (uint32_t k = 0; k < S::kHeadDim / 16; ++k) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (uint32_t r = 0; r < S::kRowTiles; ++r) ldmatrix_x4(a[r], query_rows.at(r, k));
#pragma unroll
    for (uint32_t j = 0; j < S::kPart / 8; j += 2) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, key_rows.at(k, j % 4 / 2) + j / 4 * S::kBlockBytes);
      const uint32_t left[2] = {b[0], b[1]};
      const uint32_t right[2] = {b[2], b[3]};
#pragma unroll
      for (uint32_t r = 0; r < S::kRowTiles; ++r) {
        mma_f16(scores[r][j], a[r], left);
        mma_f16(scores[r][j + 1], a[r], right);
      }
    }
  }
}

/// -inf for the positions, from `start` on, that a row does not attend.
template <class S>
__device__ __forceinline__ void mask_scores(const Tile& tile, uint32_t window, uint32_t start,
                                            Scores<S>& scores) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp_row = threadIdx.x / 32 * 16 * S::kRowTiles;
#pragma unroll
  for (uint32_t r = 0; r < S::kRowTiles; ++r)
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      const uint32_t end = tile.row_ends[warp_row + 16 * r + 8 * h + lane / 4];
      const uint32_t begin = window != 0 && end > window ? end - window : 0;
      // Less the lane's first column: differences of either sign.
      const uint32_t first = start + 2 * (lane % 4);
      const auto high = static_cast<int32_t>(min(end, tile.end_position) - first);
      const int32_t low = begin > start ? static_cast<int32_t>(begin - first) : INT32_MIN;
#pragma unroll
      for (uint32_t j = 0; j < S::kPart / 8; ++j)
#pragma unroll
        for (uint32_t e = 0; e < 2; ++e) {
          const auto column = static_cast<int32_t>(8 * j + e);
          if (column < low || column >= high) scores[r][j][2 * h + e] = -INFINITY;
        }
    }
}

/// Moves the reference where the scores have outgrown it: what has been summed shrinks.
template <class S>
__device__ __forceinline__ void follow_largest(const Scores<S>& scores, Running<S>& run) {
  float to[S::kRowTiles][2];
  bool has_grown = false;
#pragma unroll
  for (uint32_t r = 0; r < S::kRowTiles; ++r)
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      float top = -INFINITY;
#pragma unroll
      for (uint32_t j = 0; j < S::kPart / 8; ++j)
        top = fmaxf(top, fmaxf(scores[r][j][2 * h], scores[r][j][2 * h + 1]));
      top = fmaxf(top, __shfl_xor_sync(kFullMask, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kFullMask, top, 2));
      to[r][h] = top > run.m[r][h] + kSlack ? top : run.m[r][h];
      has_grown |= to[r][h] != run.m[r][h];
    }
  if (!__any_sync(kFullMask, has_grown)) return;
#pragma unroll
  for (uint32_t r = 0; r < S::kRowTiles; ++r)
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      // Equal references may be -inf, whose difference is NaN.
      const float factor = to[r][h] == run.m[r][h] ? 1.0f : exp2_approx(run.m[r][h] - to[r][h]);
      run.m[r][h] = to[r][h];
      run.l[r][h] *= factor;
#pragma unroll
      for (uint32_t j = 0; j < S::kHeadDim / 8; ++j) {
        run.o[r][j][2 * h] *= factor;
        run.o[r][j][2 * h + 1] *= factor;
      }
    }
}

/// What 2^(score - base) is taken of: never NaN, also before a row has attended anything.
__device__ __forceinline__ float base_of(float m) { return m == -INFINITY ? 0.0f : m - kLift; }

template <class S>
__device__ __forceinline__ void weigh(const Scores<S>& scores, Running<S>& run,
                                      Weights<S>& weights) {
#pragma unroll
  for (uint32_t r = 0; r < S::kRowTiles; ++r) {
    const float bases[2] = {base_of(run.m[r][0]), base_of(run.m[r][1])};
#pragma unroll
    for (uint32_t j = 0; j < S::kPart / 8; ++j)
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h) {
        const float low = exp2_approx(scores[r][j][2 * h] - bases[h]);
        const float high = exp2_approx(scores[r][j][2 * h + 1] - bases[h]);
        run.l[r][h] += low + high;
        weights[r][j][h] = floats_to_f16x2(low, high);
      }
  }
}

/// o += weights V.
template <class S>
__device__ __forceinline__ void multiply_values(const unsigned char* values,
                                                const Weights<S>& weights, Running<S>& run) {
  const LaneRows<S::kRowChunks> rows(values);
#pragma unroll
  for (uint32_t k = 0; k < S::kPart / 16; ++k) {
#pragma unroll
    for (uint32_t j = 0; j < S::kHeadDim / 8; j += 2) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, rows.at(k, j / 2));
      const uint32_t left[2] = {b[0], b[1]};
      const uint32_t right[2] = {b[2], b[3]};
#pragma unroll
      for (uint32_t r = 0; r < S::kRowTiles; ++r) {
        const uint32_t a[4] = {weights[r][2 * k][0], weights[r][2 * k][1], weights[r][2 * k + 1][0],
                               weights[r][2 * k + 1][1]};
        mma_f16(run.o[r][j], a, left);
        mma_f16(run.o[r][j + 1], a, right);
      }
    }
  }
}

/// The positions of one part of a step, from `start` on.
template <class S>
__device__ __forceinline__ void attend_part(const Tile& tile, uint32_t window, uint32_t start,
                                            const unsigned char* queries, const unsigned char* keys,
                                            const unsigned char* values, Running<S>& run) {
  Scores<S> scores;
  multiply_keys<S>(queries, keys, scores);
  constexpr uint32_t kWarpRows = 16 * S::kRowTiles;
  const uint32_t* ends = tile.row_ends + threadIdx.x / 32 * kWarpRows;
  const bool is_inside = start + S::kPart <= min(ends[0], tile.end_position) &&
                         (window == 0 || ends[kWarpRows - 1] <= start + window);
  if (!is_inside) mask_scores<S>(tile, window, start, scores);
  follow_largest<S>(scores, run);
  Weights<S> weights;
  weigh<S>(scores, run, weights);
  multiply_values<S>(values, weights, run);
}

/// The positions of one step, from `start` on.
template <class S>
__device__ __forceinline__ void attend_step(const Tile& tile, uint32_t window, uint32_t start,
                                            const unsigned char* queries,
                                            const unsigned char* stage, Running<S>& run) {
#pragma unroll
  for (uint32_t i = 0; i < S::kParts; ++i) {
    const unsigned char* keys = stage + i * (S::kStepBlocks / S::kParts * S::kBlockBytes);
    attend_part<S>(tile, window, start + i * S::kPart, queries, keys,
                   keys + S::kStepBlocks * S::kBlockBytes, run);
  }
}

/// Both codecs f16: the blocks' bytes are multiplied as they are.
template <class S>
__device__ __forceinline__ void attend_copied(const PrefillLaunch& launch, Tile& tile,
                                              const unsigned char* queries, unsigned char* stages,
                                              Running<S>& run) {
  const DevicePrefillArgs& args = launch.args;
  if (tile.begin_block < tile.end_block) stage_step<S>(args, tile, tile.begin_block, stages);
  for (uint32_t i = 0; tile.begin_block + i < tile.end_block; i += S::kStepBlocks) {
    const uint32_t block = tile.begin_block + i;
    const uint32_t stage = i / S::kStepBlocks % 2 * S::kStageBytes;
    cp_async_wait<0>();
    __syncthreads();  // the copies are there, and the other stage has been read
    if (i % (kRing / 2) == 0) read_pointers(args, tile, block + kRing / 2);
    if (block + S::kStepBlocks < tile.end_block)
      stage_step<S>(args, tile, block + S::kStepBlocks, stages + (S::kStageBytes - stage));
    attend_step<S>(tile, args.window, tile.block_position(block), queries, stages + stage, run);
  }
}

/// Four signed bytes to f16, times the f16 pairs scale_low and scale_high.
__device__ __forceinline__ uint2 decode_four(uint32_t codes, uint32_t scale_low,
                                             uint32_t scale_high) {
  constexpr uint32_t k1024s = 0x64646464;   // the upper byte of 1024 .. 1279
  constexpr uint32_t k1152s = 0x64806480u;  // 1024, and 128 that makes the codes unsigned
  codes ^= 0x80808080u;
  const uint32_t low = sub_f16x2(byte_perm(codes, k1024s, 0x4140), k1152s);
  const uint32_t high = sub_f16x2(byte_perm(codes, k1024s, 0x4342), k1152s);
  return make_uint2(mul_f16x2(low, scale_low), mul_f16x2(high, scale_high));
}

/// Eight dimensions-or-positions of the raw block, from code or value number `at` of a part on.
__device__ __forceinline__ uint4 decode_eight(const unsigned char* codes, uint4 scales) {
  const uint2 packed = *reinterpret_cast<const uint2*>(codes);
  const uint2 low = decode_four(packed.x, scales.x, scales.y);
  const uint2 high = decode_four(packed.y, scales.z, scales.w);
  return make_uint4(low.x, low.y, high.x, high.y);
}

template <class S>
__device__ __forceinline__ void decode_keys(const KvLayout& layout, const unsigned char* raw,
                                            unsigned char* keys) {
  for_each_chunk<S::kHeadDim * kKeyChunks>([&](uint32_t i) {
    const uint32_t dim = i / kKeyChunks;
    uint4 eight = make_uint4(0, 0, 0, 0);
    if (dim < layout.head_dim) {
      if (layout.k_codec == KvCodec::kF16) {
        eight = *reinterpret_cast<const uint4*>(raw + i * kChunk);
      } else {
        const unsigned char* scales = raw + layout.k_scales_offset + dim / 32 * 64;
        eight = decode_eight(raw + i * 8,
                             *reinterpret_cast<const uint4*>(scales + i % kKeyChunks * kChunk));
      }
    }
    *reinterpret_cast<uint4*>(keys + permuted<kKeyChunks>(dim, i % kKeyChunks)) = eight;
  });
}

template <class S>
__device__ __forceinline__ void decode_values(const KvLayout& layout, const unsigned char* raw,
                                              uint32_t n_real, unsigned char* values) {
  for_each_chunk<kBlockPositions * S::kRowChunks>([&](uint32_t i) {
    const uint32_t row = i / S::kRowChunks;
    const uint32_t chunk = i % S::kRowChunks;
    uint4 eight = make_uint4(0, 0, 0, 0);
    if (row < n_real && chunk * 8 < layout.head_dim) {
      const uint32_t at = row * layout.head_dim + chunk * 8;
      if (layout.v_codec == KvCodec::kF16) {
        eight = *reinterpret_cast<const uint4*>(raw + layout.v_offset + at * 2);
      } else {
        const auto* scales =
            reinterpret_cast<const uint16_t*>(raw + layout.v_scales_offset) + chunk / 4 * 32;
        const uint32_t twice = scales[row] * 0x10001u;
        eight = decode_eight(raw + layout.v_offset + at, make_uint4(twice, twice, twice, twice));
      }
    }
    *reinterpret_cast<uint4*>(values + permuted<S::kRowChunks>(row, chunk)) = eight;
  });
}

/// Starts the copies of a step's blocks as they are, as one group.
template <class S>
__device__ __forceinline__ void copy_step(const KvLayout& layout, const Tile& tile, uint32_t first,
                                          unsigned char* raw) {
  for (uint32_t b = 0; b < S::kStepBlocks && first + b < tile.end_block; ++b) {
    const std::byte* block = tile.block(first + b);
    for (uint32_t at = threadIdx.x * kChunk; at < layout.block_bytes; at += kThreads * kChunk)
      cp_async16(raw + b * layout.block_bytes + at, block + at);
  }
  cp_async_commit();
}

/// A codec is q8_0: all threads decode each step into one stage, from a copy made during the step
/// before.
template <class S>
__device__ __forceinline__ void attend_decoded(const PrefillLaunch& launch, Tile& tile,
                                               const unsigned char* queries, unsigned char* stage,
                                               Running<S>& run) {
  const DevicePrefillArgs& args = launch.args;
  const KvLayout& layout = args.layout;
  unsigned char* raw = stage + S::kStageBytes;
  if (tile.begin_block < tile.end_block) copy_step<S>(layout, tile, tile.begin_block, raw);
  for (uint32_t i = 0; tile.begin_block + i < tile.end_block; i += S::kStepBlocks) {
    const uint32_t block = tile.begin_block + i;
    cp_async_wait<0>();
    __syncthreads();  // the copies are there, and the stage has been read
    const uint32_t n_real = tile.end_position - tile.block_position(block);
    for (uint32_t b = 0; b < S::kStepBlocks; ++b) {
      const uint32_t before = b * kBlockPositions;
      unsigned char* keys = stage + b * S::kBlockBytes;
      decode_keys<S>(layout, raw + b * layout.block_bytes, keys);
      decode_values<S>(layout, raw + b * layout.block_bytes, n_real > before ? n_real - before : 0,
                       keys + S::kStepBlocks * S::kBlockBytes);
    }
    if (i % (kRing / 2) == 0) read_pointers(args, tile, block + kRing / 2);
    __syncthreads();  // the stage is written, and the copies have been read
    if (block + S::kStepBlocks < tile.end_block)
      copy_step<S>(layout, tile, block + S::kStepBlocks, raw);
    attend_step<S>(tile, args.window, tile.block_position(block), queries, stage, run);
  }
}

template <class S>
__device__ __forceinline__ void write_rows(const PrefillLaunch& launch, const Tile& tile,
                                           Running<S>& run) {
  const DevicePrefillArgs& args = launch.args;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t head_dim = args.layout.head_dim;
#pragma unroll
  for (uint32_t r = 0; r < S::kRowTiles; ++r)
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      float l = run.l[r][h];
      l += __shfl_xor_sync(kFullMask, l, 1);
      l += __shfl_xor_sync(kFullMask, l, 2);
      const uint32_t query =
          tile.first + (threadIdx.x / 32 * S::kRowTiles + r) * 16 + 8 * h + lane / 4;
      if (query >= tile.n_queries) continue;
      float* to;
      float factor = 1.0f;
      if (args.n_splits > 1) {
        const uint64_t row =
            (uint64_t{tile.split} * args.n_kv_heads + tile.head) * tile.n_queries + query;
        to = launch.o + row * head_dim;
        const float m = run.m[r][h];
        if (lane % 4 == 0) {
          launch.m[row] = m == -INFINITY ? m : base_of(m) * kLn2;
          launch.l[row] = l;
        }
      } else {
        const uint64_t head = uint64_t{tile.head} * args.group + query % args.group;
        const uint64_t row = query / args.group;
        to = args.out + (row * args.n_kv_heads * args.group + head) * head_dim;
        factor = l > 0.0f ? 1.0f / l : 0.0f;
      }
#pragma unroll
      for (uint32_t j = 0; j < S::kHeadDim / 8; ++j)
        if (8 * j < head_dim)
          *reinterpret_cast<float2*>(to + 8 * j + 2 * (lane % 4)) =
              make_float2(run.o[r][j][2 * h] * factor, run.o[r][j][2 * h + 1] * factor);
    }
}

template <uint32_t kPaddedDim, bool kDecodes>
__global__ void __launch_bounds__(kThreads) prefill_tile(const PrefillLaunch launch) {
  using S = Shape<kPaddedDim, kDecodes>;
  GPU_DYN_SHARED(shared);
  Tile& tile = *reinterpret_cast<Tile*>(shared);
  unsigned char* queries = shared + kTileBytes;
  if (threadIdx.x == 0) find_tile<S>(launch, tile);
  __syncthreads();
  tile.row_ends[threadIdx.x] = end_of(launch.args, tile.first + threadIdx.x);
  read_pointers(launch.args, tile, tile.begin_block);
  load_queries<S>(launch, tile, queries);
  Running<S> run;
#pragma unroll
  for (uint32_t r = 0; r < S::kRowTiles; ++r)
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      run.m[r][h] = -INFINITY;
      run.l[r][h] = 0.0f;
#pragma unroll
      for (uint32_t j = 0; j < S::kHeadDim / 8; ++j)
        run.o[r][j][2 * h] = run.o[r][j][2 * h + 1] = 0.0f;
    }
  __syncthreads();
  if constexpr (S::kDecodes)
    attend_decoded<S>(launch, tile, queries, queries + S::kQueryBytes, run);
  else
    attend_copied<S>(launch, tile, queries, queries + S::kQueryBytes, run);
  write_rows<S>(launch, tile, run);
}

template <uint32_t kPaddedDim, bool kDecodes>
int launch_tiles(DeviceStream* stream, PrefillLaunch& launched) {
  using S = Shape<kPaddedDim, kDecodes>;
  const DevicePrefillArgs& args = launched.args;
  const uint64_t n_queries = uint64_t{args.n_rows} * args.group;
  launched.n_tiles = static_cast<uint32_t>((n_queries + S::kTileRows - 1) / S::kTileRows);
  const uint32_t stage_bytes =
      kDecodes ? S::kStageBytes + S::kStepBlocks * args.layout.block_bytes : 2 * S::kStageBytes;
  return launch(prefill_tile<kPaddedDim, kDecodes>,
                dim3(launched.n_tiles * args.n_kv_heads * args.n_splits), dim3(kThreads),
                kTileBytes + S::kQueryBytes + stage_bytes, stream->handle, launched);
}

int launch_prefill(DeviceStream* stream, PrefillLaunch& launched) {
  const KvLayout& layout = launched.args.layout;
  const uint32_t d = layout.head_dim;
  if (layout.k_codec == KvCodec::kF16 && layout.v_codec == KvCodec::kF16)
    return d <= 64    ? launch_tiles<64, false>(stream, launched)
           : d <= 80  ? launch_tiles<80, false>(stream, launched)
           : d <= 96  ? launch_tiles<96, false>(stream, launched)
           : d <= 128 ? launch_tiles<128, false>(stream, launched)
                      : launch_tiles<256, false>(stream, launched);
  return d <= 64    ? launch_tiles<64, true>(stream, launched)
         : d <= 96  ? launch_tiles<96, true>(stream, launched)
         : d <= 128 ? launch_tiles<128, true>(stream, launched)
                    : launch_tiles<256, true>(stream, launched);
}

}  // namespace

int prefill(DeviceStream* stream, const DevicePrefillArgs& args) {
  const uint32_t head_dim = args.layout.head_dim;
  const uint64_t width = uint64_t{args.n_kv_heads} * args.group * head_dim;
  STRATA_CHECK(head_dim > 0 && head_dim % 8 == 0 && head_dim <= kDevicePrefillHeadDimMax,
               "head_dim=%u", head_dim);
  STRATA_CHECK(args.quant.q == nullptr || width % kActGroup == 0, "a width of %llu as int8",
               static_cast<unsigned long long>(width));
  STRATA_CHECK(args.n_splits <= 1 || args.scratch != nullptr, "%u splits without scratch",
               args.n_splits);
  if (args.n_rows == 0) return 0;
  PrefillLaunch launched{.args = args, .n_tiles = 0, .o = nullptr, .m = nullptr, .l = nullptr};
  if (args.n_splits <= 1) {
    launched.args.n_splits = 1;
    const int error = launch_prefill(stream, launched);
    if (error != 0 || args.quant.q == nullptr) return error;
    return quantize(stream, {.x = args.out,
                             .out = args.quant,
                             .n_rows = args.n_rows,
                             .n = static_cast<uint32_t>(width)});
  }
  const uint64_t n_partials = uint64_t{args.n_splits} * args.n_kv_heads * args.n_rows * args.group;
  launched.o = reinterpret_cast<float*>(args.scratch);
  launched.m = launched.o + n_partials * head_dim;
  launched.l = launched.m + n_partials;
  const int error = launch_prefill(stream, launched);
  if (error != 0) return error;
  return merge(stream, {.o = launched.o,
                        .m = launched.m,
                        .l = launched.l,
                        .out = args.out,
                        .quant = args.quant,
                        .n_splits = args.n_splits,
                        .n_rows = args.n_rows,
                        .n_kv_heads = args.n_kv_heads,
                        .group = args.group,
                        .head_dim = head_dim});
}

}  // namespace strata::gpu_attn

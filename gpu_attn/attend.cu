// Decode attention: few rows over a long table of KV blocks, as partials by splits.
//
// Formula  per query over the positions p of a split that it attends: s[p] = q . k[p],
//          m = max s[p], l = sum exp(s[p] - m), o = sum exp(s[p] - m) v[p].
// Shapes   base/device_kernels.h, DeviceAttendArgs; blocks base/kv_layout.h. Head sizes 64, 80, 96,
//          128 and 256 by the tensor cores (attend_tensor.cuh), others in f32 (attend_general.cuh).
// Threads  a thread block has a tile of 8 queries of one KV head and a split (attend_partial.cuh);
//          each of its 4 warps (2 for 256 dimensions) takes every 4th block of the split, whole,
//          and waits for no other warp until the end, where their sums are added in order.
//          A product of the tensor cores has 16 rows: query g is rows g and g + 8, its high and its
//          low halves. Lane 4 g + t holds both, so that their sum needs no exchange; the scores of
//          positions become weights in the registers where the next product wants them.
// Memory   a warp copies its blocks by cp.async into a ring of its own, in 3 or 4 items a block
//          (attend_shape.cuh), and all but one item of the ring are on their way while it computes:
//          about 12 KB a warp, 144 KB a multiprocessor of an H100, where the product of bandwidth
//          and latency asks for 20 to 30. The table's entries are read a block ahead.
//          Every instruction of a warp reads 128 to 512 neighbouring bytes, so blocks in pinned
//          host memory are read as they are, in requests of the size that the link likes.
// Bytes    attend_bytes(args): K and V once for each tile of queries, q, and the partials.
//          FLOP are 4 * 16 * head_dim a position and tile, of which a half to an eighth is asked
//          for: 256 products of 16 x 8 x 16 per 64 KB of f16, 16 times less than an H100 has time
//          for.
// Numbers  q is scaled by a power of two to below 2^11 and split into two f16, weights are times
//          2^14 (the bias, below) and split likewise: 22 bits of each, products exact, sums in f32.
//          int8 is exact in f16. A scale of K multiplies the sum of its group of 32 dimensions; a
//          scale of V multiplies the weights, as a rounded product and its remainder. exp is exp2
//          of one fused multiply-add (2 ulp). Positions beyond a query's own are -inf before they
//          count, V that no one wrote is cleared; a NaN or infinity in V of a position that another
//          row of the tile attends reaches every query of the tile.
//          Bits depend on the splits and the tiles, on nothing else.
// Lost     q in registers: 32 more of them, spills at three thread blocks a multiprocessor. Groups
//          of K's scales unrolled: spills at 256 dimensions. Scales of V times weights in f32: ten
//          instructions for two weights, where pairs of f16 take three.
#include "base/check.h"
#include "gpu_attn/attend_general.cuh"
#include "gpu_attn/attend_tensor.cuh"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"

namespace strata::gpu_attn {
namespace {

template <class Shape>
bool has_layout(const KvLayout& layout) {
  return layout.k_scales_offset == Shape::kKScales && layout.v_offset == Shape::kV &&
         layout.v_scales_offset == Shape::kVScales && layout.block_bytes == Shape::kBlockBytes;
}

template <class Shape>
int launch_tensor(DeviceStream* stream, const DeviceAttendArgs& args, dim3 grid) {
  STRATA_CHECK(has_layout<Shape>(args.layout), "head_dim=%u block_bytes=%u", args.layout.head_dim,
               args.layout.block_bytes);
  return launch(attend_tensor<Shape>, grid, dim3(Shape::kThreads), Shape::kSharedBytes,
                stream->handle, args);
}

template <KvCodec kKCodec, KvCodec kVCodec>
int attend_codecs(DeviceStream* stream, const DeviceAttendArgs& args, dim3 grid) {
  switch (args.layout.head_dim) {
    case 64:
      return launch_tensor<AttendShape<kKCodec, kVCodec, 64>>(stream, args, grid);
    case 80:
      if constexpr (kKCodec == KvCodec::kF16 && kVCodec == KvCodec::kF16)
        return launch_tensor<AttendShape<kKCodec, kVCodec, 80>>(stream, args, grid);
      break;
    case 96:
      return launch_tensor<AttendShape<kKCodec, kVCodec, 96>>(stream, args, grid);
    case 128:
      return launch_tensor<AttendShape<kKCodec, kVCodec, 128>>(stream, args, grid);
    case 256:
      return launch_tensor<AttendShape<kKCodec, kVCodec, 256>>(stream, args, grid);
    default:
      break;
  }
  const uint32_t head_dim = args.layout.head_dim;
  STRATA_CHECK(head_dim <= kGeneralHeadDimMax, "head_dim=%u", head_dim);
  return launch(attend_general, grid, dim3(general_warps(head_dim) * 32),
                general_shared_bytes(head_dim), stream->handle, args);
}

void check_shape(const DeviceAttendArgs& args) {
  STRATA_CHECK(args.layout.head_dim % 8 == 0 && args.layout.head_dim > 0, "head_dim=%u",
               args.layout.head_dim);
  STRATA_CHECK(args.group > 0 && args.group <= kDeviceGroupMax, "group=%u", args.group);
  STRATA_CHECK(args.split_blocks > 0 && args.split_blocks % kAttendSplitGrain == 0,
               "split_blocks=%u", args.split_blocks);
  STRATA_CHECK(uint64_t{args.n_splits} * args.split_blocks >= args.n_blocks,
               "n_splits=%u split_blocks=%u n_blocks=%u", args.n_splits, args.split_blocks,
               args.n_blocks);
  STRATA_CHECK((uint64_t{args.n_splits} * args.split_blocks + args.first_block) * kBlockPositions <=
                   UINT32_MAX,
               "n_splits=%u split_blocks=%u first_block=%u", args.n_splits, args.split_blocks,
               args.first_block);
  STRATA_CHECK(args.n_splits <= 65535 && args.n_kv_heads <= 65535, "n_splits=%u n_kv_heads=%u",
               args.n_splits, args.n_kv_heads);
  STRATA_CHECK(uint64_t{args.n_rows} * args.group <= INT32_MAX, "n_rows=%u group=%u", args.n_rows,
               args.group);
  const auto bits = reinterpret_cast<uintptr_t>(args.q) | reinterpret_cast<uintptr_t>(args.o);
  STRATA_CHECK(bits % 16 == 0, "q=%p o=%p", static_cast<const void*>(args.q),
               static_cast<const void*>(args.o));
}

}  // namespace

int attend(DeviceStream* stream, const DeviceAttendArgs& args) {
  check_shape(args);
  if (args.n_rows == 0 || args.n_splits == 0 || args.n_kv_heads == 0) return 0;
  const dim3 grid(attend_query_tiles(args.n_rows, args.group), args.n_splits, args.n_kv_heads);
  constexpr KvCodec kF16 = KvCodec::kF16;
  constexpr KvCodec kQ8 = KvCodec::kQ8_0;
  if (args.layout.k_codec == kF16) {
    return args.layout.v_codec == kF16 ? attend_codecs<kF16, kF16>(stream, args, grid)
                                       : attend_codecs<kF16, kQ8>(stream, args, grid);
  }
  return args.layout.v_codec == kF16 ? attend_codecs<kQ8, kF16>(stream, args, grid)
                                     : attend_codecs<kQ8, kQ8>(stream, args, grid);
}

}  // namespace strata::gpu_attn

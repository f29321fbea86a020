// gpu_attn/row_bytes.h - bytes that the row-wise operations move, by formula: what benches divide
// by times. Each array counts once, vectors that all rows share too.
#pragma once

#include "base/device_kernels.h"

namespace strata::gpu_attn {

/// The int8 form of n values; 0 where none is wanted.
constexpr uint64_t quant_bytes(const QuantRows& rows, uint64_t n) {
  return rows.q == nullptr ? 0 : n + n / kActGroup * 4 + n / kActHalfGroup * 4;
}

constexpr uint64_t norm_bytes(const DeviceNormArgs& args) {
  const uint64_t values = uint64_t{args.n_rows} * args.n;
  const uint64_t n_vectors = 1u + (args.bias != nullptr) + (args.post_norm != nullptr);
  const uint64_t n_passes = args.projected != nullptr ? 4 : 2;  // residual both ways, projected
  return (values * n_passes + n_vectors * args.n) * 4 + quant_bytes(args.quant, values);
}

constexpr uint64_t activate_bytes(const DeviceActivateArgs& args) {
  const uint64_t values = uint64_t{args.n_rows} * args.n;
  return values * 12 + quant_bytes(args.quant, values);
}

constexpr uint64_t quantize_bytes(const DeviceQuantizeArgs& args) {
  const uint64_t values = uint64_t{args.n_rows} * args.n;
  return values * 4 + quant_bytes(args.out, values);
}

constexpr uint64_t argmax_bytes(const DeviceArgmaxArgs& args) {
  return uint64_t{args.n_rows} * args.n * 4 + uint64_t{args.n_rows} * 8;
}

/// Rows in and out; what is stored in blocks by its codec, scales included.
constexpr uint64_t rotate_bytes(const DeviceRotateArgs& args) {
  const uint64_t head_dim = args.layout.head_dim;
  const uint64_t n_kv = uint64_t{args.n_rows} * args.n_kv_heads;
  const auto stored = [head_dim](KvCodec codec) {
    return codec == KvCodec::kF16 ? head_dim * 2 : head_dim + head_dim / 32 * 2;
  };
  const uint64_t n_homes = args.mirror != nullptr ? 2 : 1;
  const uint64_t kv_row =
      head_dim * 8 + (stored(args.layout.k_codec) + stored(args.layout.v_codec)) * n_homes;
  const uint64_t angles = args.cos_sin != nullptr ? uint64_t{args.n_rows} * args.n_rot * 4 : 0;
  return n_kv * (args.group * head_dim * 8 + kv_row) + angles;
}

}  // namespace strata::gpu_attn

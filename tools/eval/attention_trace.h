// tools/eval/attention_trace.h - keys, values and queries of a real model as a small file: what
// index tests and benches run on beside drawn ones.
//
//   "STRATTRC"  8 bytes; then u32, little endian: version (1), n_layers, n_kv_heads, group,
//               head_dim, n_positions, n_steps; then n_layers u32: which layers
//   per layer, per KV head
//     blocks    n_positions / 32 blocks of K and V as base/kv_layout.h lays out f16 and f16, RoPE
//               applied to K
//     queries   f16 [n_steps][group][head_dim], RoPE applied, times the attention scale: those of
//               the positions n_positions - n_steps .. n_positions - 1
//
// n_positions is a multiple of 32. A query at position p attends the blocks before p / 32 and the
// positions of its own block up to p.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tools/eval/split_runner.h"

namespace strata::eval {

struct AttentionTrace {
  uint32_t n_kv_heads = 0, group = 0, head_dim = 0, n_positions = 0, n_steps = 0;
  std::vector<uint32_t> layers;
  std::vector<std::vector<std::byte>> blocks;  // per stream (layer major, KV head minor)
  std::vector<std::vector<uint16_t>> queries;  // per stream

  KvLayout layout() const { return KvLayout::make(KvCodec::kF16, KvCodec::kF16, head_dim); }
  uint32_t n_streams() const { return static_cast<uint32_t>(layers.size()) * n_kv_heads; }
  uint32_t n_blocks() const { return n_positions / kBlockPositions; }
  const std::byte* block(uint32_t stream, uint32_t idx) const {
    return blocks[stream].data() + uint64_t{idx} * layout().block_bytes;
  }
  /// [group, head_dim] of one step.
  std::vector<float> query(uint32_t stream, uint32_t step) const;
};

/// Reads `tokens` exactly, but for the last n_steps, which are walked one by one and give the
/// queries. Errors: kUnsupported (K or V that is not f16), kUsage (a layer that there is not, that
/// has a window, or that has other KV heads than the first of them; a number of tokens that is no
/// multiple of 32 or not more than n_steps); those of SplitRunner.
AttentionTrace record_trace(SplitRunner& runner, std::span<const int32_t> tokens, uint32_t n_steps,
                            std::span<const uint64_t> layers);

/// Errors: kIo.
void write_trace(const AttentionTrace& trace, const std::string& path);
/// Errors: kIo, kBadFile.
AttentionTrace read_trace(const std::string& path);

}  // namespace strata::eval

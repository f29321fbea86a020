// gpu_attn/copy_bytes.h - what copying blocks moves.
#pragma once

#include "base/device_kernels.h"

namespace strata::gpu_attn {

/// Bytes read and written, the two lists included.
constexpr uint64_t copy_blocks_bytes(const DeviceCopyBlocksArgs& args) {
  return uint64_t{args.n_blocks} * (uint64_t{args.block_bytes} * 2 + 2 * sizeof(void*));
}

/// Words written, and the two lists.
constexpr uint64_t set_words_bytes(const DeviceSetWordsArgs& args) {
  return uint64_t{args.n} * (2 * sizeof(uint64_t) + sizeof(uint32_t));
}

}  // namespace strata::gpu_attn

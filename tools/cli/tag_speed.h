// tools/cli/tag_speed.h - what checking a block's tag costs beside reading the same bytes once.
// Why: a tag is checked on every read of a block from disk, so what it may cost is a share of what
// reading costs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace strata::cli {

using Bytes = std::span<const std::byte>;
/// Some work on a block, told the block after it (or none).
using BlockWork = std::function<uint64_t(Bytes block, Bytes next)>;

/// tiers::block_tag.
uint64_t tag_of_block(Bytes block, Bytes next);
/// The sum of the block's 8-byte words (its size is a multiple of 8), in the widest vectors of this
/// CPU, with the prefetches of block_tag: the bytes read once.
uint64_t sum_of_block(Bytes block, Bytes next);

/// The order in which a pass meets the blocks, cut into slices that last well under a scheduler's
/// turn. Borrows the memory.
struct BlockOrder {
  static constexpr uint64_t kSliceBytes = uint64_t{8} << 20;

  const std::byte* memory = nullptr;
  uint64_t block_bytes = 0;
  std::vector<uint32_t> blocks;
  uint64_t blocks_per_slice = 0;
  uint64_t passes_per_slice = 1;  // of a working set smaller than a slice
  bool hints = true;              // the work is told the block after

  static BlockOrder make(Bytes memory, uint64_t block_bytes, bool is_in_order);
  uint64_t n_slices() const { return blocks.size() / blocks_per_slice; }
  uint64_t slice_bytes() const { return blocks_per_slice * passes_per_slice * block_bytes; }
};

/// Of one slice each.
struct SliceTimes {
  std::vector<double> wall_s;
  std::vector<double> cpu_s;  // of this thread: what a busy neighbour on the core does not lengthen
};

struct TagTimes {
  SliceTimes work, read;
};

/// Times `work` and `read` in turns over slices far from each other, so that neither finds the
/// other's bytes in a cache that the working set exceeds, and both meet the same busy minutes.
TagTimes time_in_turns(const BlockOrder& order, uint64_t n_slices, const BlockWork& work,
                       const BlockWork& read);

}  // namespace strata::cli

// tools/cli/attend_trial.h - attention over random K and V in DRAM, to be timed: one decoded
// token's queries over all of it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/host_memory.h"
#include "base/kernel_table.h"
#include "base/thread_pool.h"

namespace strata::cli {

/// Blocks of one layout in large memory, filled by store_kv; segments are lists of eight of them.
class TrialBlocks {
 public:
  /// As many as `memory` holds; it is borrowed.
  TrialBlocks(const KernelTable& kernels, const KvLayout& layout, HostMemory& memory);

  uint64_t n_segments() const { return n_blocks_ / kExtentBlocks; }
  const KvLayout& layout() const { return layout_; }
  /// The eight blocks of a segment, `streams` blocks apart.
  void segment(uint64_t idx, uint32_t streams, const std::byte* blocks[kExtentBlocks]) const;

 private:
  KvLayout layout_;
  HostMemory& memory_;
  uint64_t n_blocks_;
};

/// Queries of one tile and where their partials go.
struct TrialTile {
  TrialTile(uint32_t n_queries, uint32_t head_dim);
  /// All queries over all positions of a segment.
  AttendArgs args(const KvLayout& layout, const std::byte* const* blocks);

  std::vector<float> q;
  std::vector<uint32_t> pos;
  std::vector<float> o, m, l;
  HostMemory scratch;
};

class AttendTrial {
 public:
  static constexpr uint32_t kGroup = 4;  // queries of a decoded token that share a KV head

  AttendTrial(const KernelTable& kernels, KvCodec codec, uint32_t head_dim, uint32_t n_threads,
              uint64_t memory_bytes);

  /// Whether a segment's outputs are those of the scalar kernel, but for rounding.
  bool is_right();
  /// Bytes of K and V that decode() reads.
  uint64_t decode_bytes() const;

  void decode(ThreadPool& pool);

 private:
  const KernelTable& kernels_;
  HostMemory memory_;
  TrialBlocks blocks_;
  std::vector<TrialTile> tiles_;  // one for each thread
};

}  // namespace strata::cli

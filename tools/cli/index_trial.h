// tools/cli/index_trial.h - an index over random keys, to be timed: what choosing for one decoded
// token reads of it and computes. Why a rate of its own: codes are unpacked and looked up, which
// takes a core longer than the bytes take memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/host_memory.h"
#include "base/kernel_table.h"
#include "base/thread_pool.h"
#include "index/method.h"

namespace strata::cli {

class IndexTrial {
 public:
  static constexpr uint32_t kStreams = 8;  // KV heads of a layer
  static constexpr uint32_t kQueries = 4;  // of a token, that share a KV head

  /// Rows of about so many bytes, of whole segments. Observes all keys. Errors: those of
  /// index::SelectorSource.
  IndexTrial(const KernelTable& kernels, index::Method method, uint32_t head_dim, ThreadPool& pool,
             uint64_t rows_bytes);

  uint32_t n_blocks() const { return n_blocks_; }  // of each stream
  /// Bytes that scan() reads, by the index's own count.
  double scanned_bytes() const;
  /// Estimates every block of every stream.
  void scan(ThreadPool& pool);
  /// Of one stream, after scan(): [kQueries][n_blocks()].
  const float* log_weights(uint32_t stream) const {
    return weights_.data() + uint64_t{stream} * kQueries * n_blocks_;
  }

 private:
  uint32_t head_dim_, n_blocks_;
  std::unique_ptr<index::Selector> selector_;
  std::vector<float> q_, weights_;
  std::vector<HostMemory> scratch_;  // one for each thread
};

}  // namespace strata::cli

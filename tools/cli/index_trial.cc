#include "tools/cli/index_trial.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/checked_math.h"

namespace strata::cli {
namespace {

constexpr uint32_t kBlocksPerTask = 512;   // as a walk gives its threads
constexpr uint32_t kSegmentBlocks = 32;    // the most that a method keeps whole
constexpr uint32_t kBlocksMax = 1u << 17;  // of a stream: four million positions
constexpr uint32_t kDistinct = 64;         // blocks with keys of their own

std::vector<float> drawn(uint64_t n, uint32_t head_dim) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(head_dim)));
  std::vector<float> values(n);
  for (float& x : values) x = normal(random);
  return values;
}

uint32_t blocks_of(index::Method method, const KvLayout& layout, uint64_t rows_bytes) {
  const double of_segment = index::scanned_bytes(method, layout, IndexTrial::kQueries) *
                            kSegmentBlocks * kBlockPositions * IndexTrial::kStreams;
  const auto n_segments = static_cast<double>(rows_bytes) / of_segment;
  return std::clamp(static_cast<uint32_t>(n_segments) * kSegmentBlocks, kSegmentBlocks, kBlocksMax);
}

}  // namespace

IndexTrial::IndexTrial(const KernelTable& kernels, index::Method method, uint32_t head_dim,
                       ThreadPool& pool, uint64_t rows_bytes)
    : head_dim_(head_dim), q_(drawn(uint64_t{kQueries} * head_dim, head_dim)) {
  const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, head_dim);
  n_blocks_ = blocks_of(method, layout, rows_bytes);
  const index::IndexShape shape{.layout = layout, .n_streams = kStreams, .n_blocks = n_blocks_};
  selector_ = index::SelectorSource(method, shape, kernels).make();
  std::vector<std::byte> blocks(uint64_t{kDistinct} * layout.block_bytes);
  const std::vector<float> rows = drawn(uint64_t{kDistinct} * kBlockPositions * head_dim, 1);
  for (uint32_t i = 0; i < kDistinct * kBlockPositions; ++i)
    kernels.store_kv(layout, blocks.data() + i / kBlockPositions * layout.block_bytes,
                     i % kBlockPositions, rows.data() + uint64_t{i} * head_dim,
                     rows.data() + uint64_t{i} * head_dim);
  selector_->open_blocks(n_blocks_);
  pool.for_each(kStreams, 1, [&](uint64_t from, uint64_t to, uint32_t) {
    for (uint64_t stream = from; stream < to; ++stream)
      for (uint32_t block = 0; block < n_blocks_; ++block)
        selector_->observe(static_cast<index::StreamIdx>(stream), block,
                           blocks.data() + (block + stream) % kDistinct * layout.block_bytes);
  });
  weights_.resize(uint64_t{kStreams} * kQueries * n_blocks_);
  for (uint32_t i = 0; i < pool.size(); ++i)
    scratch_.push_back(HostMemory::reserve(selector_->scratch_floats(kQueries) * sizeof(float)));
}

double IndexTrial::scanned_bytes() const {
  return static_cast<double>(kStreams * selector_->estimate_bytes(n_blocks_, q_.data(), kQueries));
}

void IndexTrial::scan(ThreadPool& pool) {
  const auto n_parts = static_cast<uint32_t>(div_up(n_blocks_, kBlocksPerTask));
  pool.for_each(uint64_t{kStreams} * n_parts, 1, [&](uint64_t from, uint64_t to, uint32_t worker) {
    for (uint64_t item = from; item < to; ++item) {
      const auto stream = static_cast<uint32_t>(item / n_parts);
      const uint32_t first = static_cast<uint32_t>(item % n_parts) * kBlocksPerTask;
      selector_->estimate({.stream = stream,
                           .q = q_.data(),
                           .n_queries = kQueries,
                           .first_block = first,
                           .end_block = std::min(n_blocks_, first + kBlocksPerTask),
                           .scratch = reinterpret_cast<float*>(scratch_[worker].data()),
                           .log_weights = weights_.data() + uint64_t{stream} * kQueries * n_blocks_,
                           .weight_stride = n_blocks_});
    }
  });
}

}  // namespace strata::cli

#include "tools/cli/attend_trial.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "cpu_attn/attend.h"
#include "cpu_attn/kernels.h"

namespace strata::cli {
namespace {

constexpr uint64_t kDistinct = 64;        // blocks with values of their own
constexpr uint64_t kSegmentsPerTask = 4;  // of decoding
constexpr float kTolerance = 1e-3f;  // of values near 1: f32 sums over 256 positions, other order

}  // namespace

TrialBlocks::TrialBlocks(const KernelTable& kernels, const KvLayout& layout, HostMemory& memory)
    : layout_(layout), memory_(memory), n_blocks_(memory.size() / layout.block_bytes) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> row(layout.head_dim);
  for (uint64_t b = 0; b < n_blocks_; ++b) {
    std::byte* block = memory.data() + b * layout.block_bytes;
    if (b >= kDistinct) {
      std::copy_n(memory.data() + b % kDistinct * layout.block_bytes, layout.block_bytes, block);
      continue;
    }
    for (uint32_t r = 0; r < kBlockPositions; ++r) {
      for (float& x : row) x = normal(random);
      kernels.store_kv(layout, block, r, row.data(), row.data());
    }
  }
}

void TrialBlocks::segment(uint64_t idx, uint32_t streams,
                          const std::byte* blocks[kExtentBlocks]) const {
  const uint64_t run = uint64_t{kExtentBlocks} * streams;
  for (uint64_t i = 0; i < kExtentBlocks; ++i) {
    const uint64_t b = idx * kExtentBlocks / run * run + idx % streams + i * streams;
    blocks[i] = memory_.data() + std::min(b, n_blocks_ - 1) * layout_.block_bytes;
  }
}

TrialTile::TrialTile(uint32_t n_queries, uint32_t head_dim)
    : q(uint64_t{n_queries} * head_dim),
      pos(n_queries, kSegmentPositions - 1),
      o(q.size()),
      m(n_queries),
      l(n_queries),
      scratch(HostMemory::reserve(attend_scratch_floats(n_queries, head_dim) * sizeof(float))) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(head_dim)));
  for (float& x : q) x = normal(random);
}

AttendArgs TrialTile::args(const KvLayout& layout, const std::byte* const* blocks) {
  AttendArgs a{};
  a.q = q.data();
  a.q_stride = layout.head_dim;
  a.query_pos = pos.data();
  a.n_queries = static_cast<uint32_t>(m.size());
  a.layout = layout;
  a.blocks = blocks;
  a.n_pos = kSegmentPositions;
  a.scratch = reinterpret_cast<float*>(scratch.data());
  a.o = o.data();
  a.m = m.data();
  a.l = l.data();
  return a;
}

AttendTrial::AttendTrial(const KernelTable& kernels, KvCodec codec, uint32_t head_dim,
                         uint32_t n_threads, uint64_t memory_bytes)
    : kernels_(kernels),
      memory_(HostMemory::reserve(memory_bytes)),
      blocks_(kernels, KvLayout::make(codec, codec, head_dim), memory_) {
  for (uint32_t i = 0; i < n_threads; ++i) tiles_.emplace_back(kGroup, head_dim);
}

bool AttendTrial::is_right() {
  const std::byte* blocks[kExtentBlocks];
  blocks_.segment(0, 1, blocks);
  TrialTile tile(kMaxTileQueries, blocks_.layout().head_dim);
  TrialTile wanted(kMaxTileQueries, blocks_.layout().head_dim);
  kernels_.attend_segment(tile.args(blocks_.layout(), blocks));
  cpu_attn::available_kernels().front()->attend_segment(wanted.args(blocks_.layout(), blocks));
  for (size_t i = 0; i < tile.o.size(); ++i) {
    const size_t query = i / blocks_.layout().head_dim;
    const float error = tile.o[i] / tile.l[query] - wanted.o[i] / wanted.l[query];
    if (!(std::abs(error) <= kTolerance)) return false;
  }
  return true;
}

uint64_t AttendTrial::decode_bytes() const {
  return blocks_.n_segments() * cpu_attn::attend_bytes(blocks_.layout(), kSegmentPositions);
}

void AttendTrial::decode(ThreadPool& pool) {
  pool.for_each(blocks_.n_segments(), kSegmentsPerTask,
                [&](uint64_t begin, uint64_t end, uint32_t worker) {
                  const std::byte *blocks[kExtentBlocks], *next[kExtentBlocks];
                  for (uint64_t idx = begin; idx < end; ++idx) {
                    blocks_.segment(idx, 1, blocks);
                    blocks_.segment(std::min(idx + 1, blocks_.n_segments() - 1), 1, next);
                    AttendArgs args = tiles_[worker].args(blocks_.layout(), blocks);
                    args.next_blocks = next;
                    args.n_next_blocks = kExtentBlocks;
                    kernels_.attend_segment(args);
                  }
                });
}

}  // namespace strata::cli

#include "tools/cli/tag_speed.h"

#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>

#include "tiers/block_tag.h"
#include "tiers/hash_kernels.h"

namespace strata::cli {
namespace {

struct Seconds {
  double wall = 0;
  double cpu = 0;  // of this thread: what a busy neighbour on the core does not lengthen
};

Seconds now() {
  timespec cpu{};
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  const auto wall = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration<double>(wall).count(),
          static_cast<double>(cpu.tv_sec) + static_cast<double>(cpu.tv_nsec) * 1e-9};
}

Seconds seconds_of(const std::function<void()>& work) {
  const Seconds start = now();
  work();
  const Seconds end = now();
  return {end.wall - start.wall, end.cpu - start.cpu};
}

uint64_t sum_words(Bytes bytes) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i + sizeof sum <= bytes.size(); i += sizeof sum) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, sizeof word);
    sum += word;
  }
  return sum;
}

uint64_t sum_prefetched(Bytes block, Bytes next) {
  tiers::prefetch_next_block(block, next);
  return sum_words(block);
}

__attribute__((target("avx512f"))) uint64_t sum_avx512(Bytes block, Bytes next) {
  tiers::prefetch_next_block(block, next);
  const std::byte* bytes = block.data();
  __m512i sum[8] = {};
  for (uint64_t i = 0; i + 512 <= block.size(); i += 512) {
    for (uint64_t j = 0; j < 8; ++j) {
      __builtin_prefetch(bytes + i + 64 * j + tiers::kHashPrefetchBytes);
      sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(bytes + i + 64 * j));
    }
  }
  for (uint64_t j = 1; j < 8; ++j) sum[0] = _mm512_add_epi64(sum[0], sum[j]);
  uint64_t lanes[8];
  _mm512_storeu_si512(lanes, sum[0]);
  return std::accumulate(lanes, lanes + 8, sum_words(block.subspan(block.size() / 512 * 512)));
}

__attribute__((target("avx2"))) uint64_t sum_avx2(Bytes block, Bytes next) {
  tiers::prefetch_next_block(block, next);
  const std::byte* bytes = block.data();
  __m256i sum[4] = {};
  for (uint64_t i = 0; i + 128 <= block.size(); i += 128) {
    for (uint64_t j = 0; j < 4; ++j) {
      if (j % 2 == 0) __builtin_prefetch(bytes + i + 32 * j + tiers::kHashPrefetchBytes);
      sum[j] = _mm256_add_epi64(
          sum[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i + 32 * j)));
    }
  }
  for (uint64_t j = 1; j < 4; ++j) sum[0] = _mm256_add_epi64(sum[0], sum[j]);
  uint64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum[0]);
  return std::accumulate(lanes, lanes + 4, sum_words(block.subspan(block.size() / 128 * 128)));
}

Bytes block_of(const BlockOrder& order, uint64_t slice, uint64_t i) {
  return {order.memory + order.blocks[slice * order.blocks_per_slice + i] * order.block_bytes,
          order.block_bytes};
}

void time_slice(const BlockOrder& order, uint64_t slice, const BlockWork& work, SliceTimes& times) {
  static volatile uint64_t sink = 0;
  const Seconds seconds = seconds_of([&] {
    for (uint64_t pass = 0; pass < order.passes_per_slice; ++pass)
      for (uint64_t i = 0; i < order.blocks_per_slice; ++i)
        sink = sink + work(block_of(order, slice, i), order.hints && i + 1 < order.blocks_per_slice
                                                          ? block_of(order, slice, i + 1)
                                                          : Bytes());
  });
  times.wall_s.push_back(seconds.wall);
  times.cpu_s.push_back(seconds.cpu);
}

}  // namespace

uint64_t tag_of_block(Bytes block, Bytes next) { return tiers::block_tag({}, block, next).low; }

uint64_t sum_of_block(Bytes block, Bytes next) {
  static const auto sum_of = __builtin_cpu_supports("avx512f") ? sum_avx512
                             : __builtin_cpu_supports("avx2")  ? sum_avx2
                                                               : sum_prefetched;
  return sum_of(block, next);
}

BlockOrder BlockOrder::make(Bytes memory, uint64_t block_bytes, bool is_in_order) {
  BlockOrder order;
  order.memory = memory.data();
  order.block_bytes = block_bytes;
  order.blocks.resize(memory.size() / block_bytes);
  std::iota(order.blocks.begin(), order.blocks.end(), 0u);
  if (!is_in_order) std::shuffle(order.blocks.begin(), order.blocks.end(), std::mt19937(1));
  order.blocks_per_slice = std::min<uint64_t>(kSliceBytes / block_bytes, order.blocks.size());
  order.passes_per_slice = std::max<uint64_t>(kSliceBytes / memory.size(), 1);
  return order;
}

TagTimes time_in_turns(const BlockOrder& order, uint64_t n_slices, const BlockWork& work,
                       const BlockWork& read) {
  TagTimes times;
  const uint64_t n = order.n_slices();
  for (uint64_t i = 0; i < n_slices; ++i) {
    time_slice(order, i % n, work, times.work);
    time_slice(order, (i + n / 2) % n, read, times.read);
  }
  return times;
}

}  // namespace strata::cli

// tests/device/search_run.h - texts whose selected steps a device searches, and the host's search
// of the same rows beside it.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/host_memory.h"
#include "base/kernel_table.h"
#include "tests/device/device_run.h"

namespace strata::engine::testing {

inline constexpr uint32_t kSearchSeed = 20261201;
inline constexpr uint32_t kSearchRead = 330;   // exactly
inline constexpr uint32_t kSearchAsked = 12;   // in selected steps: more rows than choose together
inline constexpr uint32_t kSearchAnswer = 40;  // token by token: a block closes among them
inline constexpr uint32_t kSearchTokens = kSearchRead + kSearchAsked + kSearchAnswer;

inline WalkSetting search_setting(const index::Budget& budget = {index::Budget::Kind::kTokens,
                                                                 160}) {
  WalkSetting of{
      .kernels = cpu_attn::available_kernels().back(), .chunk_rows = kDeviceFewRows, .n_ctx = 448};
  of.n_threads = 3;
  of.n_sequences = 3;
  of.method = index::Method::kRabitq;
  of.rule.budget = budget;
  of.rule.n_sink_blocks = 1;
  of.rule.n_window_blocks = 1;
  return of;
}

/// What the host's kernels say of the rows, wherever these lie: then choices are the host's to the
/// bit, as those of the device's own kernel are not, which rounds otherwise.
inline int scan_as_host(const DeviceScanArgs& args) {
  const IndexKernels& kernels = cpu_attn::available_kernels().back()->index;
  const uint32_t n_codes = rabitq_groups(args.head_dim) * kRabitqGroup;
  const HostMemory columns = HostMemory::reserve(uint64_t{args.head_dim} * kBlockPositions * 4);
  std::vector<int8_t> codes(uint64_t{args.n_queries} * n_codes);
  std::vector<float> scales(args.n_queries);
  std::vector<int32_t> sums(args.n_queries);
  for (uint64_t head = 0; head < args.n_kv_heads; ++head) {
    kernels.rabitq_query({.q = args.q + head * args.n_queries * args.head_dim,
                          .n_queries = args.n_queries,
                          .head_dim = args.head_dim,
                          .columns = columns.as<float>(1).data(),
                          .codes = codes.data(),
                          .scales = scales.data(),
                          .sums = sums.data()});
    kernels.rabitq_scan(
        {.tiles = args.tiles + head * args.tile_stride,
         .n_tiles = args.n_tiles,
         .head_dim = args.head_dim,
         .codes = codes.data(),
         .scales = scales.data(),
         .sums = sums.data(),
         .n_queries = args.n_queries,
         .block_scores = args.block_scores + head * args.n_queries * args.score_stride,
         .score_stride = args.score_stride});
  }
  return 0;
}

/// A run with room for all of it and the host's search.
inline void let_host_search(const DeviceNeeds&, DevicePlan& plan) { plan.index_bytes = 0; }
inline DeviceRun host_run(const LoadedMember& member, const WalkSetting& setting) {
  return DeviceRun(member, setting, 0, gpu_emu::emulated_device(), 0, let_host_search);
}

/// Logits of a question in one step and of an answer, from where the sequence is.
inline Logits answer_from(ZooWalk& walk, Sequence& sequence, std::span<const int32_t> text) {
  Logits logits;
  while (sequence.n_pos() < text.size()) {
    const uint32_t n = sequence.n_pos() == kSearchRead ? kSearchAsked : 1;
    for (auto& row :
         walk.feed(sequence, text.subspan(sequence.n_pos(), n), 0, Attention::kSelected))
      logits.push_back(std::move(row));
  }
  return logits;
}
inline Logits answer_all(ZooWalk& walk, std::span<const int32_t> text) {
  Sequence sequence = walk.sequence();
  walk.feed(sequence, text.first(kSearchRead));
  return answer_from(walk, sequence, text);
}

}  // namespace strata::engine::testing

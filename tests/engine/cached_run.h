// tests/engine/cached_run.h - a walk of a member of the zoo whose contexts are saved and found.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/context_cache.h"
#include "engine/kv_placement.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine::testing {

inline constexpr uint32_t kSeed = 20261125;
inline constexpr uint32_t kChunk = 128;
inline constexpr tiers::Hash128 kModel{1, 2};

inline WalkSetting setting() {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 2;
  setting.chunk_rows = kChunk;
  setting.n_ctx = 8192;
  return setting;
}

/// A walk whose cache directory is `folder`, as one run of the program has it.
class CachedRun {
 public:
  CachedRun(const LoadedMember& member, const TestFolder& folder,
            const tiers::PackLimits& limits = {})
      : walk_(member.model, setting(), transfers(member)),
        contexts_({.directory = folder.path("contexts"), .limits = limits, .saves = true},
                  walk_.cache(), kModel, "test"),
        sequence_(walk_.sequence()) {}

  /// Reads a prompt, from what is saved of it on; the logits of the rows that were read.
  Logits read(std::span<const int32_t> prompt) {
    begin(prompt);
    return read_to(prompt, static_cast<uint32_t>(prompt.size()));
  }
  void begin(std::span<const int32_t> prompt) {
    sequence_ = contexts_.restore(walk_.cache(), prompt.first(prompt.size() - 1));
    n_restored_ = sequence_.n_pos();
    contexts_.begin(sequence_, prompt);
  }
  /// Goes on with the prompt that was begun, in whole steps, until it has n positions.
  Logits read_to(std::span<const int32_t> prompt, uint32_t n) {
    Logits logits;
    while (sequence_.n_pos() < n) {
      const auto rest = prompt.subspan(sequence_.n_pos());
      for (auto& row : walk_.feed(sequence_, rest.first(std::min<size_t>(rest.size(), kChunk))))
        logits.push_back(std::move(row));
      contexts_.save_closed(walk_.cache(), sequence_);
    }
    return logits;
  }
  void finish(const std::string& session = "") {
    contexts_.finish(walk_.walk(), sequence_, session);
    EXPECT_EQ(contexts_.problem(), "");
  }
  /// Another prompt for the same sequence, as a chat has it: what both begin with is kept.
  Logits read_after(std::span<const int32_t> prompt, uint32_t n_common) {
    contexts_.begin(sequence_, prompt);
    EXPECT_EQ(sequence_.truncate(n_common), n_common);
    return read_to(prompt, static_cast<uint32_t>(prompt.size()));
  }
  Logits feed(Sequence& sequence, std::span<const int32_t> tokens) {
    return walk_.feed(sequence, tokens);
  }
  KvCache& cache() { return walk_.cache(); }
  Walk& walk() { return walk_.walk(); }
  Sequence& sequence() { return sequence_; }
  ContextCache& contexts() { return contexts_; }
  uint32_t n_restored() const { return n_restored_; }
  ContextCacheCounts counts() const { return contexts_.counts(); }
  const tiers::StoreCounts& store() { return walk_.cache().store().counts(); }
  static std::unique_ptr<tiers::Spill> transfers(const LoadedMember& member) {
    std::vector<std::string> notices;
    return tiers::open_spill(
        {.place_bytes = place_bytes(member.model.shape(), {.n_ctx = 8192, .chunk_rows = kChunk}),
         .n_frames = 16,
         .io = tiers::IoChoice::kThreads},
        notices);
  }

 private:
  ZooWalk walk_;
  ContextCache contexts_;
  Sequence sequence_;
  uint32_t n_restored_ = 0;
};

inline std::vector<int32_t> joined(std::vector<int32_t> a, std::span<const int32_t> b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace strata::engine::testing

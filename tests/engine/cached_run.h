// tests/engine/cached_run.h - a walk with saved contexts, as one run of the program has it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "engine/context_cache.h"
#include "engine/kv_placement.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine::testing {

inline constexpr uint32_t kCachedSeed = 20261125;
inline constexpr uint32_t kCachedChunk = 128;
inline constexpr tiers::Hash128 kCachedModel{1, 2};

inline WalkSetting cached_setting() {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 2;
  setting.chunk_rows = kCachedChunk;
  setting.n_ctx = 8192;
  return setting;
}

/// A walk whose cache directory is `folder`, as one run of the program has it.
class CachedRun {
 public:
  CachedRun(const LoadedMember& member, const TestFolder& folder,
            const tiers::PackLimits& limits = {}, const WalkSetting& setting = cached_setting(),
            bool saves = true)
      : walk_(member.model, setting, transfers(member)),
        contexts_({.directory = folder.path("contexts"), .limits = limits, .saves = saves},
                  walk_.cache(), kCachedModel, "test"),
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
      for (auto& row :
           walk_.feed(sequence_, rest.first(std::min<size_t>(rest.size(), kCachedChunk))))
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
  /// Appends tokens to a sequence, or to the run's, in selected steps.
  Logits feed_selected(Sequence& sequence, std::span<const int32_t> tokens) {
    return walk_.feed(sequence, tokens, 0, Attention::kSelected);
  }
  Logits feed_selected(std::span<const int32_t> tokens) { return feed_selected(sequence_, tokens); }
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
        {.place_bytes =
             place_bytes(member.model.shape(), {.n_ctx = 8192, .chunk_rows = kCachedChunk}),
         .n_frames = 16,
         .block_bytes = KvLayout::make(KvCodec::kF16, KvCodec::kF16, member.model.shape().head_dim)
                            .block_bytes,
         .n_block_frames = 32,
         .io = tiers::IoChoice::kThreads},
        notices);
  }

 private:
  ZooWalk walk_;
  ContextCache contexts_;
  Sequence sequence_;
  uint32_t n_restored_ = 0;
};

/// A run that reads a text and saves it.
inline void save_text(const LoadedMember& member, const TestFolder& folder,
                      std::span<const int32_t> text, const std::string& session = "") {
  CachedRun run(member, folder);
  run.read(text);
  run.finish(session);
}

inline std::vector<int32_t> joined(std::vector<int32_t> a, std::span<const int32_t> b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Changes a byte in every 4,096 of the blocks of every pack; its end, which finding reads, stays.
inline uint32_t damage_packs(const TestFolder& folder) {
  uint32_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path("contexts"))) {
    if (entry.path().extension() != ".pack") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (uint64_t at = 100; at < entry.file_size() / 10 * 9; at += 4096) {
      file.seekg(static_cast<std::streamoff>(at));
      const int byte = file.get();
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(byte ^ 0x10));
    }
    ++n;
  }
  return n;
}

}  // namespace strata::engine::testing

// engine/restore_beside.h - brings a restored context into DRAM while others answer.
// Why: a sequence's first step reads all of it that only packs hold, and everybody who is walked in
// that step would wait for a disk that has gigabytes to give.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <vector>

#include "engine/walk.h"

namespace strata::engine {

/// Reads go on between calls, in half of the staging frames: the others are left to steps. So a
/// restore beside long steps comes at less than the disk's rate: after kLongest the rest is left to
/// the step that uses it, which reads as fast as the disk gives. One at a time for a cache.
/// Destroyed, it gives up what has not come; what has come stays in DRAM.
class RestoreBeside {
 public:
  static constexpr std::chrono::seconds kLongest{10};

  /// Whether a sequence may have something to read, and room for it is promised: not where there
  /// is a spill file, to which blocks might go again.
  static bool is_possible(const KvCache& cache);

  /// Everything is borrowed; the sequence neither grows nor shrinks meanwhile. Waits are left where
  /// `cancel` is set; null = nobody looks.
  RestoreBeside(KvCache& cache, ThreadPool& pool, const Sequence& sequence,
                const std::atomic<bool>* cancel);
  ~RestoreBeside();
  RestoreBeside(const RestoreBeside&) = delete;
  RestoreBeside& operator=(const RestoreBeside&) = delete;

  /// Takes what has come, checked, and asks for more; the last positions first. Waits for nothing
  /// but the second read of an extent that came back wrong. False where nothing is on its way any
  /// more: all is in DRAM, or what is not is left to the step that uses it.
  bool go_on();

 private:
  bool take_front();
  void fetch();

  KvCache& cache_;
  ThreadPool& pool_;
  const Sequence& sequence_;
  uint32_t n_extents_left_;  // from position 0 on
  const std::atomic<bool>* cancel_;
  std::chrono::steady_clock::time_point until_ = std::chrono::steady_clock::now() + kLongest;
  std::vector<tiers::ExtentId> lost_;
  std::deque<tiers::ExtentId> fetched_;
};

}  // namespace strata::engine

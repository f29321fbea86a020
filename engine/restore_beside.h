// engine/restore_beside.h - brings a restored context into DRAM while others answer.
// Why: a sequence's first step reads all of it that only packs hold, and everybody who is walked in
// that step would wait for a disk that has gigabytes to give.
#pragma once

#include <cstdint>
#include <deque>

#include "engine/walk.h"

namespace strata::engine {

/// Reads go on between calls, in half of the staging frames: the others are left to steps. One at a
/// time for a cache. Destroyed, it gives up what has not come; what has come stays in DRAM.
class RestoreBeside {
 public:
  /// Whether a sequence may have something to read, and room for it is promised: not where there
  /// is a spill file, to which blocks might go again.
  static bool is_possible(const KvCache& cache);
  /// Everything is borrowed; the sequence neither grows nor shrinks meanwhile.
  RestoreBeside(KvCache& cache, ThreadPool& pool, const Sequence& sequence);
  ~RestoreBeside();
  RestoreBeside(const RestoreBeside&) = delete;
  RestoreBeside& operator=(const RestoreBeside&) = delete;

  /// Takes what has come, checked, and asks for more; the last positions first. Waits for nothing
  /// but the second read of an extent that came back wrong. False where nothing is on its way any
  /// more: all is in DRAM, or what is not is left to the step that uses it.
  bool go_on();

 private:
  void take_front();
  void fetch();

  KvCache& cache_;
  ThreadPool& pool_;
  const Sequence& sequence_;
  uint32_t n_extents_left_;  // from position 0 on
  uint32_t n_lost_ = 0;
  std::deque<tiers::ExtentId> fetched_;
};

}  // namespace strata::engine

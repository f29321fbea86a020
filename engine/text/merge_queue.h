// engine/text/merge_queue.h - the candidate merges of one word, least key first.
// Why: one heap over a million candidates misses the cache at every level of every pop. Most merges
// make candidates of a higher rank than their own, so the queue takes the smaller half of what
// waits, sorts it, and walks it in order; only candidates that belong inside the present half go
// through a heap.
//
// Cost  O(log n) per key amortised, mostly in memory order
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/text/bulk_allocator.h"

namespace strata::engine {

class MergeQueue {
 public:
  /// Empties the queue, and makes room for the first keys of a word.
  void reset(size_t n_symbols) {
    run_.clear();
    late_.clear();
    waiting_.clear();
    at_ = 0;
    run_max_ = 0;
    waiting_.reserve(n_symbols);
  }

  void push(uint64_t key) {
    if (key > run_max_) {
      waiting_.push_back(key);
      return;
    }
    late_.push_back(key);
    std::push_heap(late_.begin(), late_.end(), std::greater<>{});
  }

  /// Takes the least key; false where the queue is empty.
  bool pop(uint64_t& key) {
    if (at_ == run_.size() && late_.empty() && !begin_run()) return false;
    if (late_.empty() || (at_ < run_.size() && run_[at_] <= late_.front())) {
      key = run_[at_++];
      return true;
    }
    std::pop_heap(late_.begin(), late_.end(), std::greater<>{});
    key = late_.back();
    late_.pop_back();
    return true;
  }

 private:
  using Keys = std::vector<uint64_t, BulkAllocator<uint64_t>>;
  // 32 KiB: what fits the first-level cache is not halved.
  static constexpr size_t kWholeRun = 4096;

  bool begin_run() {
    if (waiting_.empty()) return false;
    run_.swap(waiting_);
    waiting_.clear();
    at_ = 0;
    if (run_.size() > kWholeRun) {
      const auto middle = run_.begin() + static_cast<std::ptrdiff_t>(run_.size() / 2);
      std::nth_element(run_.begin(), middle, run_.end());
      waiting_.assign(middle, run_.end());
      run_.erase(middle, run_.end());
    }
    std::sort(run_.begin(), run_.end());
    run_max_ = run_.back();
    return true;
  }

  Keys run_;      // ascending; taken from at_ on
  Keys late_;     // a heap of keys at most run_max_ that came during the run
  Keys waiting_;  // keys of later runs, in no order
  size_t at_ = 0;
  uint64_t run_max_ = 0;
};

}  // namespace strata::engine

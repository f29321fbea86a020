// tools/serve/body_budget.h - how many bytes of request bodies may be in memory, of all together.
#pragma once

#include <atomic>
#include <cstdint>

namespace strata::serve {

/// Outlives its shares. Threads: any.
class BodyBudget {
 public:
  explicit BodyBudget(uint64_t most_bytes) : most_bytes_(most_bytes) {}
  uint64_t taken_bytes() const { return taken_bytes_; }

 private:
  friend class BodyShare;
  const uint64_t most_bytes_;
  std::atomic<uint64_t> taken_bytes_ = 0;
};

/// What one body takes of it; given back at the end.
class BodyShare {
 public:
  BodyShare() = default;
  ~BodyShare() { release(); }
  BodyShare(BodyShare&& other) noexcept;
  BodyShare& operator=(BodyShare&& other) noexcept;

  /// To so many bytes in all, of the budget that it was first grown in. False where there is no
  /// room: it stays as it was.
  bool grow(BodyBudget& of, uint64_t n_bytes);
  void release();

 private:
  BodyBudget* budget_ = nullptr;  // null = nothing is taken
  uint64_t n_bytes_ = 0;
};

}  // namespace strata::serve

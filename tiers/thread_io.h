// tiers/thread_io.h - transfers by threads that call pread and pwrite.
// Why: it needs nothing but threads, so it works where a container forbids rings, and sanitizers
// see what it writes.
#pragma once

#include <memory>

#include "tiers/io.h"

namespace strata::tiers {

/// At most n_threads transfers are with the system at once; the others of `depth` wait their turn.
/// Allocates at construction and in add_file only. Its threads take no signals. It keeps its own
/// duplicates of the files' descriptors, so that a transfer that outlives it in a hung device
/// never continues in another file.
class ThreadIo final : public Io {
 public:
  static constexpr uint32_t kDefaultThreads = 16;

  /// 1 <= depth <= kMaxIoDepth; starts min(depth, n_threads) threads. Errors: kOutOfMemory (no
  /// thread).
  explicit ThreadIo(uint32_t depth, uint32_t n_threads = kDefaultThreads);
  /// Threads that sit in a system call are left to end by themselves.
  ~ThreadIo() override;
  ThreadIo(const ThreadIo&) = delete;
  ThreadIo& operator=(const ThreadIo&) = delete;

  std::string_view name() const override { return "threads"; }
  uint32_t depth() const override;
  uint64_t prepare_memory(std::span<std::byte>) override { return 0; }
  /// Errors: kIo (no descriptor is left for the duplicate).
  IoFile add_file(const File& file) override;
  void remove_file(IoFile file) override;
  uint32_t alignment(IoFile file) const override;
  uint32_t submit(std::span<const IoRequest> requests) override;
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override;
  uint32_t in_flight() const override { return n_in_flight_; }

 private:
  struct State;
  std::shared_ptr<State> state_;  // each thread holds it too
  uint32_t n_in_flight_ = 0;
};

}  // namespace strata::tiers

// base/thread_pool.h - a fixed set of threads that run one task at a time.
// Why: decode starts about 150 short parallel regions per token; workers spin briefly between them
// and sleep when idle.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

namespace strata {

/// The calling thread is worker 0, so a pool of one starts no thread. One caller at a time. Where
/// there are as many threads as CPUs that may be used, each worker but the caller is bound to one,
/// and leaves it when the caller runs there.
class ThreadPool {
 public:
  /// n_threads >= 1. Threads that cannot be started throw Error(kOutOfMemory).
  explicit ThreadPool(uint32_t n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  uint32_t size() const { return n_threads_; }

  /// Calls task(worker) once on every worker, worker in [0, size()), and returns when all have
  /// returned. No lock and no allocation unless a worker has gone to sleep. What the task throws
  /// is thrown again here, the first of several, once all have returned.
  template <class Task>
  void run(Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    run_erased([](void* context, uint32_t worker) { (*static_cast<Plain*>(context))(worker); },
               const_cast<void*>(static_cast<const void*>(&task)));
  }

  /// Calls task(begin, end, worker) over [0, n_items) in pieces of at most `grain` items, handed
  /// out as workers ask. Which worker gets which piece varies from run to run, so a task's result
  /// must not depend on it.
  template <class Task>
  void for_each(uint64_t n_items, uint64_t grain, Task&& task) {
    if (n_items == 0) return;
    if (size() == 1 || n_items <= grain) {
      for (uint64_t begin = 0; begin < n_items; begin += grain)
        task(begin, begin + grain < n_items ? begin + grain : n_items, 0u);
      return;
    }
    next_item_.store(0, std::memory_order_relaxed);
    run([&](uint32_t worker) {
      for (;;) {
        const uint64_t begin = next_item_.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= n_items) return;
        task(begin, begin + grain < n_items ? begin + grain : n_items, worker);
      }
    });
  }

  /// As for_each, in pieces of a share of what is left, so the first are long and the last are one
  /// item: for items that fetch what their neighbour reads, which another worker would not find.
  template <class Task>
  void for_each_guided(uint64_t n_items, Task&& task) {
    if (n_items == 0) return;
    if (size() == 1 || n_items == 1) return task(uint64_t{0}, n_items, 0u);
    next_item_.store(0, std::memory_order_relaxed);
    run([&](uint32_t worker) {
      uint64_t begin = 0;
      while ((begin = next_item_.load(std::memory_order_relaxed)) < n_items) {
        const uint64_t share = (n_items - begin) / (kGuidedShares * size());
        const uint64_t end = begin + (share > 0 ? share : 1);
        if (next_item_.compare_exchange_weak(begin, end, std::memory_order_relaxed))
          task(begin, end, worker);
      }
    });
  }

  /// As for_each, where each worker begins with items of its own, always the same ones: worker w
  /// with [begins[w], begins[w + 1]), in pieces of half of what is left, then from the ends of what
  /// others have left. `begins` ascends from 0 and has size() + 1 values.
  template <class Task>
  void for_each_own(std::span<const uint32_t> begins, Task&& task) {
    deal_out(begins);
    run([&](uint32_t worker) {
      for (uint32_t i = 0; i < size(); ++i) {
        std::atomic<uint64_t>& left = shares_[(worker + i) % size()].left;
        for (;;) {
          const Items piece = take_half(left, i == 0);
          if (piece.begin == piece.end) break;
          task(piece.begin, piece.end, worker);
        }
      }
    });
  }

  /// What the worker reads first in the region after the next: until others are set, it fetches
  /// them into the second cache whenever it has ended its part of a region and waits. The caller
  /// goes on before it has asked for all of them. They are never read, so they may be gone.
  /// Called between regions.
  void set_ahead(uint32_t worker, std::span<const std::byte> bytes) {
    shares_[worker].ahead = bytes;
  }

 private:
  struct Items {
    uint32_t begin, end;
  };
  /// One worker's.
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};     // items of for_each_own: the first, and the end << 32
    std::span<const std::byte> ahead;  // changed between regions alone
  };
  static constexpr int kNoCpu = -1;
  // Of what is left, for each worker: one that is held up in its first piece leaves the others the
  // rest.
  static constexpr uint64_t kGuidedShares = 2;
  using Erased = void (*)(void* context, uint32_t worker);
  void run_erased(Erased task, void* context);
  void run_task(Erased task, void* context, uint32_t worker) noexcept;
  void wait_others();
  void deal_out(std::span<const uint32_t> begins);
  static Items take_half(std::atomic<uint64_t>& left, bool from_front);
  void wake_all();
  void stop();
  void work(uint32_t worker, int cpu);
  int leave_caller(int cpu);
  uint64_t wait_next(uint64_t seen, std::span<const std::byte> ahead);

  const uint32_t n_threads_;
  Erased task_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint64_t> generation_{0};  // a new value starts a region
  alignas(64) std::atomic<uint32_t> n_running_{0};   // workers still inside the region
  alignas(64) std::atomic<uint64_t> next_item_{0};
  alignas(64) std::atomic<uint32_t> n_sleeping_{0};
  const std::unique_ptr<Share[]> shares_;
  std::atomic<int> caller_cpu_{kNoCpu};  // at the start of the region, where workers are bound
  std::atomic<int> spare_cpu_{kNoCpu};   // that no worker is bound to; kNoCpu: none is
  std::atomic<bool> stop_{false};
  std::atomic<bool> has_failed_{false};  // since the region began
  std::exception_ptr failure_;           // of the worker that set it
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::vector<std::jthread> threads_;  // last: joined before what they use goes away
};

}  // namespace strata

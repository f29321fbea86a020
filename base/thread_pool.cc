// Measured against oneTBB (2 cores, Zen 4, November 2026): see docs/measurements.md, "Thread pool".
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace strata {
namespace {

// About 50 us of spinning before a worker sleeps: longer than the serial work between two regions
// of a decode step, short enough that an idle program uses no core.
constexpr uint32_t kSpinsBeforeSleep = 20000;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// The CPUs that this thread may use, where they are as many as threads; else none. Each worker is
/// bound to one: beside other work two that spin for each other were put on the same CPU (see
/// docs/measurements.md, "Thread pool"). Worker 0 stays free: it is any thread that calls, and
/// what it starts would be bound as it is. Where the system runs it on the CPU of a worker, that
/// one moves (leave_caller()).
std::vector<int> cpu_of_each(uint32_t n_threads) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 ||
      static_cast<uint32_t>(CPU_COUNT(&allowed)) != n_threads)
    return {};
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(static_cast<size_t>(cpu), &allowed)) cpus.push_back(cpu);
  return cpus;
}

/// A thread that may not be bound stays free.
void bind_to(pthread_t thread, int cpu) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(static_cast<size_t>(cpu), &only);
  (void)pthread_setaffinity_np(thread, sizeof(only), &only);
}

}  // namespace

ThreadPool::ThreadPool(uint32_t n_threads) : n_threads_(n_threads) {
  STRATA_CHECK(n_threads >= 1, "n_threads=%u", n_threads);
  threads_.reserve(n_threads - 1);
  const std::vector<int> cpus = cpu_of_each(n_threads);
  if (!cpus.empty()) spare_cpu_ = cpus[0];
  try {
    for (uint32_t worker = 1; worker < n_threads; ++worker) {
      const int cpu = cpus.empty() ? kNoCpu : cpus[worker];
      threads_.emplace_back([this, worker, cpu] { work(worker, cpu); });
      if (cpu != kNoCpu) bind_to(threads_.back().native_handle(), cpu);
    }
  } catch (const std::system_error& failure) {
    stop();
    throw Error(ErrorCode::kOutOfMemory, std::string("cannot start a thread: ") + failure.what(),
                "-t", "ask for fewer threads with -t");
  } catch (...) {  // no memory: those that run would be waited for
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::wake_all() {
  { const std::lock_guard lock(sleep_mutex_); }
  wake_.notify_all();
}

void ThreadPool::stop() {
  stop_.store(true, std::memory_order_seq_cst);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  wake_all();
  threads_.clear();
}

/// The others use what the caller holds, so nothing leaves a region before its end.
void ThreadPool::run_task(Erased task, void* context, uint32_t worker) noexcept {
  try {
    task(context, worker);
  } catch (...) {
    if (!has_failed_.exchange(true, std::memory_order_relaxed)) failure_ = std::current_exception();
  }
}

void ThreadPool::run_erased(Erased task, void* context) {
  if (n_threads_ == 1) {
    task(context, 0);
    return;
  }
  task_ = task;
  context_ = context;
  if (spare_cpu_.load(std::memory_order_relaxed) != kNoCpu)
    caller_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
  n_running_.store(n_threads_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (n_sleeping_.load(std::memory_order_seq_cst) != 0) wake_all();
  run_task(task, context, 0);
  // The others are in the same region; the wait is bounded by their share of it.
  for (uint32_t spins = 0; n_running_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins > kSpinsBeforeSleep) std::this_thread::yield();
    pause_cpu();
  }
  if (!has_failed_.load(std::memory_order_relaxed)) return;
  has_failed_.store(false, std::memory_order_relaxed);
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

uint64_t ThreadPool::wait_next(uint64_t seen) {
  for (uint32_t spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    const uint64_t now = generation_.load(std::memory_order_acquire);
    if (now != seen) return now;
    pause_cpu();
  }
  std::unique_lock lock(sleep_mutex_);
  n_sleeping_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
  n_sleeping_.fetch_sub(1, std::memory_order_seq_cst);
  return generation_.load(std::memory_order_acquire);
}

/// A worker whose CPU the caller has come to takes the one that no worker has, which may be where
/// the caller comes from. At most one worker of a region does.
int ThreadPool::leave_caller(int cpu) {
  if (cpu == kNoCpu || cpu != caller_cpu_.load(std::memory_order_relaxed)) return cpu;
  const int spare = spare_cpu_.exchange(cpu, std::memory_order_relaxed);
  bind_to(pthread_self(), spare);
  return spare;
}

void ThreadPool::work(uint32_t worker, int cpu) {
  uint64_t seen = 0;
  for (;;) {
    seen = wait_next(seen);
    if (stop_.load(std::memory_order_acquire)) return;
    cpu = leave_caller(cpu);
    run_task(task_, context_, worker);
    n_running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace strata

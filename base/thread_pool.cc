// Measured against oneTBB (2 cores, Zen 4, November 2026): see docs/measurements.md, "Thread pool".
// What a region costs on two CPUs between which a line travels half a microsecond, and what was
// tried for it: there, "A token without a past, by two threads".
#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace strata {
namespace {

// About 50 us of spinning before a worker sleeps: longer than the serial work between two regions
// of a decode step, short enough that an idle program uses no core.
constexpr uint32_t kSpinsBeforeSleep = 20000;

constexpr uint64_t kLine = 64;
// Lines asked for between two looks at what is waited for: 14 ns of what a core reads.
constexpr uint64_t kLinesAtOnce = 8;
// Times that many which the caller leaves on their way when it goes on: more would keep what it
// reads itself waiting.
constexpr uint32_t kFetchesBehind = 8;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Asks for the first lines of `bytes` and takes them off; false where none was left.
bool fetch_some(std::span<const std::byte>& bytes) {
  if (bytes.empty()) return false;
  const auto some = bytes.first(std::min(bytes.size(), kLinesAtOnce * kLine));
  for (uint64_t at = 0; at < some.size(); at += kLine) __builtin_prefetch(some.data() + at, 0, 2);
  bytes = bytes.subspan(some.size());
  return true;
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

ThreadPool::ThreadPool(uint32_t n_threads)
    : n_threads_(n_threads), shares_(std::make_unique<Share[]>(n_threads)) {
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
    return wait_others();
  }
  task_ = task;
  context_ = context;
  if (spare_cpu_.load(std::memory_order_relaxed) != kNoCpu)
    caller_cpu_.store(sched_getcpu(), std::memory_order_relaxed);
  n_running_.store(n_threads_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (n_sleeping_.load(std::memory_order_seq_cst) != 0) wake_all();
  run_task(task, context, 0);
  wait_others();
  if (!has_failed_.load(std::memory_order_relaxed)) return;
  has_failed_.store(false, std::memory_order_relaxed);
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

/// The others are in the same region; the wait is bounded by their share of it.
void ThreadPool::wait_others() {
  std::span<const std::byte> ahead = shares_[0].ahead;
  for (uint32_t spins = 0; n_running_.load(std::memory_order_acquire) != 0; ++spins) {
    if (fetch_some(ahead)) continue;
    if (spins > kSpinsBeforeSleep) std::this_thread::yield();
    pause_cpu();
  }
  for (uint32_t i = 0; i < kFetchesBehind && fetch_some(ahead); ++i) {
  }
}

void ThreadPool::deal_out(std::span<const uint32_t> begins) {
  STRATA_CHECK(begins.size() == size() + 1 && begins[0] == 0, "%zu begins for %u workers",
               begins.size(), size());
  for (uint32_t worker = 0; worker < size(); ++worker) {
    STRATA_CHECK(begins[worker] <= begins[worker + 1], "share %u of %u to %u", worker,
                 begins[worker], begins[worker + 1]);
    shares_[worker].left.store(begins[worker] | uint64_t{begins[worker + 1]} << 32,
                               std::memory_order_relaxed);
  }
}

ThreadPool::Items ThreadPool::take_half(std::atomic<uint64_t>& left, bool from_front) {
  uint64_t seen = left.load(std::memory_order_relaxed);
  for (;;) {
    const auto begin = static_cast<uint32_t>(seen);
    const auto end = static_cast<uint32_t>(seen >> 32);
    const uint32_t n = (end - begin + 1) / 2;
    const Items piece = from_front ? Items{begin, begin + n} : Items{end - n, end};
    const uint64_t rest =
        from_front ? piece.end | uint64_t{end} << 32 : begin | uint64_t{piece.begin} << 32;
    if (n == 0 || left.compare_exchange_weak(seen, rest, std::memory_order_relaxed)) return piece;
  }
}

uint64_t ThreadPool::wait_next(uint64_t seen, std::span<const std::byte> ahead) {
  for (uint32_t spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    const uint64_t now = generation_.load(std::memory_order_acquire);
    if (now != seen) return now;
    if (!fetch_some(ahead)) pause_cpu();
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
  std::span<const std::byte> ahead;
  for (;;) {
    seen = wait_next(seen, ahead);
    if (stop_.load(std::memory_order_acquire)) return;
    cpu = leave_caller(cpu);
    run_task(task_, context_, worker);
    ahead = shares_[worker].ahead;  // once the region has ended, the caller may change it
    n_running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace strata

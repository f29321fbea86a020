#include "tiers/thread_io.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "tiers/file.h"
#include "tiers/transfer.h"

namespace strata::tiers {
namespace {

struct Job {
  Transfer transfer;
  int descriptor = -1;
};

/// In memory that it has from the start.
template <class T>
class Fifo {
 public:
  explicit Fifo(uint32_t capacity) : items_(capacity) {}
  bool is_empty() const { return n_ == 0; }
  void push(const T& item) {
    STRATA_CHECK(n_ < items_.size(), "%zu items", items_.size());
    items_[(first_ + n_++) % items_.size()] = item;
  }
  T pop() {
    const T item = items_[first_];
    first_ = (first_ + 1) % items_.size();
    --n_;
    return item;
  }

 private:
  std::vector<T> items_;
  size_t first_ = 0;
  size_t n_ = 0;
};

/// While it lives, threads that this thread starts begin with every signal blocked: a handler of
/// the program then never interrupts a transfer.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

int64_t call_system(const Job& job) {
  const Transfer& transfer = job.transfer;
  const auto offset = static_cast<off_t>(transfer.offset());
  const ssize_t moved = transfer.request.op == IoOp::kRead
                            ? ::pread(job.descriptor, transfer.memory(), transfer.bytes(), offset)
                            : ::pwrite(job.descriptor, transfer.memory(), transfer.bytes(), offset);
  return moved >= 0 ? moved : -errno;
}

}  // namespace

struct ThreadIo::State {
  explicit State(uint32_t depth_) : depth(depth_), waiting(depth_), finished(depth_) {}
  ~State() {
    for (const OpenFile& file : files)
      if (file.descriptor >= 0) ::close(file.descriptor);
  }

  struct OpenFile {
    int descriptor;  // -1: removed
    uint32_t alignment;
  };
  const uint32_t depth;
  std::vector<OpenFile> files;  // the caller's; jobs carry what a thread needs of it
  std::mutex mutex;
  std::condition_variable has_waiting;
  std::condition_variable has_finished;
  Fifo<Job> waiting;
  Fifo<IoCompletion> finished;
  bool is_stopping = false;
  std::vector<uint8_t> is_busy;  // per thread: it is in a system call
  std::vector<std::thread> threads;

  void work(uint32_t thread);
  void stop();
};

void ThreadIo::State::work(uint32_t thread) {
  std::unique_lock lock(mutex);
  for (;;) {
    has_waiting.wait(lock, [&] { return is_stopping || !waiting.is_empty(); });
    if (is_stopping) return;
    Job job = waiting.pop();
    is_busy[thread] = 1;
    IoCompletion completion;
    for (bool is_finished = false; !is_finished;) {
      lock.unlock();
      const int64_t answer = call_system(job);
      lock.lock();
      if (is_stopping) return;
      is_finished = finish(job.transfer, answer, completion);
    }
    is_busy[thread] = 0;
    finished.push(completion);
    has_finished.notify_one();
  }
}

void ThreadIo::State::stop() {
  std::unique_lock lock(mutex);
  is_stopping = true;
  has_waiting.notify_all();
  for (uint32_t i = 0; i < threads.size(); ++i) {
    if (is_busy[i]) threads[i].detach();
  }
  lock.unlock();
  // The others are asleep, or between their sleep and the lock: they end at once.
  for (std::thread& thread : threads) {
    if (thread.joinable()) thread.join();
  }
}

ThreadIo::ThreadIo(uint32_t depth, uint32_t n_threads) {
  STRATA_CHECK(depth >= 1 && depth <= kMaxIoDepth, "depth=%u", depth);
  STRATA_CHECK(n_threads >= 1, "n_threads=%u", n_threads);
  n_threads = std::min(n_threads, depth);
  state_ = std::make_shared<State>(depth);
  state_->is_busy.assign(n_threads, 0);
  state_->threads.reserve(n_threads);
  const SignalsBlocked blocked;
  try {
    for (uint32_t i = 0; i < n_threads; ++i)
      state_->threads.emplace_back([state = state_, i] { state->work(i); });
  } catch (const std::system_error& failure) {
    if (!state_->threads.empty()) return;  // fewer threads are slower, not wrong
    throw Error(ErrorCode::kOutOfMemory,
                std::string("cannot start a thread for file transfers: ") + failure.what(), "",
                "close other programs or raise the limit on processes (ulimit -u)");
  } catch (...) {  // no memory: those that run would wait for ever
    state_->stop();
    throw;
  }
}

ThreadIo::~ThreadIo() { state_->stop(); }

uint32_t ThreadIo::depth() const { return state_->depth; }

IoFile ThreadIo::add_file(const File& file) {
  state_->files.reserve(state_->files.size() + 1);  // nothing fails once there is a descriptor
  const int descriptor = ::fcntl(file.descriptor(), F_DUPFD_CLOEXEC, 0);
  if (descriptor < 0)
    throw Error(ErrorCode::kIo,
                "cannot duplicate the descriptor of '" + file.name() + "': " + std::strerror(errno),
                file.name(), "raise the limit on open files (ulimit -n)");
  auto& files = state_->files;
  auto place = std::ranges::find(files, -1, &State::OpenFile::descriptor);
  if (place == files.end()) place = files.insert(files.end(), State::OpenFile{});
  *place = {descriptor, file.alignment()};
  return static_cast<IoFile>(place - files.begin());
}

void ThreadIo::remove_file(IoFile file) {
  const auto index = static_cast<uint32_t>(file);
  STRATA_CHECK(index < state_->files.size() && state_->files[index].descriptor >= 0,
               "file %u of %zu", index, state_->files.size());
  ::close(state_->files[index].descriptor);
  state_->files[index].descriptor = -1;
}

uint32_t ThreadIo::alignment(IoFile file) const {
  const auto index = static_cast<uint32_t>(file);
  STRATA_CHECK(index < state_->files.size(), "file %u of %zu", index, state_->files.size());
  return state_->files[index].alignment;
}

uint32_t ThreadIo::submit(std::span<const IoRequest> requests) {
  const auto n =
      static_cast<uint32_t>(std::min<uint64_t>(requests.size(), state_->depth - n_in_flight_));
  if (n == 0) return 0;
  {
    const std::lock_guard lock(state_->mutex);
    for (const IoRequest& request : requests.first(n)) {
      const auto index = static_cast<uint32_t>(request.file);
      STRATA_CHECK(index < state_->files.size(), "file %u of %zu", index, state_->files.size());
      const State::OpenFile& file = state_->files[index];
      check_request(request, file.alignment);
      state_->waiting.push({{.request = request, .alignment = file.alignment}, file.descriptor});
    }
  }
  n_in_flight_ += n;
  if (n == 1)
    state_->has_waiting.notify_one();
  else
    state_->has_waiting.notify_all();
  return n;
}

uint32_t ThreadIo::wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) {
  if (n_in_flight_ == 0 || out.empty()) return 0;
  std::unique_lock lock(state_->mutex);
  if (timeout.count() > 0)
    state_->has_finished.wait_for(lock, std::min(timeout, kMaxIoWait),
                                  [&] { return !state_->finished.is_empty(); });
  uint32_t n = 0;
  while (n < out.size() && !state_->finished.is_empty()) out[n++] = state_->finished.pop();
  n_in_flight_ -= n;
  return n;
}

}  // namespace strata::tiers

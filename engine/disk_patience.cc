#include "engine/disk_patience.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"

namespace strata::engine {
namespace {

constexpr std::chrono::milliseconds kLook{100};  // at the flag that ends a wait

struct LeftWork {
  std::function<void()> work;
  std::mutex mutex;  // of what follows
  std::condition_variable ended;
  bool has_ended = false;
  std::exception_ptr failure;
};

void run(LeftWork& of) {
  std::exception_ptr failure;
  try {
    of.work();
  } catch (...) {
    failure = std::current_exception();
  }
  of.work = nullptr;
  const std::lock_guard lock(of.mutex);
  of.failure = std::move(failure);
  of.has_ended = true;
  of.ended.notify_all();
}

}  // namespace

void fail_hung() {
  throw Error(ErrorCode::kIo, "the disk of saved contexts does not answer", "--session-dir",
              "look at the disk (dmesg), or name a folder on another one");
}

DiskWatch::DiskWatch(const DiskPatience& patience) : patience_(patience) {}

std::chrono::milliseconds DiskWatch::pause() const {
  return std::min(kLook, patience_.silence_max);
}

void DiskWatch::look(uint64_t n_answers) {
  if (patience_.cancel != nullptr && patience_.cancel->load(std::memory_order_relaxed))
    throw Error(ErrorCode::kCancelled, "waiting for the disk of saved contexts was stopped");
  silence_ += pause();
  if (std::exchange(n_answers_, n_answers) != n_answers) silence_ = {};
  if (silence_ >= patience_.silence_max) fail_hung();
}

void do_patiently(const DiskPatience& patience, const std::function<uint64_t()>& n_answers,
                  std::function<void()> work) {
  const auto left = std::make_shared<LeftWork>();
  left->work = std::move(work);
  try {
    std::thread([left] { run(*left); }).detach();
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::kOutOfMemory,
                std::string("no thread for saved contexts: ") + error.what(), "",
                "free memory, or use --no-cache");
  }
  DiskWatch watch(patience);
  std::unique_lock lock(left->mutex);
  while (!left->ended.wait_for(lock, watch.pause(), [&] { return left->has_ended; }))
    watch.look(n_answers ? n_answers() : 0);
  if (left->failure) std::rethrow_exception(std::exchange(left->failure, nullptr));
}

std::shared_ptr<tiers::DurableDirectory> open_patiently(const std::string& path,
                                                        tiers::DurableCalls* calls,
                                                        const DiskPatience& patience,
                                                        std::shared_ptr<const void> until_end) {
  const auto files = std::make_shared<std::shared_ptr<tiers::DurableDirectory>>();
  do_patiently(patience, {}, [files, path, calls, until_end = std::move(until_end)] {
    *files = tiers::DurableDirectory::open(path, calls == nullptr ? tiers::system_calls() : *calls);
  });
  return *files;
}

}  // namespace strata::engine

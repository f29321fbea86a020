// engine/disk_patience.h - waiting for a disk that may never answer.
// Why: looking up a saved context is made of system calls, and one on a disk that hangs does not
// return. So such work runs on a thread of its own, and whoever waits for it can leave it there.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "tiers/pack_directory.h"

namespace strata::engine {

/// As the deadline of a transfer (tiers/transfer_queue.h).
inline constexpr std::chrono::milliseconds kDiskSilenceMax{10000};

struct DiskPatience {
  std::chrono::milliseconds silence_max = kDiskSilenceMax;  // between two answers of the disk
  const std::atomic<bool>* cancel = nullptr;  // set, it ends the waiting; null = nobody looks
};

/// Of somebody who waits for what another thread does with a disk.
class DiskWatch {
 public:
  explicit DiskWatch(const DiskPatience& patience);
  /// How long to wait until the next look(), which takes it that this was waited.
  std::chrono::milliseconds pause() const;
  /// `n_answers`: of the disk, so far. Errors: kIo where none came for silence_max; kCancelled.
  void look(uint64_t n_answers);

 private:
  DiskPatience patience_;
  uint64_t n_answers_ = 0;
  // Waited since there were so many. Not by a clock: a process that was stopped has not waited.
  std::chrono::milliseconds silence_{0};
};

/// Errors: kIo, as DiskWatch::look() where the disk hangs.
[[noreturn]] void fail_hung();

/// Calls `work` on a thread of its own and waits until it has ended and is destroyed. `n_answers`
/// says how often the disk has answered it so far; empty: it is not known. Left by an error of the
/// watch, the work goes on by itself when the disk answers, so all that it refers to must be its
/// own.   Errors: those of DiskWatch::look() and of `work`; kOutOfMemory (no thread).
void do_patiently(const DiskPatience& patience, const std::function<uint64_t()>& n_answers,
                  std::function<void()> work);

/// DurableDirectory::open. `calls`: null = the system's; else they outlive every thread.
/// `until_end` is held until the work has ended. Errors: those of both.
std::shared_ptr<tiers::DurableDirectory> open_patiently(
    const std::string& path, tiers::DurableCalls* calls, const DiskPatience& patience,
    std::shared_ptr<const void> until_end = nullptr);

/// What `use` returns of a directory that is opened for it (PackDirectory::open), on a thread as
/// do_patiently() has it: all that `use` refers to must be its own. Errors: those of all.
template <class Use>
auto use_patiently(std::shared_ptr<tiers::DurableDirectory> files, const tiers::PackLimits& limits,
                   const DiskPatience& patience, Use use) {
  const auto answer =
      std::make_shared<std::optional<std::invoke_result_t<Use&, tiers::PackDirectory>>>();
  do_patiently(
      patience, [files] { return files->n_answers(); },
      [files, limits, answer, use] {
        answer->emplace(use(tiers::PackDirectory::open(files, limits)));
      });
  return std::move(**answer);
}

}  // namespace strata::engine

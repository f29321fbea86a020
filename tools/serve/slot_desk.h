// tools/serve/slot_desk.h - actions on slots as far as they are none of the engine's thread: how
// many are open, who opens the folder of saved contexts, and until when the disk is waited for.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "engine/answer_scheduler.h"
#include "engine/saved_sessions.h"
#include "tools/serve/answer_service.h"
#include "tools/serve/slot_job.h"

namespace strata::serve {

/// More that are open are refused: each may wait for the disk, and keeps a thread of the server.
inline constexpr uint64_t kSlotActionsMax = 4;

/// Threads: any; all of them have left before this goes.
class SlotDesk {
 public:
  /// Waits until the engine's thread has done the job. Errors: kCancelled, the job's failure.
  using RunJob = std::function<void(const std::shared_ptr<SlotJob>&)>;

  /// Made before the engine's thread takes the scheduler.
  explicit SlotDesk(const engine::AnswerScheduler& scheduler)
      : sessions_(scheduler.sessions(&stops_)) {}

  /// Errors: those of AnswerService::act_on_slot.
  SlotOutcome act(const SlotAction& action, const RunJob& run_job);
  uint64_t n_open() const;
  /// False where some are open at that time.
  bool wait_ended(std::chrono::steady_clock::time_point until);
  /// Ends the waits of those that are open with kCancelled.
  void stop() { stops_ = true; }

 private:
  SlotOutcome act_admitted(const SlotAction& action, const RunJob& run_job);
  std::unique_lock<std::timed_mutex> take_folder();

  std::atomic<bool> stops_ = false;
  const std::optional<engine::SavedSessions> sessions_;
  std::timed_mutex folder_;  // one at a time opens it

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable ended_;
  uint64_t n_open_ = 0;
};

}  // namespace strata::serve

#include "tools/serve/slot_desk.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "engine/text_roots.h"

namespace strata::serve {
namespace {

using Kind = SlotAction::Kind;

constexpr std::chrono::milliseconds kLook{100};  // at the flag that ends a wait

}  // namespace

uint64_t SlotDesk::n_open() const {
  const std::lock_guard lock(mutex_);
  return n_open_;
}

bool SlotDesk::wait_ended(std::chrono::steady_clock::time_point until) {
  std::unique_lock lock(mutex_);
  return ended_.wait_until(lock, until, [&] { return n_open_ == 0; });
}

/// Who is in front ends by bounds of his own. Errors: kCancelled.
std::unique_lock<std::timed_mutex> SlotDesk::take_folder() {
  std::unique_lock turn(folder_, std::defer_lock);
  // By the clock of the wall, as PackPublisher waits.
  while (!turn.try_lock_until(std::chrono::system_clock::now() + kLook))
    if (stops_) throw Error(ErrorCode::kCancelled, "the server is stopping");
  return turn;
}

SlotOutcome SlotDesk::act(const SlotAction& action, const RunJob& run_job) {
  {
    const std::lock_guard lock(mutex_);
    if (n_open_ >= kSlotActionsMax)
      throw Error(ErrorCode::kBusy, fmt::format("{} actions on slots are at work", n_open_), "",
                  "try again later");
    ++n_open_;
  }
  struct Leaving {
    SlotDesk& desk;
    ~Leaving() {
      const std::lock_guard lock(desk.mutex_);
      --desk.n_open_;
      desk.ended_.notify_all();
    }
  } const leaving{*this};
  return act_admitted(action, run_job);
}

SlotOutcome SlotDesk::act_admitted(const SlotAction& action, const RunJob& run_job) {
  const auto job = std::make_shared<SlotJob>();
  job->action = action;
  if (action.kind == Kind::kErase) {
    run_job(job);
    return job->outcome;
  }
  if (!sessions_)
    throw Error(ErrorCode::kUnsupported, "this server has no folder of saved contexts", "",
                "Start it without --no-cache; where it was, its standard error says why.");
  if (action.kind == Kind::kSave) {
    run_job(job);
    if (!job->text) return job->outcome;
    sessions_->wait_on_disk(*job->text);
    const auto turn = take_folder();
    const engine::NamedContext saved = sessions_->save(action.name, *job->text);
    return {SlotOutcome::End::kDone, saved.tokens.size(), saved.bytes};
  }
  std::unique_lock turn = take_folder();
  auto found = sessions_->find(action.name, engine::prefix_root(action.owner));
  turn.unlock();
  if (!found) return {SlotOutcome::End::kNoName, 0, 0};
  job->tokens = std::move(found->tokens);
  job->outcome.n_bytes = found->bytes;
  run_job(job);
  return job->outcome;
}

}  // namespace strata::serve

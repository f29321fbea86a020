#include "tools/serve/slot_job.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/text_roots.h"

namespace strata::serve {
namespace {

using Kind = SlotAction::Kind;
using Place = engine::SlotLook::Place;

void check_length(const SlotJob& job, uint64_t n_held, uint64_t n_ctx) {
  if (job.action.kind == Kind::kSave && n_held < engine::kSavedTokensMin)
    throw Error(ErrorCode::kUsage,
                fmt::format("slot {} has {} tokens; wanted {} or more", job.action.slot, n_held,
                            engine::kSavedTokensMin),
                "", "Send the text instead: so few tokens are read anew more quickly.");
  if (job.action.kind == Kind::kRestore && job.tokens.size() > n_ctx)
    throw Error(ErrorCode::kContextLengthExceeded,
                fmt::format("it has {} tokens; the context holds {}", job.tokens.size(), n_ctx),
                "filename", fmt::format("Start the server with -c {} or more.", job.tokens.size()));
}

/// What stands against the action, which is not an error.
SlotOutcome::End end_of(Kind kind, Place place) {
  if (place == Place::kBusy) return SlotOutcome::End::kIsBusy;
  const bool is_there = place == Place::kIdle || (kind == Kind::kRestore && place == Place::kFree);
  return is_there ? SlotOutcome::End::kDone : SlotOutcome::End::kNoSlot;
}

void act(engine::AnswerScheduler& scheduler, uint64_t n_ctx, SlotJob& job) {
  const uint32_t slot = job.action.slot;
  const tiers::Hash128 root = engine::prefix_root(job.action.owner);
  const engine::SlotLook look = scheduler.look_at_slot(slot, root);
  job.outcome.end = end_of(job.action.kind, look.place);
  if (job.outcome.end != SlotOutcome::End::kDone) return;
  check_length(job, look.n_tokens, n_ctx);
  switch (job.action.kind) {
    case Kind::kSave:
      job.text = scheduler.save_slot(slot);
      return;
    case Kind::kRestore:
      job.outcome.n_tokens = scheduler.restore_slot(slot, job.tokens, root);
      return;
    case Kind::kErase:
      job.outcome.n_tokens = scheduler.erase_slot(slot);
      return;
  }
}

}  // namespace

void run_slot_job(engine::AnswerScheduler& scheduler, uint64_t n_ctx, SlotJob& job) {
  try {
    act(scheduler, n_ctx, job);
  } catch (...) {
    job.failure = std::current_exception();
  }
}

}  // namespace strata::serve

// tools/serve/slot_job.h - the part of an action on a slot that the engine's thread does, between
// two steps: the disk is waited for by who asks (engine/saved_sessions.h).
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <vector>

#include "engine/answer_scheduler.h"
#include "tools/serve/answer_service.h"

namespace strata::serve {

struct SlotJob {
  SlotAction action;
  std::vector<engine::TokenId> tokens;  // kRestore: those of the session
  SlotOutcome outcome;
  std::optional<engine::TextToName> text;  // kSave: what is to get the name
  std::exception_ptr failure;              // instead of an outcome
  bool is_done = false;                    // set by who made the job known as done
};

/// On the scheduler's thread. Throws nothing: errors are the job's failure.
void run_slot_job(engine::AnswerScheduler& scheduler, uint64_t n_ctx, SlotJob& job);

}  // namespace strata::serve

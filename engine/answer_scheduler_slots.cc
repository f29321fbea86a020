// Slots: contexts that are held, by number, for who saves, restores and erases them.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "engine/answer_scheduler.h"

namespace strata::engine {

bool AnswerScheduler::is_used_slot(uint32_t slot) const {
  const auto has_it = [slot](const HeldContext& held) { return held.slot == slot; };
  return std::ranges::any_of(idle_, has_it) ||
         std::ranges::any_of(working_, [&](const auto& work) { return has_it(work->context); });
}

/// A context that is held from now on, in the lowest slot that is free.
HeldContext AnswerScheduler::hold(Sequence sequence, std::unique_ptr<ContextCache> saver) {
  uint32_t slot = 0;
  while (is_used_slot(slot)) ++slot;
  return {++n_ids_, slot, std::move(sequence), {}, std::move(saver)};
}

size_t AnswerScheduler::idle_idx(uint32_t slot) const {
  const auto held = std::ranges::find(idle_, slot, &HeldContext::slot);
  STRATA_CHECK(held != idle_.end(), "slot %u is not idle", slot);
  return static_cast<size_t>(held - idle_.begin());
}

SlotLook AnswerScheduler::look_at_slot(uint32_t slot, const tiers::Hash128& root) const {
  using Place = SlotLook::Place;
  const auto place_of = [&](const HeldContext& held, Place own) {
    return held.sequence.chain_at(0) == root ? own : Place::kForeign;
  };
  for (const auto& work : working_)
    if (work->context.slot == slot) return {place_of(work->context, Place::kBusy), 0};
  for (const HeldContext& held : idle_)
    if (held.slot == slot) return {place_of(held, Place::kIdle), held.sequence.n_pos()};
  return {};
}

TextToName AnswerScheduler::save_slot(uint32_t slot) {
  HeldContext& held = idle_[idle_idx(slot)];
  return contexts_.save_to_name(held.saver.get(), held.sequence);
}

uint32_t AnswerScheduler::restore_slot(uint32_t slot, std::span<const TokenId> tokens,
                                       const tiers::Hash128& root) {
  const auto fail_lost = [] {
    throw Error(ErrorCode::kIo, "none of it could be read", "",
                "Send the text, which is read anew then.");
  };
  // Before anybody's context goes for it.
  const uint32_t n_saved = contexts_.n_saved(tokens, root);
  if (n_saved == 0) fail_lost();
  if (look_at_slot(slot, root).place == SlotLook::Place::kIdle) erase_slot(slot);
  if (!make_room(engine_.cache().make_sequence(root), n_saved))
    throw Error(ErrorCode::kDoesNotFit, "there is no room for it beside the answers at work", "",
                "Try again when they have ended.");
  std::unique_ptr<ContextCache> saver = contexts_.saver(nullptr);
  Sequence restored = contexts_.restore(saver.get(), tokens.first(n_saved), root);
  const uint32_t n_restored = restored.n_pos();
  if (n_restored == 0) fail_lost();
  HeldContext held = hold(std::move(restored), std::move(saver));
  held.slot = slot;
  // Which of its tokens a model wrote the packs know (ContextCache::known_text).
  held.is_generated.resize(n_restored);
  idle_.push_back(std::move(held));
  if (idle_.size() > options_.n_idle_max) drop_idle();
  is_changed_ = true;
  return n_restored;
}

uint64_t AnswerScheduler::erase_slot(uint32_t slot) {
  const auto held = idle_.begin() + static_cast<std::ptrdiff_t>(idle_idx(slot));
  const uint64_t n_erased = held->sequence.n_pos();
  idle_.erase(held);
  ++n_drops_;
  is_changed_ = true;
  return n_erased;
}

}  // namespace strata::engine

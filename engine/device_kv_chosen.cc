// engine/device_kv_chosen.cc - blocks that steps choose, in a device's memory: the copies that they
// have stay for the next tokens, and others give way to what has none.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "engine/device_kv.h"

namespace strata::engine {
namespace {

// Slots that are looked at for one to give up. More find older copies and take the host longer;
// what is given up where K and V spill may have to be read from disk again.
constexpr uint32_t kSampledSlots = 16, kSampledOfSpilling = 64;

}  // namespace

/// Of a few slots the one that was chosen longest ago, its copy given up; kNone where this step
/// wants all of them.
uint32_t DeviceKv::slot_in_place_of_another() {
  const auto n_slots = static_cast<uint32_t>(slots_of_device_.size());
  uint32_t oldest = kNone;
  for (uint32_t i = 0; i < std::min(kSampledSlots, n_slots); ++i) {
    const uint32_t slot = hand_;
    hand_ = hand_ + 1 == n_slots ? 0 : hand_ + 1;
    const uint64_t last_chosen = last_use(slot);
    if (last_chosen >= first_choice_) continue;
    if (oldest == kNone || last_chosen < last_use(oldest)) oldest = slot;
  }
  if (oldest != kNone) give_up(oldest);
  return oldest;
}

/// Where K and V spill: of some slots the one that is wanted the latest, its copy given up: what
/// nobody has chosen since the step before of this text, the longest ago; else what was chosen
/// last, but for this choice, since the next step comes to its layer last. kNone where this choice
/// and what every step attends want all.
uint32_t DeviceKv::slot_for_chosen() {
  constexpr uint64_t kWanted = kAlways / 2;
  const auto rank = [&](uint32_t slot) {
    const uint64_t last_chosen = last_use(slot);
    if (last_chosen >= n_choices_) return kAlways;
    return last_chosen < last_first_choice_ ? last_chosen : kWanted + n_choices_ - last_chosen;
  };
  const auto n_slots = static_cast<uint32_t>(slots_of_device_.size());
  uint32_t best = kNone;
  for (uint32_t i = 0; i < n_slots && (best == kNone || i < kSampledOfSpilling); ++i) {
    const uint32_t slot = hand_;
    hand_ = hand_ + 1 == n_slots ? 0 : hand_ + 1;
    if (rank(slot) < (best == kNone ? kAlways : rank(best))) best = slot;
  }
  if (best != kNone) give_up(best);
  return best;
}

/// What a text has chosen in its last step it wants again, and others take turns with it.
void DeviceKv::begin_turn(const Sequence& sequence) {
  last_first_choice_ = first_choice_;
  first_choice_ = ++n_choices_;
  auto turn = std::ranges::find(turns_, sequence.edition(), &Turn::edition);
  if (turn == turns_.end())
    turn = std::ranges::min_element(turns_, {}, &Turn::first_choice);
  else
    last_first_choice_ = turn->first_choice;
  *turn = {sequence.edition(), first_choice_};
}

bool DeviceKv::choose(uint32_t stream_idx, uint32_t block_idx) {
  const tiers::BlockId block = block_at(stream_idx, block_idx);
  counts_.chosen_bytes += block_bytes_;
  if (!has_copy(block)) {
    counts_.missed_bytes += block_bytes_;
    return false;
  }
  Slot& slot = slots_of_device_[copies_[number(block)].slot];
  slot.last_chosen = std::max(slot.last_chosen, n_choices_);
  return true;
}

/// The block of an entry, which is in DRAM.
void DeviceKv::give_copy(uint64_t entry, uint32_t slot) {
  const tiers::BlockId block = entry_of_[entry];
  std::byte* const home = home_of(block);
  STRATA_CHECK(home != nullptr, "block %u is chosen and nowhere", number(block));
  const bool was_far = is_far(entry);
  copy_of(block) = {slot, cache_.store().generation(block)};
  slots_of_device_[slot] = {block, entry, n_choices_, n_tables_};
  list_copy(home, slot);
  put(entry, address(slot));
  if (was_far) --n_far_;
}

void DeviceKv::copy_chosen(Stream& stream, uint32_t stream_idx, uint32_t block_idx) {
  flush_lists(stream, false);
  const uint64_t at = stream_idx * stride_ + block_idx;
  uint32_t slot = std::exchange(copy_of(entry_of_[at]).slot, kNone);  // of an earlier block
  if (slot == kNone) slot = free_slot();
  if (slot == kNone) slot = slot_for_chosen();
  if (slot != kNone) return give_copy(at, slot);
  flush_lists(stream, true);  // what is listed is where it was said to be until the caller goes on
  stream.wait();
  throw Error(ErrorCode::kDoesNotFit,
              "the device's memory does not hold the K and V that a layer attends at once", "--hbm",
              "raise --hbm, lower the budget of --attn, or use --device none");
}

std::byte* DeviceKv::fetch(uint32_t stream_idx, uint32_t block_idx) {
  const uint64_t at = stream_idx * stride_ + block_idx;
  const tiers::BlockId block = entry_of_[at];
  if (has_copy(block)) return address(copies_[number(block)].slot);
  STRATA_CHECK(!cache_.store().has_spill(), "block %u was chosen and not copied", number(block));
  std::byte* const home = entries_[at + entries_.size() / 2];
  if (!has_room_in_lists()) return home;
  uint32_t slot = kNone;
  if (free_slots_.empty()) {
    slot = slot_in_place_of_another();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  if (slot == kNone) return home;
  give_copy(at, slot);
  return address(slot);
}

void DeviceKv::flush_chosen(Stream& stream) { flush_lists(stream, true); }

}  // namespace strata::engine

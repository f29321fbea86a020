#include "gpu_attn/streamed_weights.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::gpu_attn {

uint64_t stream_slot_bytes(const std::vector<StreamedLayer>& streamed) {
  uint64_t largest = 0;
  for (const StreamedLayer& of : streamed) largest = std::max(largest, of.slot_bytes());
  return round_up(largest, 256);
}

int StreamedWeights::create(const DeviceTable& table, Device* device,
                            const std::vector<DeviceLayerWeights>& layers,
                            std::vector<StreamedLayer> streamed, std::byte* slots,
                            std::unique_ptr<StreamedWeights>* made, BroughtLayers* brought) {
  std::unique_ptr<StreamedWeights> weights(new StreamedWeights(table));
  weights->layers_ = layers;
  weights->brought_ = brought;
  const uint64_t slot_bytes = stream_slot_bytes(streamed);
  (void)weights->add_round(std::move(streamed));
  for (uint32_t s = 0; s < kStreamSlots; ++s) weights->slots_[s].bytes = slots + s * slot_bytes;
  if (const int error = weights->open(device); error != 0) return error;
  *made = std::move(weights);
  return 0;
}

uint32_t StreamedWeights::add_round(std::vector<StreamedLayer> streamed) {
  STRATA_CHECK(
      rounds_.empty() || stream_slot_bytes(streamed) <= stream_slot_bytes(rounds_.front().streamed),
      "slots of %lu bytes",
      static_cast<unsigned long>(stream_slot_bytes(rounds_.front().streamed)));
  Round round{std::move(streamed), std::vector<uint32_t>(layers_.size(), kResident)};
  for (uint32_t at = 0; at < round.streamed.size(); ++at) {
    const StreamedLayer& of = round.streamed[at];
    STRATA_CHECK(of.layer < layers_.size() && (at == 0 || of.layer > round.streamed[at - 1].layer),
                 "layer %u at %u", of.layer, at);
    STRATA_CHECK(of.brought_bytes == 0 || brought_ != nullptr, "nobody brings layer %u", of.layer);
    round.place[of.layer] = at;
  }
  rounds_.push_back(std::move(round));
  return static_cast<uint32_t>(rounds_.size()) - 1;
}

int StreamedWeights::open(Device* device) {
  if (const int error = table_.create_stream(device, &copies_); error != 0) return error;
  if (const int error = table_.create_event(device, &copied_); error != 0) return error;
  for (uint32_t s = 0; s < kStreamSlots; ++s) {
    Slot& slot = slots_[s];
    if (const int error = table_.create_event(device, &slot.filled); error != 0) return error;
    if (const int error = table_.create_event(device, &slot.free); error != 0) return error;
    const std::vector<StreamedLayer>& streamed = rounds_.front().streamed;
    if (s >= streamed.size() || streamed[s].brought_bytes > 0) continue;
    if (const int error = fill(slot, streamed[s], nullptr); error != 0) return error;
  }
  return 0;
}

StreamedWeights::~StreamedWeights() {
  for (const Slot& slot : slots_) {
    table_.destroy_event(slot.filled);
    table_.destroy_event(slot.free);
  }
  table_.destroy_event(copied_);
  table_.destroy_stream(copies_);
  if (is_lent_) brought_->release();
}

/// Queues the copy of a layer; what the slot held must not be needed by what comes before on the
/// copy stream.
int StreamedWeights::fill(Slot& slot, const StreamedLayer& from, const std::byte* brought) {
  slot.holds = &from;
  slot.wanted = nullptr;
  slot.is_settled = false;
  slot.weights = layers_[from.layer];
  for (uint32_t i = 0; i < kLayerMatrices; ++i)
    if (from.pieces.has(matrix_piece(i)))
      (slot.weights.*kLayerMatrixMembers[i]).bytes = slot.bytes + from.offsets[i];
  queued_bytes_ += from.slot_bytes();
  if (from.bytes > 0)
    if (const int error = table_.copy(copies_, slot.bytes, from.host, from.bytes); error != 0)
      return error;
  if (from.brought_bytes > 0) {
    std::byte* const to = slot.bytes + from.bytes;
    if (const int error = table_.copy(copies_, to, brought, from.brought_bytes); error != 0)
      return error;
    if (const int error = table_.record(copies_, copied_); error != 0) return error;
  }
  return table_.record(copies_, slot.filled);
}

/// Waits until what was brought last is copied; meanwhile the next is got on with.
int StreamedWeights::give_back() {
  bool is_copied = !is_lent_;
  while (!is_copied) {
    if (const int error = table_.query(copied_, &is_copied); error != 0) return error;
    if (is_copied || brought_->go_on()) continue;
    if (const int error = table_.wait_event(copied_); error != 0) return error;
    is_copied = true;
  }
  if (is_lent_) brought_->release();
  is_lent_ = false;
  return 0;
}

int StreamedWeights::give_back_if_copied() {
  if (!is_lent_) return 0;
  bool is_copied = false;
  if (const int error = table_.query(copied_, &is_copied); error != 0) return error;
  if (is_copied) brought_->release();
  is_lent_ = !is_copied;
  return 0;
}

/// Waits for what is lent, and for the layer. Throws what take() throws.
int StreamedWeights::bring(uint32_t layer, const std::byte** bytes) {
  if (const int error = give_back(); error != 0) return error;
  *bytes = brought_->take(layer);
  is_lent_ = true;
  return 0;
}

/// Null where it would have to wait, or fails: that is for who needs the layer, for a step that has
/// all of its layers does not fail for one of the next step.
const std::byte* StreamedWeights::bring_ahead(uint32_t layer) {
  if (is_lent_ || !brought_->is_there(layer)) return nullptr;
  try {
    const std::byte* const bytes = brought_->take(layer);
    is_lent_ = true;
    return bytes;
  } catch (...) {
    return nullptr;
  }
}

/// The slot stays as it is where the layer is not there.
int StreamedWeights::fill_wanted(Slot& slot, bool may_wait) {
  const StreamedLayer& from = *slot.wanted;
  const std::byte* brought = nullptr;
  if (from.brought_bytes > 0) {
    if (!may_wait)
      brought = bring_ahead(from.layer);
    else if (const int error = bring(from.layer, &brought); error != 0)
      return error;
    if (brought == nullptr) return 0;
  }
  if (const int error = table_.await(copies_, slot.free); error != 0) return error;
  return fill(slot, from, brought);
}

int StreamedWeights::go_on() {
  if (const int error = give_back_if_copied(); error != 0) return error;
  for (;;) {
    Slot* first = nullptr;
    for (Slot& slot : slots_)
      if (slot.wanted != nullptr && (first == nullptr || slot.turn < first->turn)) first = &slot;
    if (first == nullptr) return 0;
    if (const int error = fill_wanted(*first, /*may_wait=*/false); error != 0) return error;
    if (first->wanted != nullptr) return 0;
  }
}

/// The layer's copy, once all that is queued on `stream` has read the slot, and it is there.
int StreamedWeights::want(DeviceStream* stream, Slot& slot, const StreamedLayer& from) {
  slot.wanted = nullptr;
  if (const int error = table_.record(stream, slot.free); error != 0) return error;
  slot.wanted = &from;
  slot.turn = n_wanted_++;
  if (from.brought_bytes == 0)  // it waits for nobody
    if (const int error = fill_wanted(slot, /*may_wait=*/false); error != 0) return error;
  return go_on();
}

int StreamedWeights::begin(DeviceStream* stream, uint32_t round) {
  if (round == round_) return 0;
  round_ = round;
  const std::vector<StreamedLayer>& streamed = rounds_[round].streamed;
  for (Slot& slot : slots_) slot.wanted = nullptr;
  for (uint32_t s = 0; s < kStreamSlots && s < streamed.size(); ++s) {
    if (slots_[s].holds == &streamed[s]) continue;
    if (const int error = want(stream, slots_[s], streamed[s]); error != 0) return error;
  }
  return 0;
}

int StreamedWeights::take(DeviceStream* stream, uint32_t layer,
                          const DeviceLayerWeights** weights) {
  const Round& round = rounds_[round_];
  const uint32_t at = round.place[layer];
  if (at == kResident) {
    *weights = &layers_[layer];
    return 0;
  }
  Slot& slot = slots_[at % kStreamSlots];
  const StreamedLayer* const wanted = &round.streamed[at];
  if (slot.holds != wanted && slot.wanted != wanted)
    if (const int error = want(stream, slot, *wanted); error != 0) return error;
  if (slot.holds != wanted)
    if (const int error = fill_wanted(slot, /*may_wait=*/true); error != 0) return error;
  slot.wanted = nullptr;  // what it holds is read now
  if (!slot.is_settled)
    if (const int error = table_.await(stream, slot.filled); error != 0) return error;
  slot.is_settled = true;
  *weights = &slot.weights;
  return 0;
}

int StreamedWeights::release(DeviceStream* stream, uint32_t layer) {
  const Round& round = rounds_[round_];
  const uint32_t at = round.place[layer];
  if (at == kResident) return 0;
  const uint32_t next =
      at + kStreamSlots < round.streamed.size() ? at + kStreamSlots : at % kStreamSlots;
  return next == at ? 0 : want(stream, slots_[at % kStreamSlots], round.streamed[next]);
}

int StreamedWeights::settle(DeviceStream* stream) {
  for (Slot& slot : slots_) {
    if (slot.is_settled || slot.holds == nullptr) continue;
    if (const int error = table_.await(stream, slot.filled); error != 0) return error;
    slot.is_settled = true;
  }
  return 0;
}

int StreamedWeights::leave() {
  for (Slot& slot : slots_) slot.wanted = nullptr;
  return give_back();
}

int StreamedWeights::wait() { return table_.wait_stream(copies_); }

}  // namespace strata::gpu_attn

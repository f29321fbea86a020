#include "gpu_attn/streamed_weights.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::gpu_attn {

uint64_t stream_slot_bytes(const std::vector<StreamedLayer>& streamed) {
  uint64_t largest = 0;
  for (const StreamedLayer& of : streamed) largest = std::max(largest, of.bytes);
  return round_up(largest, 256);
}

int StreamedWeights::create(const DeviceTable& table, Device* device,
                            const std::vector<DeviceLayerWeights>& layers,
                            std::vector<StreamedLayer> streamed, std::byte* slots,
                            std::unique_ptr<StreamedWeights>* made) {
  std::unique_ptr<StreamedWeights> weights(new StreamedWeights(table));
  weights->layers_ = layers;
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
    const uint32_t layer = round.streamed[at].layer;
    STRATA_CHECK(layer < layers_.size() && (at == 0 || layer > round.streamed[at - 1].layer),
                 "layer %u at %u", layer, at);
    round.place[layer] = at;
  }
  rounds_.push_back(std::move(round));
  return static_cast<uint32_t>(rounds_.size()) - 1;
}

int StreamedWeights::open(Device* device) {
  if (const int error = table_.create_stream(device, &copies_); error != 0) return error;
  for (uint32_t s = 0; s < kStreamSlots; ++s) {
    Slot& slot = slots_[s];
    if (const int error = table_.create_event(device, &slot.filled); error != 0) return error;
    if (const int error = table_.create_event(device, &slot.free); error != 0) return error;
    const std::vector<StreamedLayer>& streamed = rounds_.front().streamed;
    if (s >= streamed.size()) continue;
    if (const int error = fill(slot, streamed[s]); error != 0) return error;
  }
  return 0;
}

StreamedWeights::~StreamedWeights() {
  for (const Slot& slot : slots_) {
    table_.destroy_event(slot.filled);
    table_.destroy_event(slot.free);
  }
  table_.destroy_stream(copies_);
}

/// Queues the copy of a layer; what the slot held must not be needed by what comes before on the
/// copy stream.
int StreamedWeights::fill(Slot& slot, const StreamedLayer& from) {
  slot.holds = &from;
  slot.is_settled = false;
  slot.weights = layers_[from.layer];
  for (uint32_t i = 0; i < kLayerMatrices; ++i)
    if (from.pieces.has(matrix_piece(i)))
      (slot.weights.*kLayerMatrixMembers[i]).bytes = slot.bytes + from.offsets[i];
  queued_bytes_ += from.bytes;
  if (const int error = table_.copy(copies_, slot.bytes, from.host, from.bytes); error != 0)
    return error;
  return table_.record(copies_, slot.filled);
}

/// The same once all that is queued on `stream` has read the slot.
int StreamedWeights::refill(DeviceStream* stream, Slot& slot, const StreamedLayer& from) {
  if (const int error = table_.record(stream, slot.free); error != 0) return error;
  if (const int error = table_.await(copies_, slot.free); error != 0) return error;
  return fill(slot, from);
}

int StreamedWeights::begin(DeviceStream* stream, uint32_t round) {
  if (round == round_) return 0;
  round_ = round;
  const std::vector<StreamedLayer>& streamed = rounds_[round].streamed;
  for (uint32_t s = 0; s < kStreamSlots && s < streamed.size(); ++s) {
    if (slots_[s].holds == &streamed[s]) continue;
    if (const int error = refill(stream, slots_[s], streamed[s]); error != 0) return error;
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
  if (slot.holds != &round.streamed[at])
    if (const int error = refill(stream, slot, round.streamed[at]); error != 0) return error;
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
  return next == at ? 0 : refill(stream, slots_[at % kStreamSlots], round.streamed[next]);
}

int StreamedWeights::settle(DeviceStream* stream) {
  for (Slot& slot : slots_) {
    if (slot.is_settled || slot.holds == nullptr) continue;
    if (const int error = table_.await(stream, slot.filled); error != 0) return error;
    slot.is_settled = true;
  }
  return 0;
}

int StreamedWeights::wait() { return table_.wait_stream(copies_); }

}  // namespace strata::gpu_attn

#include "engine/weight_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "tiers/poison.h"

namespace strata::engine {
namespace {

constexpr std::chrono::milliseconds kLook{100};  // at the flag that ends a wait

/// Of a slot that holds what is streamed of the layer.
uint64_t bytes_of(const StreamedLayer& layer) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < std::size(kLayerMatrices); ++i)
    if (layer.pieces.has(kLayerMatrices[i].piece))
      bytes = std::max(
          bytes, layer.matrix_offsets[i] + (layer.weights.*kLayerMatrices[i].member).total_bytes());
  return bytes;
}

}  // namespace

LayerLease::LayerLease(WeightSlot& slot) : weights_(&slot.weights), slot_(&slot) {
  STRATA_CHECK(slot.state == WeightSlot::State::kFull, "slot state %u",
               static_cast<unsigned>(slot.state));
  slot.state = WeightSlot::State::kLeased;
}

LayerLease::LayerLease(LayerLease&& other) noexcept
    : weights_(std::exchange(other.weights_, nullptr)),
      slot_(std::exchange(other.slot_, nullptr)) {}

LayerLease& LayerLease::operator=(LayerLease&& other) noexcept {
  std::swap(weights_, other.weights_);
  std::swap(slot_, other.slot_);
  return *this;
}

void LayerLease::release() {
  weights_ = nullptr;
  if (slot_ == nullptr) return;
  tiers::poison({slot_->target.memory, slot_->bytes});
  slot_->state = WeightSlot::State::kFree;
  slot_ = nullptr;
}

WeightStream::WeightStream(const GgufFile& file, std::unique_ptr<PanelReader> reader,
                           std::vector<StreamedLayer> layers, uint32_t n_layers,
                           std::span<std::byte> slot_memory, uint64_t slot_bytes,
                           std::chrono::milliseconds deadline)
    : file_(file),
      deadline_(deadline),
      n_layers_(n_layers),
      slots_(std::min(slot_memory.size() / slot_bytes + 1, layers.size())),
      reader_(std::move(reader)) {
  const size_t n_memories = slot_memory.size() / slot_bytes;
  STRATA_CHECK(0 < n_memories && n_memories <= slots_.size(), "memory of %zu slots, %zu layers",
               n_memories, layers.size());
  for (size_t i = 0; i < n_memories; ++i)
    slots_[i].target.memory = slot_memory.data() + i * slot_bytes;
  for (WeightSlot& slot : slots_) slot.bytes = slot_bytes;
  (void)add_round(std::move(layers));
}

WeightStream::~WeightStream() = default;

uint32_t WeightStream::add_round(std::vector<StreamedLayer> layers) {
  Round round{std::move(layers), std::vector<uint32_t>(n_layers_, kResident)};
  for (uint32_t at = 0; at < round.layers.size(); ++at) {
    const StreamedLayer& of = round.layers[at];
    STRATA_CHECK(of.layer < n_layers_ && (at == 0 || of.layer > round.layers[at - 1].layer),
                 "layer %u at %u", of.layer, at);
    STRATA_CHECK(bytes_of(of) <= slots_.front().bytes, "layer %u has %lu bytes, slots %lu",
                 of.layer, static_cast<unsigned long>(bytes_of(of)),
                 static_cast<unsigned long>(slots_.front().bytes));
    round.order[of.layer] = at;
  }
  rounds_.push_back(std::move(round));
  return static_cast<uint32_t>(rounds_.size()) - 1;
}

void WeightStream::begin_round(uint32_t round) {
  if (round == round_) return;
  stop_reading();
  round_ = round;
  next_ = 0;
  is_reading_ = !layers().empty();
}

bool WeightStream::is_there(uint32_t layer) const {
  const WeightSlot* slot = slot_of(rounds_[round_].order[layer]);
  return slot != nullptr && slot->target.memory != nullptr && slot->target.n_missing == 0;
}

const WeightSlot* WeightStream::slot_of(uint32_t at) const {
  for (const WeightSlot& slot : slots_)
    if (slot.at == at &&
        (slot.state == WeightSlot::State::kFilling || slot.state == WeightSlot::State::kFull))
      return &slot;
  return nullptr;
}

void WeightStream::stop_reading() {
  for (WeightSlot& slot : slots_) {
    if (slot.state == WeightSlot::State::kLeased) continue;
    reader_->abandon(slot.target);
    slot.state = WeightSlot::State::kFree;
  }
  filling_ = nullptr;
  is_reading_ = false;
}

void WeightStream::restart(uint32_t at) {
  stop_reading();
  next_ = at;
  is_reading_ = true;
}

void WeightStream::give_memory(WeightSlot& slot, std::byte* memory) {
  slot.target.memory = memory;
  const StreamedLayer& layer = layers()[slot.at];
  slot.weights = layer.weights;
  for (size_t i = 0; i < std::size(kLayerMatrices); ++i)
    if (layer.pieces.has(kLayerMatrices[i].piece))
      (slot.weights.*kLayerMatrices[i].member).bytes = memory + layer.matrix_offsets[i];
}

/// Memory of slots that are free goes to those that are filled without, the earliest first.
void WeightStream::hand_on_memory() {
  for (WeightSlot& from : slots_) {
    if (from.state != WeightSlot::State::kFree || from.target.memory == nullptr) continue;
    WeightSlot* to = nullptr;
    for (WeightSlot& slot : slots_)
      if (slot.state == WeightSlot::State::kFilling && slot.target.memory == nullptr &&
          (to == nullptr || slot.turn < to->turn))
        to = &slot;
    if (to == nullptr) return;
    give_memory(*to, std::exchange(from.target.memory, nullptr));
  }
}

/// Gives the next layer of the circle to a free slot, where there is one.
bool WeightStream::fill_next_slot() {
  // Without reading ahead nothing more is read before a layer that nobody has taken yet.
  const auto holds_layer = [](const WeightSlot& slot) {
    return slot.state == WeightSlot::State::kFilling || slot.state == WeightSlot::State::kFull;
  };
  if (!reads_ahead_ && std::ranges::any_of(slots_, holds_layer)) return false;
  // No layer twice, in a round of fewer layers than there are slots.
  const auto is_used = [](const WeightSlot& slot) {
    return slot.state != WeightSlot::State::kFree;
  };
  if (static_cast<size_t>(std::ranges::count_if(slots_, is_used)) >= layers().size()) return false;
  for (WeightSlot& slot : slots_)
    if (slot.state == WeightSlot::State::kFree &&
        (filling_ == nullptr || filling_->target.memory == nullptr))
      filling_ = &slot;
  if (filling_ == nullptr) return false;
  WeightSlot& slot = *filling_;
  slot.state = WeightSlot::State::kFilling;
  slot.at = next_;
  slot.next_read = 0;
  slot.turn = n_turns_++;
  slot.target = {.memory = slot.target.memory, .n_missing = layers()[next_].reads.size()};
  if (slot.target.memory != nullptr) give_memory(slot, slot.target.memory);
  next_ = next_ + 1 < layers().size() ? next_ + 1 : 0;
  return true;
}

void WeightStream::start_reads() {
  hand_on_memory();
  while (filling_ != nullptr || fill_next_slot()) {
    const std::vector<PanelRead>& reads = layers()[filling_->at].reads;
    while (filling_->next_read < reads.size()) {
      if (!reader_->can_start()) return;
      reader_->start(reads[filling_->next_read++], filling_->target);
    }
    filling_ = nullptr;
  }
}

bool WeightStream::read_ahead(ThreadPool& pool, std::chrono::microseconds most) {
  if (!is_reading_ || !reads_ahead_) return false;
  start_reads();
  reader_->collect(pool, most, /*is_needed=*/false);
  start_reads();
  reader_->submit();
  return reader_->is_reading();
}

void WeightStream::wait_until_full(WeightSlot& slot, ThreadPool& pool,
                                   const std::atomic<bool>* cancel) {
  if (slot.target.n_missing > 0 && slot.target.failed == nullptr) reader_->count_stall();
  std::chrono::microseconds left = deadline_;  // without an answer
  while (slot.target.n_missing > 0) {
    if (slot.target.failed != nullptr || left.count() == 0) reader_->fail(slot.target, deadline_);
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
      throw Error(ErrorCode::kCancelled, "waiting for weights was stopped");
    start_reads();
    const auto look = std::min<std::chrono::microseconds>(left, kLook);
    left = reader_->collect(pool, look) > 0 ? deadline_ : left - look;
  }
  start_reads();
  reader_->submit();
  slot.state = WeightSlot::State::kFull;
}

/// After the last of its bytes has come: what was written before then is seen.
void WeightStream::check_file_of(const StreamedLayer& layer) const {
  uint32_t checked = UINT32_MAX;
  for (const PanelRead& read : layer.reads) {
    if (read.shard == checked) continue;
    checked = read.shard;
    file_.check_unchanged(checked);
  }
}

LayerLease WeightStream::take(uint32_t layer, ThreadPool& pool, const std::atomic<bool>* cancel) {
  STRATA_CHECK(layer < n_layers_ && is_streamed(layer), "layer %u is not streamed", layer);
  const uint32_t at = rounds_[round_].order[layer];
  try {
    hand_on_memory();
    const WeightSlot* found = slot_of(at);
    if (found == nullptr || found->target.memory == nullptr) {  // layers before it have the memory
      restart(at);
      start_reads();
      found = slot_of(at);
    }
    STRATA_CHECK(found != nullptr && found->target.memory != nullptr, "all of %zu slots are leased",
                 slots_.size());
    WeightSlot& slot = slots_[static_cast<size_t>(found - slots_.data())];
    wait_until_full(slot, pool, cancel);
    check_file_of(layers()[at]);
    return LayerLease(slot);
  } catch (...) {
    stop_reading();
    throw;
  }
}

}  // namespace strata::engine

#include "engine/weight_stream.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/error.h"

namespace strata::engine {
namespace {

constexpr std::chrono::milliseconds kLook{100};  // at the flag that ends a wait

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
#ifdef STRATA_DEBUG_CHECKS
  std::memset(slot_->target.memory, 0xA5, slot_->bytes);
#endif
  slot_->state = WeightSlot::State::kFree;
  slot_ = nullptr;
}

WeightStream::WeightStream(const GgufFile& file, std::unique_ptr<PanelReader> reader,
                           std::vector<StreamedLayer> layers, uint32_t n_layers,
                           std::span<std::byte> slot_memory, uint64_t slot_bytes,
                           std::chrono::milliseconds deadline)
    : file_(file),
      deadline_(deadline),
      layers_(std::move(layers)),
      order_(n_layers, kResident),
      slots_(slot_memory.size() / slot_bytes),
      reader_(std::move(reader)) {
  STRATA_CHECK(!layers_.empty() && !slots_.empty(), "%zu layers, %zu slots", layers_.size(),
               slots_.size());
  for (uint32_t at = 0; at < layers_.size(); ++at) order_[layers_[at].layer] = at;
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].target.memory = slot_memory.data() + i * slot_bytes;
    slots_[i].bytes = slot_bytes;
  }
}

WeightStream::~WeightStream() = default;

WeightSlot* WeightStream::slot_of(uint32_t at) {
  for (WeightSlot& slot : slots_)
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

/// Gives the next layer of the circle to a free slot, where there is one.
bool WeightStream::fill_next_slot() {
  for (WeightSlot& slot : slots_)
    if (slot.state == WeightSlot::State::kFree) filling_ = &slot;
  if (filling_ == nullptr) return false;
  const StreamedLayer& layer = layers_[next_];
  WeightSlot& slot = *filling_;
  slot.state = WeightSlot::State::kFilling;
  slot.at = next_;
  slot.next_run = 0;
  slot.target = {.memory = slot.target.memory, .n_missing = layer.runs.size()};
  slot.weights = layer.weights;
  for (size_t i = 0; i < std::size(kLayerMatrices); ++i)
    (slot.weights.*kLayerMatrices[i].member).bytes = slot.target.memory + layer.matrix_offsets[i];
  next_ = next_ + 1 < layers_.size() ? next_ + 1 : 0;
  return true;
}

void WeightStream::start_reads() {
  while (filling_ != nullptr || fill_next_slot()) {
    const std::vector<PanelRun>& runs = layers_[filling_->at].runs;
    while (filling_->next_run < runs.size()) {
      if (!reader_->can_start()) return;
      reader_->start(runs[filling_->next_run++], filling_->target);
    }
    filling_ = nullptr;
  }
}

void WeightStream::read_ahead(ThreadPool& pool) {
  if (!is_reading_) return;
  reader_->collect(pool, std::chrono::microseconds(0));
  start_reads();
  reader_->submit();
}

void WeightStream::wait_until_full(WeightSlot& slot, ThreadPool& pool,
                                   const std::atomic<bool>* cancel) {
  if (slot.target.n_missing > 0 && slot.target.failed_run == nullptr) reader_->count_stall();
  std::chrono::microseconds left = deadline_;  // without an answer
  while (slot.target.n_missing > 0) {
    if (slot.target.failed_run != nullptr || left.count() == 0)
      reader_->fail(slot.target, deadline_);
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
  for (const PanelRun& run : layer.runs) {
    if (run.tensor->shard == checked) continue;
    checked = run.tensor->shard;
    file_.check_unchanged(checked);
  }
}

LayerLease WeightStream::take(uint32_t layer, ThreadPool& pool, const std::atomic<bool>* cancel) {
  STRATA_CHECK(layer < order_.size() && is_streamed(layer), "layer %u is not streamed", layer);
  const uint32_t at = order_[layer];
  try {
    WeightSlot* slot = slot_of(at);
    if (slot == nullptr) {
      restart(at);
      start_reads();
      slot = slot_of(at);
    }
    STRATA_CHECK(slot != nullptr, "every slot of %zu is leased", slots_.size());
    wait_until_full(*slot, pool, cancel);
    check_file_of(layers_[at]);
    return LayerLease(*slot);
  } catch (...) {
    stop_reading();
    throw;
  }
}

}  // namespace strata::engine

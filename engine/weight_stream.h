// engine/weight_stream.h - layers whose weights, or a piece of them, come from the model file in
// every step, one layer ahead of the walk.
// How: the streamed layers follow one another in a circle, for a step begins where the last one
// ended. The next layers are read into a ring of buffers while the walk computes
// (engine/panel_reader.h); between two operations the walk's threads pack what has arrived into a
// slot's memory. There is one slot more than there is memory for: its bytes wait in their buffers
// until a lease ends, so that the disk has work while the last layers that came are packed. Without
// it a disk that answers two layers at once stood idle for a third of SmolLM2's step.
//
//   slot: free -> filling (reads begin) -> full (all packed) -> leased -> free
//         filling, full -> free where the walk goes on at another layer than the next one
//
// Steps may differ in what they read: the CPU's read all that does not stay, those of a device
// leave out what that holds. Each such circle is a round; what has come of another is given up.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "engine/layer_weights.h"
#include "engine/panel_reader.h"

namespace strata::engine {

struct WeightSlot;

/// The right to read a layer's weights: nothing overwrites them while it lives. Movable; must go
/// before the model does.
class LayerLease {
 public:
  LayerLease() = default;
  /// Of weights that always stay.
  explicit LayerLease(const LayerWeights& resident) : weights_(&resident) {}
  explicit LayerLease(WeightSlot& slot);
  LayerLease(LayerLease&& other) noexcept;
  LayerLease& operator=(LayerLease&& other) noexcept;
  ~LayerLease() { release(); }

  const LayerWeights& operator*() const { return *weights_; }  // not of an empty lease
  void release();

 private:
  const LayerWeights* weights_ = nullptr;
  WeightSlot* slot_ = nullptr;  // null: resident
};

struct StreamedLayer {
  uint32_t layer = 0;
  PieceSet pieces = kWholeLayer;         // that are streamed
  LayerWeights weights;                  // in place, but for those pieces: without bytes
  std::vector<uint64_t> matrix_offsets;  // in a slot, as kLayerMatrices
  std::vector<PanelRead> reads;
};

/// One thread, for a ring knows its issuer: the first that calls. take() and read_ahead() allocate
/// nothing. Rounds are numbered as they come, the constructor makes the first.
class WeightStream {
 public:
  /// `slot_memory` is n_slots * slot_bytes that the caller keeps. Errors: those of PanelReader.
  WeightStream(const GgufFile& file, std::unique_ptr<PanelReader> reader,
               std::vector<StreamedLayer> layers, uint32_t n_layers,
               std::span<std::byte> slot_memory, uint64_t slot_bytes,
               std::chrono::milliseconds deadline);
  ~WeightStream();

  /// `layers` ascend, and fit the slots. Returns the round's number.
  uint32_t add_round(std::vector<StreamedLayer> layers);
  /// What is taken and read from now on is of that round.
  void begin_round(uint32_t round);

  /// Whether something of it is, in this round.
  bool is_streamed(uint32_t layer) const { return rounds_[round_].order[layer] != kResident; }
  /// Of a layer that is: whether all of it has come, so that take() would not wait.
  bool is_there(uint32_t layer) const;

  /// Blocks until all of the layer's weights are there. At most one slot may be leased. Errors: kIo
  /// naming file, tensor and offset: a read failed, the file was cut short or written to, or the
  /// disk has not answered within the deadline; kCancelled, where the flag is set: a wait looks at
  /// it about ten times a second. The next call begins anew.
  LayerLease take(uint32_t layer, ThreadPool& pool, const std::atomic<bool>* cancel = nullptr);

  /// Packs what has arrived and asks for more. Where nothing has, waits for a first read, at most
  /// so long. Whether reads are on their way.
  bool read_ahead(ThreadPool& pool, std::chrono::microseconds most = {});
  /// Where it is off, a layer is read when it is taken and not before.
  void set_reads_ahead(bool on) { reads_ahead_ = on; }

  const WeightReadCounts& counts() const { return reader_->counts(); }

 private:
  static constexpr uint32_t kResident = UINT32_MAX;

  struct Round {
    std::vector<StreamedLayer> layers;
    std::vector<uint32_t> order;  // layer -> its place in `layers`, or kResident
  };
  const WeightSlot* slot_of(uint32_t at) const;
  const std::vector<StreamedLayer>& layers() const { return rounds_[round_].layers; }
  void give_memory(WeightSlot& slot, std::byte* memory);
  void hand_on_memory();
  void restart(uint32_t at);
  void stop_reading();
  bool fill_next_slot();
  void start_reads();
  void wait_until_full(WeightSlot& slot, ThreadPool& pool, const std::atomic<bool>* cancel);
  void check_file_of(const StreamedLayer& layer) const;

  const GgufFile& file_;
  const std::chrono::milliseconds deadline_;
  const uint32_t n_layers_;
  std::vector<Round> rounds_;
  uint32_t round_ = 0;
  std::vector<WeightSlot> slots_;
  WeightSlot* filling_ = nullptr;  // whose reads are not all started
  uint32_t next_ = 0;              // place of the layer that the next free slot gets
  uint64_t n_turns_ = 0;
  bool is_reading_ = true;  // false after a failure, until the walk asks again
  bool reads_ahead_ = true;
  std::unique_ptr<PanelReader> reader_;
};

struct WeightSlot {
  enum class State : uint8_t { kFree, kFilling, kFull, kLeased };
  State state = State::kFree;
  uint32_t at = 0;         // place of its layer in the circle, where not free
  uint32_t next_read = 0;  // the first that is not started
  uint64_t turn = 0;       // of those that were filled: the lower comes first
  PackTarget target;       // its memory is null while others have it all
  LayerWeights weights;
  uint64_t bytes = 0;
};

}  // namespace strata::engine

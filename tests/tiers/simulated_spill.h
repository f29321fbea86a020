// tests/tiers/simulated_spill.h - a spill whose disk is simulated.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <set>

#include "tiers/simulated_io.h"
#include "tiers/spill.h"

namespace strata::tiers::testing {

/// With every kind of fault that leaves a disk usable.
inline SimulatedDisk faulty_disk(uint64_t seed) {
  SimulatedDisk disk{.seed = seed, .latency_spread = std::chrono::milliseconds(1)};
  disk.faults = {.short_read = 0.02,
                 .ended_early = 0.005,
                 .read_error = 0.01,
                 .bit_flip = 0.01,
                 .misdirected_read = 0.01,
                 .short_write = 0.02,
                 .write_error = 0.005,
                 .torn_write = 0.01,
                 .misdirected_write = 0.01,
                 .lost_write = 0.01,
                 .stall = 0.01,
                 .hang = 0.0005,
                 .hang_then_move = 0.0005};
  return disk;
}

/// Places in a file of n places; checks that none is given twice.
class CountedPlaces final : public PlaceSource {
 public:
  CountedPlaces(uint64_t place_bytes, uint32_t n_places) : place_bytes_(place_bytes) {
    for (uint32_t i = 0; i < n_places; ++i) free_.insert(i * place_bytes);
  }
  std::optional<uint64_t> take(uint64_t near) override {
    if (free_.empty()) return std::nullopt;
    auto place = free_.lower_bound(near);
    if (place == free_.end()) place = free_.begin();
    const uint64_t offset = *place;
    free_.erase(place);
    taken_.insert(offset);
    n_peak_ = std::max(n_peak_, n_taken());
    return offset;
  }
  void give_back(uint64_t offset) override {
    EXPECT_EQ(taken_.erase(offset), 1u) << offset << " given back twice";
    free_.insert(offset);
  }
  uint64_t place_bytes() const override { return place_bytes_; }
  uint64_t used_bytes() const override { return n_taken() * place_bytes_; }
  uint64_t peak_bytes() const override { return n_peak_ * place_bytes_; }
  uint64_t budget_bytes() const override { return (free_.size() + taken_.size()) * place_bytes_; }
  uint32_t n_taken() const { return static_cast<uint32_t>(taken_.size()); }
  const std::set<uint64_t>& taken() const { return taken_; }

 private:
  uint64_t place_bytes_;
  std::set<uint64_t> free_;
  std::set<uint64_t> taken_;
  uint32_t n_peak_ = 0;
};

struct SimulatedSpill {
  std::unique_ptr<Spill> spill;
  SimulatedIo* disk = nullptr;        // all live as long as the spill
  SimulatedIo* block_disk = nullptr;  // of reads of single blocks; null: there are none
  TransferQueue* block_transfers = nullptr;
  CountedPlaces* places = nullptr;
};

/// Single blocks of `block_bytes` are read by a back end of their own, over the same files.
inline void add_block_transfers(SimulatedSpill& made, const SimulatedDisk& disk,
                                uint32_t block_bytes, uint32_t n_frames,
                                std::chrono::microseconds deadline = std::chrono::seconds(10)) {
  auto io = std::make_unique<SimulatedIo>(disk);
  made.block_disk = io.get();
  made.spill->block_file = io->add_file_of(*made.disk, made.spill->file);
  made.spill->block_transfers = std::make_unique<TransferQueue>(
      std::move(io), TransferOptions{.frame_bytes = block_frame_bytes(block_bytes),
                                     .n_frames = n_frames,
                                     .deadline = deadline});
  made.block_transfers = made.spill->block_transfers.get();
}

/// Small extents are joined as in a real spill, unless it is said how.
inline SimulatedSpill make_simulated_spill(
    const SimulatedDisk& disk, uint64_t place_bytes, uint32_t n_places, uint32_t n_frames,
    std::chrono::microseconds deadline = std::chrono::seconds(10),
    std::optional<uint64_t> join_bytes = {}) {
  SimulatedSpill made;
  made.spill = std::make_unique<Spill>();
  auto places = std::make_unique<CountedPlaces>(place_bytes, n_places);
  made.places = places.get();
  made.spill->places = std::move(places);
  auto io = std::make_unique<SimulatedIo>(disk);
  made.disk = io.get();
  made.spill->file = io->add_memory_file(place_bytes * n_places);
  made.spill->transfers = std::make_unique<TransferQueue>(
      std::move(io),
      TransferOptions{.frame_bytes = place_bytes,
                      .n_frames = n_frames,
                      .join_bytes = join_bytes.value_or(spill_join_bytes(place_bytes)),
                      .deadline = deadline});
  return made;
}

}  // namespace strata::tiers::testing

// tests/tiers/simulated_spill.h - a spill whose disk is simulated.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>

#include "tiers/simulated_io.h"
#include "tiers/spill.h"

namespace strata::tiers::testing {

/// Places in a file of n places; checks that none is given twice.
class CountedPlaces final : public PlaceSource {
 public:
  CountedPlaces(uint64_t place_bytes, uint32_t n_places) : place_bytes_(place_bytes) {
    for (uint32_t i = 0; i < n_places; ++i) free_.insert(i * place_bytes);
  }
  std::optional<uint64_t> take() override {
    if (free_.empty()) return std::nullopt;
    const uint64_t offset = *free_.begin();
    free_.erase(free_.begin());
    n_peak_ = std::max(n_peak_, ++n_taken_);
    return offset;
  }
  void give_back(uint64_t offset) override {
    EXPECT_TRUE(free_.insert(offset).second) << offset << " given back twice";
    --n_taken_;
  }
  uint64_t place_bytes() const override { return place_bytes_; }
  uint64_t used_bytes() const override { return n_taken_ * place_bytes_; }
  uint64_t peak_bytes() const override { return n_peak_ * place_bytes_; }
  uint64_t budget_bytes() const override { return (free_.size() + n_taken_) * place_bytes_; }
  uint32_t n_taken() const { return n_taken_; }

 private:
  uint64_t place_bytes_;
  std::set<uint64_t> free_;
  uint32_t n_taken_ = 0;
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

inline SimulatedSpill make_simulated_spill(
    const SimulatedDisk& disk, uint64_t place_bytes, uint32_t n_places, uint32_t n_frames,
    std::chrono::microseconds deadline = std::chrono::seconds(10)) {
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
      TransferOptions{.frame_bytes = place_bytes, .n_frames = n_frames, .deadline = deadline});
  return made;
}

}  // namespace strata::tiers::testing

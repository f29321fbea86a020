// tiers/spill.h - what a block store needs of a tier on disk: transfers, a file, and places in it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tiers/open_io.h"
#include "tiers/paced_io.h"
#include "tiers/transfer_queue.h"

namespace strata::tiers {

inline constexpr uint64_t kPlaceAlignment = 4096;

/// Places of one size in a file of bounded size.
class PlaceSource {
 public:
  virtual ~PlaceSource() = default;
  /// The offset of a free place, the first at or behind `near` where there is one; nothing where
  /// the budget is used up.
  virtual std::optional<uint64_t> take(uint64_t near) = 0;
  virtual void give_back(uint64_t offset) = 0;
  virtual uint64_t place_bytes() const = 0;
  virtual uint64_t used_bytes() const = 0;
  virtual uint64_t peak_bytes() const = 0;  // of used_bytes
  virtual uint64_t budget_bytes() const = 0;
};

struct Spill {
  /// Null where nothing is spilled and only saved contexts are read. Owns the file, so it outlives
  /// the transfers.
  std::unique_ptr<PlaceSource> places;
  std::unique_ptr<TransferQueue> transfers;
  IoFile file{};  // of the places, for `transfers`
  /// Reads single blocks; null where none are read. Its frames hold a block rounded out to the
  /// file's alignment.
  std::unique_ptr<TransferQueue> block_transfers;
  IoFile block_file{};  // the same file, for `block_transfers`

  /// TransferQueue::set_trace of both.
  void set_trace(Trace* trace);
};

struct SpillRequest {
  std::string directory = "";  // empty: no spill file, transfers only
  uint64_t budget_bytes = 0;   // of the file
  uint64_t place_bytes = 0;    // of one place and of one staging frame; a multiple of 4,096
  uint32_t n_frames = 0;
  uint32_t block_bytes = 0;
  uint32_t n_block_frames = 0;  // for reads of single blocks; 0: there are none
  IoChoice io = IoChoice::kAuto;
  std::shared_ptr<RateLimit> read_limit = nullptr;  // of reads; null: as the disk gives them
};

/// Of a frame for one block that lies anywhere in a file of this alignment, a power of two: the
/// block, and what is read around it.
uint64_t block_frame_bytes(uint32_t block_bytes, uint64_t alignment = kPlaceAlignment);

/// The largest request that extents of a spill file are joined to; 0: none are, for alone they are
/// large enough.
uint64_t spill_join_bytes(uint64_t place_bytes);

/// What is free for this user where a spill file in `directory` would lie. Makes what it would need
/// there and removes it again. Errors: kIo (nothing can be written there, or nothing is free),
/// kUsage (in memory).
uint64_t spill_room(const std::string& directory);

/// A spill file on a real disk. Appends lines for the user where the system or the disk lacks
/// something. Errors: those of SpillFile::create, open_io and TransferQueue.
std::unique_ptr<Spill> open_spill(const SpillRequest& request, std::vector<std::string>& notices);

}  // namespace strata::tiers

// tiers/spill.h - what a block store needs of a tier on disk: transfers, a file, and places in it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "tiers/transfer_queue.h"

namespace strata::tiers {

inline constexpr uint64_t kPlaceAlignment = 4096;

/// Places of one size in a file of bounded size.
class PlaceSource {
 public:
  virtual ~PlaceSource() = default;
  /// The offset of a free place; nothing where the budget or the disk is full.
  virtual std::optional<uint64_t> take() = 0;
  virtual void give_back(uint64_t offset) = 0;
  virtual uint64_t place_bytes() const = 0;
};

struct Spill {
  std::unique_ptr<PlaceSource> places;  // owns the file: goes after the transfers
  std::unique_ptr<TransferQueue> transfers;
  IoFile file{};
};

}  // namespace strata::tiers

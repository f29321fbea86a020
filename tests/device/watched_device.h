// tests/device/watched_device.h - the emulated device, watched: what it refuses, and which host
// memory copies use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>

#include "base/device_table.h"

namespace strata::engine::testing {

struct Watch {
  uint32_t refused_allocation = 0;  // the n-th from now on finds no room; 0 = none
  uint32_t refused_pin = 0;
  int failed_wait = 0;  // what waiting for a stream returns; 0: it waits
  uint32_t refused_copy = 0;
  uint64_t allocated_bytes = 0;  // of the device, each as it is aligned; what is given back as well
  std::map<const std::byte*, uint64_t, std::greater<>> pinned = {};
  uint64_t pinned_bytes() const {
    uint64_t sum = 0;
    for (const auto& [memory, bytes] : pinned) sum += bytes;
    return sum;
  }
  uint64_t n_copies = 0;
  uint64_t n_pageable = 0;  // of them, from or to memory that is neither the device's nor pinned
  // What copies read of each stream that nobody has waited for since.
  std::multimap<const DeviceStream*, const std::byte*> sources = {};
  uint64_t n_unpinned_sources = 0;  // of these, whose memory was unpinned
};

/// Set anew by each test.
Watch& watch();

const DeviceTable& watched_device();

}  // namespace strata::engine::testing

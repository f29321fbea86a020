#include "tests/device/watched_device.h"

#include "engine/device_plan.h"
#include "tests/gpu_emu/emulated_device.h"

namespace strata::engine::testing {
namespace {

constexpr int kNoRoom = 2;  // cudaErrorMemoryAllocation

const DeviceTable& emulated() { return gpu_emu::emulated_device(); }

/// Counts down to the call that is refused.
bool is_refused(uint32_t& nth) { return nth > 0 && --nth == 0; }

bool may_be_copied(const DeviceStream* stream, const void* at, uint64_t bytes) {
  if (gpu_emu::is_in_memory(stream, at)) return true;
  const auto* begin = static_cast<const std::byte*>(at);
  const auto pinned = watch().pinned.lower_bound(begin);  // the last that begins before it
  return pinned != watch().pinned.end() && begin + bytes <= pinned->first + pinned->second;
}

int allocate(Device* device, uint64_t bytes, void** memory) {
  if (is_refused(watch().refused_allocation)) return kNoRoom;
  watch().allocated_bytes += device_aligned(bytes);
  return emulated().allocate(device, bytes, memory);
}

int pin(Device* device, void* memory, uint64_t bytes, void** mapped) {
  if (is_refused(watch().refused_pin)) return kNoRoom;
  watch().pinned[static_cast<const std::byte*>(memory)] = bytes;
  return emulated().pin(device, memory, bytes, mapped);
}

int unpin(Device* device, void* memory) {
  const auto* begin = static_cast<const std::byte*>(memory);
  const uint64_t bytes = watch().pinned[begin];
  for (const auto& [stream, source] : watch().sources)
    if (source >= begin && source < begin + bytes) ++watch().n_unpinned_sources;
  watch().pinned.erase(begin);
  return emulated().unpin(device, memory);
}

int copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
  ++watch().n_copies;
  if (is_refused(watch().refused_copy)) return kNoRoom;
  if (!may_be_copied(stream, to, bytes) || !may_be_copied(stream, from, bytes))
    ++watch().n_pageable;
  watch().sources.emplace(stream, static_cast<const std::byte*>(from));
  return emulated().copy(stream, to, from, bytes);
}

int wait_stream(DeviceStream* stream) {
  watch().sources.erase(stream);
  return watch().failed_wait != 0 ? watch().failed_wait : emulated().wait_stream(stream);
}

}  // namespace

Watch& watch() {
  static Watch of;
  return of;
}

const DeviceTable& watched_device() {
  static const DeviceTable table = [] {
    DeviceTable of = emulated();
    of.allocate = allocate;
    of.pin = pin;
    of.unpin = unpin;
    of.copy = copy;
    of.wait_stream = wait_stream;
    return of;
  }();
  return table;
}

}  // namespace strata::engine::testing

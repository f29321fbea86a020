// engine/machine.h - what this process may use of the machine: CPUs and memory, within
// the container's limits.
#pragma once

#include <cstdint>
#include <string>

namespace strata::engine {

/// CPUs this process may run on, by affinity and by the control group's quota. At least 1.
uint32_t usable_cpus();

/// Bytes of memory that can be taken now without swapping: MemAvailable, or what the control group
/// still allows where that is less.
uint64_t available_dram_bytes();

/// Bytes that this user may still write to the file system of `directory`, which need not exist
/// yet; 0 where the system does not say.
uint64_t free_disk_bytes(const std::string& directory);

/// The most memory this process has held so far (resident, the system's count).
uint64_t peak_memory_bytes();

}  // namespace strata::engine

// engine/machine.h - what this process may use of the machine: CPUs and memory, within
// the container's limits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace strata::engine {

/// CPUs this process may run on, by affinity and by the quotas of its control group and of those
/// that this one is in. At least 1. `root` stands for "/" in the tests.
uint32_t usable_cpus(const std::string& root = "/");

/// Bytes of memory that can be taken now without swapping: MemAvailable, or what the control group
/// of this process, or one that this one is in, still allows where that is less. Pages of files
/// count as free, because the system gives them back.
uint64_t available_dram_bytes(const std::string& root = "/");

/// What of this process only swapping could take from memory: its pages that are of no file.
uint64_t held_memory_bytes(const std::string& root = "/");

/// Share of the last ten seconds in which something of this machine waited for memory; 0 where the
/// system does not say.
double memory_pressure(const std::string& root = "/");

/// What the control groups' limits still allow of memory; nothing where none limits it.
std::optional<uint64_t> group_dram_bytes(const std::string& root = "/");

/// Bytes of the machine's memory, whoever has them. 0 where the system hides it.
uint64_t total_dram_bytes(const std::string& root = "/");

/// What the CPU calls itself: "AMD Ryzen 7 7840U"; "unknown CPU" where the system hides it.
std::string cpu_name(const std::string& root = "/");

/// The most memory this process has held so far (resident, the system's count).
uint64_t peak_memory_bytes();
/// It counts from here, where the system allows that.
void forget_peak_memory();
/// Gives the system back what was freed and is kept for the next allocation.
void release_freed_memory();

}  // namespace strata::engine

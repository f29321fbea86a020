// tests/gpu_emu/shared_memory.h - a block's shared memory: each array of its own, as large as
// declared and no better aligned, all bytes 0xFF (a NaN of every format) when a block begins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace strata::gpu_emu {

/// The array that `key` (the address of a static of the declaring function) stands for. An error
/// where the block's arrays grow beyond the limits of EmulatorOptions.
void* shared_array(const void* key, uint64_t bytes, uint64_t alignment, std::source_location where);

/// As large as the launch says.
unsigned char* dynamic_shared();

/// Whether [at, at + bytes) lies within one array of the block that runs.
bool is_shared(const void* at, uint64_t bytes);

/// An error where these 16 (these many) bytes are not aligned, or not in shared (in global) memory.
void check_shared16(const void* at, std::source_location where);
void check_global(const void* at, uint32_t bytes, std::source_location where);

/// Inside of the emulator: before and after every block.
void begin_shared(uint32_t dynamic_bytes);
void end_shared();

}  // namespace strata::gpu_emu

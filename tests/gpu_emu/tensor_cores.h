// tests/gpu_emu/tensor_cores.h - the arithmetic of the tensor cores over the registers of a warp,
// by the layouts of the PTX ISA (mma.m16n8k16, ldmatrix).
#pragma once

#include <cstdint>

#include "tests/gpu_emu/scheduler.h"

namespace strata::gpu_emu {

/// d += a b for the 32 lanes' registers, sums in f32 in the order of k.
void multiply_registers(Warp& warp);

/// The same of bytes, a unsigned and b signed, sums in integers that wrap around.
void multiply_byte_registers(Warp& warp);

/// Registers of the 32 lanes from the rows that they have read.
void spread_rows(Warp& warp, bool is_transposed);

}  // namespace strata::gpu_emu

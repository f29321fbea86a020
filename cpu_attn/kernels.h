// cpu_attn/kernels.h - the kernel tables of this CPU, and the packed weight layout they read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/kernel_table.h"

namespace strata::cpu_attn {

/// The tables this CPU can run, widest last. "scalar" is always there.
std::span<const KernelTable* const> available_kernels();
/// The widest table, or the one named ("scalar", "avx2", "avx512"). Errors: kUsage (unknown, or not
/// of this CPU: says which are).
const KernelTable& choose_kernels(std::string_view isa_name = "");

}  // namespace strata::cpu_attn

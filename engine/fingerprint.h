// engine/fingerprint.h - names a model as far as its K and V depend on it.
#pragma once

#include <string_view>

#include "base/kernel_table.h"
#include "engine/gguf/gguf_file.h"
#include "engine/model_spec.h"
#include "tiers/block_tag.h"

namespace strata::engine {

/// Raised whenever a kernel or the walk computes other bits than before: saved K and V of another
/// arithmetic are not taken up.
inline constexpr uint32_t kArithmeticVersion = 2;

/// The hash of everything that decides the bits of K and V of a given text: the network's shape and
/// numbers, RoPE as it is used (overrides included), the tensors (names, types, shapes, and 4 KiB
/// from either end of each), the instruction set or device, whose arithmetic differs in the last
/// bits, and the version of the arithmetic. `device` names what computes in place of the CPU; empty
/// = nothing does. Reads some KiB per tensor. Errors: kIo.
tiers::Hash128 model_fingerprint(const GgufFile& file, const ModelSpec& spec, CpuIsa isa,
                                 std::string_view device = "");

}  // namespace strata::engine

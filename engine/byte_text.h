// engine/byte_text.h - byte counts as people read them and as options take them. Without fmt: the
// build of a machine with a card alone has it too (tools/gpu).
#pragma once

#include <cstdint>
#include <string>

namespace strata::engine {

/// "93.8 MiB": at most one decimal, binary units.
std::string bytes_text(uint64_t bytes);
/// "93.9MiB": rounded up, so that an option given this value holds `bytes`.
std::string size_argument(uint64_t bytes);
/// "12,345".
std::string grouped_number(uint64_t value);

}  // namespace strata::engine

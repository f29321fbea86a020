// engine/text/byte_token.h - tokens that stand for one byte, spelt <0xNN>.
#pragma once

#include <string_view>

namespace strata::engine {

/// The byte 0 to 255 of exactly "<0x" + two hex digits + ">", or -1: signs, spaces and other
/// lengths are not numbers.
int byte_of_token(std::string_view text);

}  // namespace strata::engine

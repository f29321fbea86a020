// engine/text/byte_alphabet.h - the printable characters that stand for bytes in the token texts of
// byte-level BPE. Source: GPT-2's encoder: printable Latin-1 stands for itself, the other 68 bytes
// are U+0100 upwards in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::engine {

/// The code point that stands for `byte`.
uint32_t alphabet_code_point(uint8_t byte);

/// Is every character of the text one that stands for a byte?
bool is_of_alphabet(std::string_view text);

/// The bytes that a token's text stands for. Characters outside the alphabet, which some converters
/// leave in added tokens, stand for themselves.
std::string bytes_of_alphabet(std::string_view text);

}  // namespace strata::engine

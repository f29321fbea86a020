#include "engine/text/byte_alphabet.h"

#include <array>

#include "engine/text/utf8.h"

namespace strata::engine {
namespace {

constexpr bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

constexpr std::array<uint16_t, 256> code_points() {
  std::array<uint16_t, 256> out{};
  uint16_t free_code_point = 0x100;
  for (uint16_t byte = 0; byte < 256; ++byte)
    out[byte] = stands_for_itself(byte) ? byte : free_code_point++;
  return out;
}

constexpr std::array<uint16_t, 256> kCodePoints = code_points();

constexpr std::array<int16_t, 0x144>
bytes_by_code_point() {  // 0x100 + 68 code points; -1 where none
  std::array<int16_t, 0x144> out{};
  for (int16_t& byte : out) byte = -1;
  for (int16_t byte = 0; byte < 256; ++byte) out[kCodePoints[static_cast<size_t>(byte)]] = byte;
  return out;
}

constexpr std::array<int16_t, 0x144> kBytes = bytes_by_code_point();

bool is_mapped(const Utf8Step& step) {
  return step.status == Utf8Status::kWhole && step.code_point < kBytes.size() &&
         kBytes[step.code_point] >= 0;
}

}  // namespace

uint32_t alphabet_code_point(uint8_t byte) { return kCodePoints[byte]; }

bool is_of_alphabet(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (!is_mapped(step)) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

std::string bytes_of_alphabet(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (is_mapped(step))
      out.push_back(static_cast<char>(kBytes[step.code_point]));
    else
      out += text.substr(0, step.bytes);
    text.remove_prefix(step.bytes);
  }
  return out;
}

}  // namespace strata::engine

#include "engine/text/utf8.h"

#include <cstring>

#include "base/check.h"

namespace strata::engine {
namespace {

/// What table 3-7 allows after a lead byte: how many bytes in all, and the range of the second one.
struct Lead {
  uint32_t bytes;  // 0: not a lead byte
  uint8_t second_min;
  uint8_t second_max;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  STRATA_CHECK(!text.empty(), "a step needs at least one byte");
  const auto first = static_cast<uint8_t>(text[0]);
  const Lead lead = lead_of(first);
  if (lead.bytes == 0) return {Utf8Status::kBroken, 1, 0};
  if (lead.bytes == 1) return {Utf8Status::kWhole, 1, first};
  uint32_t code_point = first & (0x7Fu >> lead.bytes);
  for (uint32_t i = 1; i < lead.bytes; ++i) {
    if (i >= text.size()) return {Utf8Status::kUnfinished, i, 0};
    const auto byte = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.second_min : uint8_t{0x80};
    const uint8_t high = i == 1 ? lead.second_max : uint8_t{0xBF};
    if (byte < low || byte > high) return {Utf8Status::kBroken, i, 0};
    code_point = code_point << 6 | (byte & 0x3Fu);
  }
  return {Utf8Status::kWhole, lead.bytes, code_point};
}

uint64_t utf8_fault(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t word = 0;
    if (text.size() - at >= sizeof word) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080u) == 0) {
        at += sizeof word;
        continue;
      }
    }
    const Utf8Step step = utf8_step(text.substr(at));
    if (step.status != Utf8Status::kWhole) return at;
    at += step.bytes;
  }
  return at;
}

void append_utf8(uint32_t code_point, std::string& out) {
  STRATA_CHECK(code_point <= 0x10FFFF, "code point %x", code_point);
  const auto tail = [&](uint32_t shift) {
    out.push_back(static_cast<char>(0x80u | (code_point >> shift & 0x3Fu)));
  };
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xC0u | code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xE0u | code_point >> 12));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xF0u | code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace strata::engine

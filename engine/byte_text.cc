#include "engine/byte_text.h"

#include <cstdio>

namespace strata::engine {
namespace {

struct Unit {
  const char* name;
  uint64_t bytes;
};
constexpr Unit kUnits[] = {
    {"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20}, {"KiB", 1ull << 10}};

std::string one_decimal(double value) {
  char text[32];
  (void)std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

}  // namespace

std::string bytes_text(uint64_t bytes) {
  for (const Unit& unit : kUnits) {
    // What would round to 1024.0 of the unit below is 1.0 of this one.
    if (bytes >= unit.bytes - unit.bytes / 1024 / 20)
      return one_decimal(static_cast<double>(bytes) / static_cast<double>(unit.bytes)) + ' ' +
             unit.name;
  }
  return std::to_string(bytes) + " B";
}

std::string size_argument(uint64_t bytes) {
  for (const Unit& unit : kUnits) {
    if (bytes < unit.bytes) {
      // What would round up to 1024 of the unit below is 1 of this one.
      if (bytes > unit.bytes - unit.bytes / 1024 / 10) return std::string("1") + unit.name;
      continue;
    }
    const uint64_t whole = bytes / unit.bytes;
    const uint64_t tenths = (bytes % unit.bytes * 10 + unit.bytes - 1) / unit.bytes;  // rounded up
    if (tenths == 0) return std::to_string(whole) + unit.name;
    return tenths == 10 ? std::to_string(whole + 1) + unit.name
                        : std::to_string(whole) + '.' + std::to_string(tenths) + unit.name;
  }
  return std::to_string(bytes);
}

std::string grouped_number(uint64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace strata::engine

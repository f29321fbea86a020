#include "tools/cli/value_readers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>

#include "base/checked_math.h"

namespace strata::cli {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

/// Takes the digits at the front of `text`; nothing where there are none or they exceed 64 bits.
std::optional<uint64_t> take_digits(std::string_view& text) {
  const auto length = static_cast<size_t>(std::ranges::find_if_not(text, is_digit) - text.begin());
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + length, value);
  if (length == 0 || result.ec != std::errc{}) return std::nullopt;
  text.remove_prefix(length);
  return value;
}

std::optional<uint64_t> unit_bytes(std::string_view unit) {
  struct Unit {
    std::string_view name;
    uint64_t bytes;
  };
  static constexpr uint64_t kBinary = 1024, kDecimal = 1000;
  static constexpr Unit kUnits[] = {
      {"", 1},
      {"b", 1},
      {"k", kBinary},
      {"kib", kBinary},
      {"kb", kDecimal},
      {"m", kBinary * kBinary},
      {"mib", kBinary * kBinary},
      {"mb", kDecimal * kDecimal},
      {"g", kBinary * kBinary * kBinary},
      {"gib", kBinary * kBinary * kBinary},
      {"gb", kDecimal * kDecimal * kDecimal},
      {"t", kBinary * kBinary * kBinary * kBinary},
      {"tib", kBinary * kBinary * kBinary * kBinary},
      {"tb", kDecimal * kDecimal * kDecimal * kDecimal},
  };
  for (const Unit& known : kUnits)
    if (known.name == unit) return known.bytes;
  return std::nullopt;
}

}  // namespace

std::optional<uint64_t> read_size(std::string_view text) {
  const auto whole = take_digits(text);
  if (!whole) return std::nullopt;
  uint64_t decimals = 0;
  uint64_t divisor = 1;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    const size_t before = text.size();
    const auto digits = take_digits(text);
    const size_t n_digits = before - text.size();
    if (!digits || n_digits > 6) return std::nullopt;
    decimals = *digits;
    for (size_t i = 0; i < n_digits; ++i) divisor *= 10;
  }
  const auto unit = unit_bytes(lower(text));
  if (!unit || (divisor > 1 && *unit == 1)) return std::nullopt;
  const auto whole_bytes = checked_mul(*whole, *unit);
  const auto part_bytes = checked_mul(decimals, *unit);
  if (!whole_bytes || !part_bytes) return std::nullopt;
  return checked_add(*whole_bytes, *part_bytes / divisor);
}

std::optional<uint64_t> read_count(std::string_view text) {
  const auto digits = take_digits(text);
  if (!digits) return std::nullopt;
  if (text.empty()) return digits;
  if (text == "k" || text == "K") return checked_mul(*digits, 1024);
  if (text == "m" || text == "M") return checked_mul(*digits, 1024 * 1024);
  return std::nullopt;
}

std::optional<int64_t> read_integer(std::string_view text) {
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc{} || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> read_real(std::string_view text) {
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc{} || result.ptr != text.data() + text.size()) return std::nullopt;
  if (!std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<double> read_duration_ms(std::string_view text) {
  struct Unit {
    std::string_view name;
    double ms;
  };
  static constexpr Unit kUnits[] = {{"ms", 1}, {"s", 1e3}, {"min", 60e3}, {"h", 3600e3}};
  const size_t end = text.find_first_not_of("0123456789.");
  if (end == std::string_view::npos || end == 0) return std::nullopt;
  const auto value = read_real(text.substr(0, end));
  const auto* unit = std::ranges::find(kUnits, text.substr(end), &Unit::name);
  if (!value || unit == std::end(kUnits)) return std::nullopt;
  return *value * unit->ms;
}

std::optional<bool> read_switch(std::string_view text) {
  const std::string word = lower(text);
  for (const std::string_view yes : {"true", "on", "yes", "1"})
    if (word == yes) return true;
  for (const std::string_view no : {"false", "off", "no", "0"})
    if (word == no) return false;
  return std::nullopt;
}

std::optional<index::Budget> read_budget(std::string_view text) {
  using Kind = index::Budget::Kind;
  const auto share = [](std::string_view digits, double whole,
                        Kind kind) -> std::optional<index::Budget> {
    const auto value = read_real(digits);
    if (!value || !(*value > 0) || *value > whole) return std::nullopt;
    return index::Budget{kind, *value / whole};
  };
  if (text.ends_with('%')) return share(text.substr(0, text.size() - 1), 100, Kind::kShare);
  if (text.ends_with('p')) return share(text.substr(0, text.size() - 1), 1, Kind::kMass);
  if (text.ends_with('n')) {
    const auto nats = read_real(text.substr(0, text.size() - 1));
    if (!nats || !(*nats > 0)) return std::nullopt;
    return index::Budget{Kind::kLogGap, *nats};
  }
  const auto n = read_count(text);
  if (!n || *n == 0) return std::nullopt;
  return index::Budget{Kind::kTokens, static_cast<double>(*n)};
}

namespace {

constexpr std::array<std::string_view, 3> kModeNames = {"index", "dense",
                                                        "reuse"};  // by index::LayerMode
constexpr uint64_t kMostLayers = 4096;

/// "3" or "3-5", the last one included.
std::optional<std::pair<uint64_t, uint64_t>> read_range(std::string_view text) {
  const size_t at = text.find('-');
  const auto first = read_count(text.substr(0, at));
  const auto last = at == std::string_view::npos ? first : read_count(text.substr(at + 1));
  if (!first || !last || *first > *last || *last >= kMostLayers) return std::nullopt;
  return std::pair{*first, *last};
}

}  // namespace

std::optional<std::vector<index::LayerMode>> read_layer_modes(std::string_view text) {
  std::vector<std::optional<index::LayerMode>> named;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t colon = part.find(':');
    const auto range = read_range(part.substr(0, colon));
    const auto name = colon == std::string_view::npos
                          ? kModeNames.end()
                          : std::ranges::find(kModeNames, part.substr(colon + 1));
    if (!range || name == kModeNames.end()) return std::nullopt;
    named.resize(std::max<size_t>(named.size(), range->second + 1));
    for (uint64_t layer = range->first; layer <= range->second; ++layer) {
      if (named[layer]) return std::nullopt;
      named[layer] = static_cast<index::LayerMode>(name - kModeNames.begin());
    }
  }
  std::vector<index::LayerMode> modes;
  for (const auto& mode : named) modes.push_back(mode.value_or(index::LayerMode::kIndex));
  return modes;
}

std::string layer_modes_text(std::span<const index::LayerMode> modes) {
  std::string text;
  for (size_t first = 0, end = 0; first < modes.size(); first = end) {
    while (end < modes.size() && modes[end] == modes[first]) ++end;
    if (modes[first] == index::LayerMode::kIndex) continue;
    text += fmt::format("{}{}", text.empty() ? "" : ",", first);
    if (end - first > 1) text += fmt::format("-{}", end - 1);
    text += fmt::format(":{}", kModeNames[static_cast<size_t>(modes[first])]);
  }
  return text;
}

std::optional<double> read_share(std::string_view text) {
  if (text == "0") return 0;
  if (!text.ends_with('%')) return std::nullopt;
  const auto percent = read_real(text.substr(0, text.size() - 1));
  if (!percent || *percent < 0 || *percent > 100) return std::nullopt;
  return *percent / 100;
}

std::string budget_text(const index::Budget& budget) {
  switch (budget.kind) {
    case index::Budget::Kind::kTokens:
      return fmt::format("{:.0f}", budget.value);
    case index::Budget::Kind::kShare:
      return fmt::format("{:g}%", 100 * budget.value);
    case index::Budget::Kind::kMass:
      return fmt::format("{:g}p", budget.value);
    case index::Budget::Kind::kLogGap:
      return fmt::format("{:g}n", budget.value);
  }
  return "unknown";
}

std::optional<std::pair<int32_t, double>> read_logit_bias(std::string_view text) {
  const auto token = take_digits(text);
  if (!token || *token > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
    return std::nullopt;
  }
  if (text.size() < 2 || (text[0] != '+' && text[0] != '-')) return std::nullopt;
  const double sign = text[0] == '-' ? -1.0 : 1.0;
  text.remove_prefix(1);
  if (text[0] == '-') return std::nullopt;
  double magnitude = std::numeric_limits<double>::infinity();
  if (text != "inf") {
    const auto value = read_real(text);
    if (!value) return std::nullopt;
    magnitude = *value;
  }
  return std::pair{static_cast<int32_t>(*token), sign * magnitude};
}

}  // namespace strata::cli

#include "tools/serve/http_head.h"

#include <algorithm>

namespace strata::serve {
namespace {

constexpr std::string_view kLineEnd = "\r\n";
constexpr size_t kRangeBytesMax = 256;

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/// Source: RFC 9110, section 5.6.2.
bool is_token(std::string_view text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return is_letter_or_digit(c) || kOthers.find(c) != std::string_view::npos;
  });
}

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\t') || byte == 0x7f;
}

/// `small` is in small letters.
bool is_name(std::string_view name, std::string_view small) {
  return std::ranges::equal(name, small, {}, [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
}

}  // namespace

size_t head_size(std::string_view bytes, size_t from) {
  for (size_t at = bytes.find('\n', from); at != std::string_view::npos;
       at = bytes.find('\n', at + 1)) {
    const std::string_view rest = bytes.substr(at + 1);
    if (rest.starts_with(kLineEnd)) return at + 3;
    if (rest.starts_with('\n')) return at + 2;  // which head_fault() refuses
  }
  return 0;
}

const char* head_fault(std::string_view head) {
  size_t n_hosts = 0;
  for (bool is_first = true; !head.empty(); is_first = false) {
    const size_t end = std::min(head.find(kLineEnd), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + kLineEnd.size(), head.size()));
    if (std::ranges::any_of(line, is_control))
      return "a line of the head holds a control character, or does not end with CRLF";
    if (is_first || line.empty()) continue;
    const size_t colon = line.find(':');
    const std::string_view name = line.substr(0, colon);
    if (colon == std::string_view::npos || !is_token(name))
      return "a line of the head is no header: wanted 'Name: value'";
    if (is_name(name, "host") && ++n_hosts > 1) return "Host is given twice";
    if (is_name(name, "range") && line.size() > kRangeBytesMax)
      return "Range is longer than this server takes";
  }
  return nullptr;
}

}  // namespace strata::serve

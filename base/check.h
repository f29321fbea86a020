// base/check.h - checks for bugs. Always on; print the condition and its operands, then abort.
// Never reachable from a file, prompt, option or HTTP byte: those throw strata::Error.
#pragma once

namespace strata::detail {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const char* format, ...) __attribute__((format(printf, 4, 5)));
}  // namespace strata::detail

/// STRATA_CHECK(a == b, "a=%u b=%u", a, b): the text is printf-style, so that base needs no
/// formatting library.
#define STRATA_CHECK(condition, ...)                                               \
  do {                                                                             \
    if (!(condition)) [[unlikely]]                                                 \
      ::strata::detail::check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__); \
  } while (false)

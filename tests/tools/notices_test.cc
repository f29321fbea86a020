// What a notice lets through: a hostile name must not steer the terminal.
#include "tools/cli/notices.h"

#include <gtest/gtest.h>

#include "engine/text/utf8.h"

namespace strata::cli {
namespace {

TEST(OneLine, ControlCharactersAreWrittenOut) {
  EXPECT_EQ(one_line("a\nb\r\t\x1b[2J\x7f"), "a\\nb\\x0d\\x09\\x1b[2J\\x7f");
  EXPECT_EQ(one_line("\u009b2J \u0085"), "\\xc2\\x9b2J \\xc2\\x85");
  for (uint32_t c1 = 0x80; c1 <= 0x9f; ++c1) {
    std::string text;
    engine::append_utf8(c1, text);
    EXPECT_EQ(one_line(text).find('\xc2'), std::string::npos) << c1;
  }
}

TEST(OneLine, WhatIsNotUtf8IsWrittenOut) {
  EXPECT_EQ(one_line("a\x9b"
                     "2J\xe4\xb8"),
            "a\\x9b2J\\xe4\\xb8");
}

TEST(OneLine, OtherTextStays) {
  const std::string text = "K\u00f6ln \u00a0 \u4e16\u754c \U0001f600 \\ \"";
  EXPECT_EQ(one_line(text), text);
}

}  // namespace
}  // namespace strata::cli

// tests/engine/thrown_error.h - what a test says of an Error: its code, and parts of its message
// and of its place.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "base/error.h"

namespace strata::engine::testing {

/// Fails unless `act` throws a strata::Error of this code whose message and where contain the
/// texts. Every such error is one line.
template <typename Act>
void expect_error(Act act, ErrorCode code, std::string_view message, std::string_view where = "") {
  try {
    (void)act();
  } catch (const Error& error) {
    EXPECT_EQ(error_code_name(error.code()), error_code_name(code));
    const std::string found = error.what();
    EXPECT_NE(found.find(message), std::string::npos)
        << "wanted: " << message << "\nfound:  " << found;
    EXPECT_NE(error.where().find(where), std::string::npos)
        << "wanted: " << where << "\nfound:  " << error.where();
    EXPECT_EQ((found + error.where() + error.remedy()).find('\n'), std::string::npos);
    return;
  }
  ADD_FAILURE() << "no error; wanted: " << message;
}

}  // namespace strata::engine::testing

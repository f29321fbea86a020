#include "tools/cli/answer_sink.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "base/error.h"
#include "tests/engine/test_folder.h"

namespace strata::cli {
namespace {

std::string content(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(AnswerSink, EmptiesAnOldFileOnlyWhenItWrites) {
  const engine::testing::TestFolder folder;
  const std::string path = folder.write("answer.txt", "an earlier, longer answer");
  { const AnswerSink untouched = AnswerSink::open(path); }
  EXPECT_EQ(content(path), "an earlier, longer answer");
  AnswerSink sink = AnswerSink::open(path);
  sink.write("short");
  sink.write_line(" answer");
  sink.close();
  EXPECT_EQ(content(path), "short answer\n");
}

TEST(AnswerSink, SaysWhyItCannotWrite) {
  try {
    AnswerSink::open("/nonexistent/answer");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_EQ(error.where(), "/nonexistent/answer");
    EXPECT_EQ(error.remedy(), "check that its folder exists");
  }
  AnswerSink full = AnswerSink::open("/dev/full");
  EXPECT_THROW(full.write("x"), Error);
}

}  // namespace
}  // namespace strata::cli

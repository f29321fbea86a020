#include "tools/cli/answer_sink.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "base/error.h"

namespace strata::cli {
namespace {

std::string content(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(AnswerSink, EmptiesAnOldFileOnlyWhenItWrites) {
  const auto path =
      std::filesystem::temp_directory_path() / ("strata-sink-" + std::to_string(::getpid()));
  std::ofstream(path) << "an earlier, longer answer";
  { const AnswerSink untouched = AnswerSink::open(path.string()); }
  EXPECT_EQ(content(path), "an earlier, longer answer");
  AnswerSink sink = AnswerSink::open(path.string());
  sink.write("short");
  sink.write_line(" answer");
  sink.close();
  EXPECT_EQ(content(path), "short answer\n");
  std::filesystem::remove(path);
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

#include "tools/cli/input_files.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace strata::cli {
namespace {

TEST(InputText, NamesTheFirstByteThatIsNotUtf8) {
  EXPECT_NO_THROW(check_utf8("a \xc3\xa9 \xe2\x82\xac \xf0\x9f\x8d\x84", "x"));
  const std::pair<std::string, std::string> cases[] = {
      {"ab\xff", "0xff at offset 2"},
      {"\x80", "0x80 at offset 0"},
      {"a\xc3", "0xc3 at offset 1"},
      {"\xc0\x80", "0xc0 at offset 0"},
      {"\xe0\x80\x80", "0xe0 at offset 0"},
      {"\xed\xa0\x80", "0xed at offset 0"},
      {"\xf4\x90\x80\x80", "0xf4 at offset 0"},
      {"ok\xf0\x9f\x8d", "0xf0 at offset 2"},
  };
  for (const auto& [text, found] : cases) {
    try {
      check_utf8(text, "file.txt");
      ADD_FAILURE() << found;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadText);
      EXPECT_EQ(error.where(), "file.txt");
      EXPECT_NE(std::string(error.what()).find(found), std::string::npos) << error.what();
    }
  }
}

TEST(InputText, SaysWhyAFileCannotBeRead) {
  const auto message = [](const std::string& path) -> std::string {
    try {
      read_text_file(path, "--file");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_EQ(error.where(), "--file");
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message("/nonexistent/file"),
            "cannot open '/nonexistent/file': No such file or directory");
  EXPECT_EQ(message("/tmp"), "cannot read '/tmp': Is a directory");
  EXPECT_EQ(read_text_file_if_present("/nonexistent/file", ""), std::nullopt);
}

}  // namespace
}  // namespace strata::cli

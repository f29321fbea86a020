#include "tools/cli/line_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

namespace strata::cli {
namespace {

/// A reader over text that came through a pipe, already closed.
class PipedText {
 public:
  explicit PipedText(const std::string& text) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    EXPECT_EQ(::write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::close(ends[1]);
    descriptor_ = ends[0];
    reader_ = make_plain_reader(descriptor_);
  }
  ~PipedText() { ::close(descriptor_); }
  std::vector<std::string> messages() {
    std::vector<std::string> all;
    std::string message;
    while (read_message(*reader_, message) == LineStatus::kLine) all.push_back(message);
    return all;
  }

 private:
  int descriptor_;
  std::unique_ptr<LineReader> reader_;
};

using Messages = std::vector<std::string>;

TEST(MessageReader, TakesOneMessagePerLine) {
  EXPECT_EQ(PipedText("one\ntwo\r\n\nthree").messages(), (Messages{"one", "two", "", "three"}));
  EXPECT_EQ(PipedText("").messages(), Messages{});
}

TEST(MessageReader, TakesSeveralLinesBetweenFences) {
  EXPECT_EQ(PipedText("\"\"\"\nfirst\n\nlast\n\"\"\"\nnext\n").messages(),
            (Messages{"first\n\nlast", "next"}));
  EXPECT_EQ(PipedText("\"\"\"one line\"\"\"\n").messages(), Messages{"one line"});
  EXPECT_EQ(PipedText("\"\"\"first\nlast\"\"\"\nx").messages(), (Messages{"first\nlast", "x"}));
  EXPECT_EQ(PipedText("\"\"\"never closed\nstill").messages(), Messages{"never closed\nstill"});
}

TEST(MessageReader, TakesLinesLongerThanItsReads) {
  const std::string line(50'000, 'x');
  EXPECT_EQ(PipedText(line + "\ny\n").messages(), (Messages{line, "y"}));
}

}  // namespace
}  // namespace strata::cli

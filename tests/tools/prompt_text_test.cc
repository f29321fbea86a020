// What one prompt consists of: documents, then the question, as one text for one user turn.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

class TextFile {
 public:
  TextFile(const std::string& name, const std::string& text)
      : path_(::testing::TempDir() + "strata_prompt_" + name) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TextFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string prompt_of(const std::vector<std::string>& files, const char* question) {
  Command command;
  command.settings = default_settings();
  command.settings.file = files;
  if (question != nullptr) {
    command.settings.prompt = question;
    command.origins["prompt"] = "--prompt";
  }
  return gather_prompt(command, "run");
}

ErrorCode code_of(const std::vector<std::string>& files, const char* question) {
  try {
    ADD_FAILURE() << prompt_of(files, question);
  } catch (const Error& error) {
    EXPECT_FALSE(error.where().empty());
    return error.code();
  }
  return ErrorCode::kCancelled;
}

TEST(PromptText, DocumentsStandBeforeTheQuestion) {
  const TextFile book("book", "Once upon a time.\n\n\n");
  const TextFile log("log", "code 7");
  EXPECT_EQ(prompt_of({book.path()}, "Who?"), "Once upon a time.\n\nWho?");
  EXPECT_EQ(prompt_of({book.path(), log.path()}, "Who?"), "Once upon a time.\n\ncode 7\n\nWho?");
  EXPECT_EQ(prompt_of({log.path()}, nullptr), "code 7");
}

TEST(PromptText, TheDocumentsTextDoesNotDependOnTheQuestion) {
  const TextFile book("book", "Once upon a time.\n");
  const std::string first = prompt_of({book.path()}, "Who?");
  const std::string second = prompt_of({book.path()}, "Where?");
  const std::string shared = "Once upon a time.\n\n";
  EXPECT_EQ(first.substr(0, shared.size()), shared);
  EXPECT_EQ(second.substr(0, shared.size()), shared);
}

TEST(PromptText, WhatIsEmptyOrNotUtf8IsRefused) {
  const TextFile empty("empty", "");
  const TextFile broken("broken", "abc\xFF");
  EXPECT_EQ(code_of({empty.path()}, nullptr), ErrorCode::kBadText);
  EXPECT_EQ(code_of({empty.path()}, ""), ErrorCode::kBadText);
  EXPECT_EQ(code_of({broken.path()}, "Who?"), ErrorCode::kBadText);
  EXPECT_EQ(code_of({empty.path()}, "\xC3"), ErrorCode::kBadText);
  EXPECT_EQ(code_of({::testing::TempDir() + "strata_no_such_file"}, "Who?"), ErrorCode::kIo);
}

}  // namespace
}  // namespace strata::cli

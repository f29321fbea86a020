// What one prompt consists of: documents, then the question, as one text for one user turn.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "tests/engine/test_folder.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

using engine::testing::TestFolder;

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
  const TestFolder folder;
  const std::string book = folder.write("book", "Once upon a time.\n\n\n");
  const std::string log = folder.write("log", "code 7");
  EXPECT_EQ(prompt_of({book}, "Who?"), "Once upon a time.\n\nWho?");
  EXPECT_EQ(prompt_of({book, log}, "Who?"), "Once upon a time.\n\ncode 7\n\nWho?");
  EXPECT_EQ(prompt_of({log}, nullptr), "code 7");
}

TEST(PromptText, TheDocumentsTextDoesNotDependOnTheQuestion) {
  const TestFolder folder;
  const std::string book = folder.write("book", "Once upon a time.\n");
  const std::string first = prompt_of({book}, "Who?");
  const std::string second = prompt_of({book}, "Where?");
  const std::string shared = "Once upon a time.\n\n";
  EXPECT_EQ(first.substr(0, shared.size()), shared);
  EXPECT_EQ(second.substr(0, shared.size()), shared);
}

TEST(PromptText, WhatIsEmptyOrNotUtf8IsRefused) {
  const TestFolder folder;
  const std::string empty = folder.write("empty", "");
  const std::string broken = folder.write("broken", "abc\xFF");
  EXPECT_EQ(code_of({empty}, nullptr), ErrorCode::kBadText);
  EXPECT_EQ(code_of({empty}, ""), ErrorCode::kBadText);
  EXPECT_EQ(code_of({broken}, "Who?"), ErrorCode::kBadText);
  EXPECT_EQ(code_of({empty}, "\xC3"), ErrorCode::kBadText);
  EXPECT_EQ(code_of({folder.path("absent")}, "Who?"), ErrorCode::kIo);
}

}  // namespace
}  // namespace strata::cli

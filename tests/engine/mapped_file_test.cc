#include "engine/mapped_file.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <vector>

#include "engine/gguf/input_file.h"
#include "tests/engine/test_folder.h"

namespace strata::engine {
namespace {

TEST(MappedFile, ReadsWhatTheFileHolds) {
  const testing::TestFolder folder;
  std::vector<std::byte> bytes(20'000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 31 % 251);
  const InputFile file = InputFile::open(folder.write("a", bytes));
  const auto mapped = MappedFile::open(file.descriptor(), file.size());
  if (!mapped) GTEST_SKIP() << "this system allows no guarded copy";
  std::vector<std::byte> out(9'000);
  ASSERT_EQ(mapped->read(5'001, out), 0);
  EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin() + 5'001));
}

/// A plain access would end the process (SIGBUS).
TEST(MappedFile, OfAFileCutShortAnswersWithAnError) {
  const testing::TestFolder folder;
  const std::string path = folder.write("a", std::vector<std::byte>(100'000));
  const InputFile file = InputFile::open(path);
  const auto mapped = MappedFile::open(file.descriptor(), file.size());
  if (!mapped) GTEST_SKIP() << "this system allows no guarded copy";
  std::vector<std::byte> out(10'000);
  ASSERT_EQ(mapped->read(80'000, out), 0);
  std::filesystem::resize_file(path, 10'000);
  EXPECT_EQ(mapped->read(80'000, out), EFAULT);
  EXPECT_EQ(mapped->read(8'000, out), EFAULT);
}

}  // namespace
}  // namespace strata::engine

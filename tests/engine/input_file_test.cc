#include "engine/gguf/input_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::TestFolder;

std::vector<std::byte> counted(size_t n) {
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

TEST(InputFile, ReadsByPosition) {
  const TestFolder folder;
  const std::vector<std::byte> bytes = counted(1000);
  const InputFile file = InputFile::open(folder.write("file", bytes));
  EXPECT_EQ(file.size(), 1000u);
  EXPECT_EQ(file.path(), folder.path("file"));
  for (const auto& [offset, n] :
       {std::pair(0u, 1000u), std::pair(990u, 10u), std::pair(3u, 1u), std::pair(1000u, 0u)}) {
    std::vector<std::byte> out(n);
    file.read(offset, out, "bytes");
    EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin() + offset));
  }
}

TEST(InputFile, ReadsFromSeveralThreads) {
  const TestFolder folder;
  const std::vector<std::byte> bytes = counted(1 << 16);
  const InputFile file = InputFile::open(folder.write("file", bytes));
  std::vector<std::vector<std::byte>> found(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < found.size(); ++t) {
    threads.emplace_back([&, t] {
      found[t].resize(bytes.size());
      for (size_t at = 0; at < bytes.size(); at += 256)
        file.read(at, std::span(found[t]).subspan(at, 256), "bytes");
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& each : found) EXPECT_EQ(each, bytes);
}

TEST(InputFile, OpensRegularFilesOnly) {
  const TestFolder folder;
  expect_error([&] { return InputFile::open(folder.path("absent")); }, ErrorCode::kIo,
               "cannot open the file: No such file or directory", folder.path("absent"));
  expect_error([] { return InputFile::open(""); }, ErrorCode::kIo, "cannot open the file");
  expect_error([&] { return InputFile::open(folder.path("")); }, ErrorCode::kIo,
               "wanted a regular file, found a directory or device", folder.path(""));
  expect_error([] { return InputFile::open("/dev/zero"); }, ErrorCode::kIo,
               "wanted a regular file, found a directory or device", "/dev/zero");
}

TEST(InputFile, ReadPastTheEndIsAnError) {
  const TestFolder folder;
  const std::string path = folder.write("file", counted(100));
  const InputFile file = InputFile::open(path);
  std::vector<std::byte> out(20);
  expect_error([&] { file.read(90, out, "tensor t"); }, ErrorCode::kIo,
               "wanted 10 more bytes, found the end of the file", path + ": tensor t, offset 100");
  std::filesystem::resize_file(path, 50);
  EXPECT_EQ(file.size(), 100u);
  expect_error([&] { file.read(40, out, "tensor t"); }, ErrorCode::kIo,
               "it was cut short after it was opened", path + ": tensor t, offset 50");
}

TEST(InputFile, MovesItsFile) {
  const TestFolder folder;
  InputFile first = InputFile::open(folder.write("a", counted(10)));
  InputFile second = InputFile::open(folder.write("b", counted(20)));
  second = std::move(first);
  EXPECT_EQ(second.path(), folder.path("a"));
  EXPECT_EQ(second.size(), 10u);
  const InputFile third(std::move(second));
  std::vector<std::byte> out(10);
  third.read(0, out, "bytes");
  EXPECT_EQ(out, counted(10));
}

}  // namespace
}  // namespace strata::engine

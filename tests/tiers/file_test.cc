#include "tiers/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <fstream>

#include "base/error.h"
#include "tests/tiers/child_process.h"
#include "tests/tiers/fresh_folder.h"

namespace strata::tiers {
namespace {

void expect_refused(const std::string& path, const std::string& text) {
  for (const bool direct : {false, true}) {
    try {
      const File file = File::open_for_reading(path, direct);
      ADD_FAILURE() << "opened " << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_EQ(error.where(), path);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
      EXPECT_FALSE(error.remedy().empty());
    }
  }
}

bool is_open(int descriptor) { return fcntl(descriptor, F_GETFD) >= 0; }

TEST(File, KnowsItsSizeAndAlignment) {
  const FreshFolder folder;
  std::ofstream(folder.path("a")) << std::string(5000, 'x');
  const File buffered = File::open_for_reading(folder.path("a"), false);
  EXPECT_FALSE(buffered.is_direct());
  EXPECT_EQ(buffered.alignment(), 1u);
  EXPECT_EQ(buffered.size_bytes(), 5000u);
  EXPECT_EQ(buffered.name(), folder.path("a"));
  const File direct = File::open_for_reading(folder.path("a"), true);
  EXPECT_EQ(direct.size_bytes(), 5000u);
  EXPECT_EQ((fcntl(direct.descriptor(), F_GETFL) & O_DIRECT) != 0, direct.is_direct());
  EXPECT_TRUE(std::has_single_bit(direct.alignment()));
  EXPECT_EQ(direct.alignment() > 1, direct.is_direct());
}

TEST(File, DirectAccessIsAlignedAsTheFileSystemSays) {
#ifdef STATX_DIOALIGN
  const FreshFolder folder;
  std::ofstream(folder.path("a")) << std::string(8192, 'x');
  const File file = File::open_for_reading(folder.path("a"), true);
  struct statx told = {};
  if (!file.is_direct() ||
      statx(file.descriptor(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &told) != 0 ||
      (told.stx_mask & STATX_DIOALIGN) == 0 || told.stx_dio_offset_align == 0)
    GTEST_SKIP() << "nothing is told of direct access in " << folder.path();
  const uint32_t wanted = std::max(told.stx_dio_mem_align, told.stx_dio_offset_align);
  std::printf("%u bytes\n", wanted);
  EXPECT_EQ(file.alignment(), wanted);
#else
  GTEST_SKIP() << "headers of before Linux 6.1";
#endif
}

TEST(File, DirectAccessIsAlignedToAPageWhereNothingIsTold) {
  const FreshFolder folder;
  std::ofstream(folder.path("a")) << std::string(8192, 'x');
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    forbid_call(__NR_statx, ENOSYS);
    const File file = File::open_for_reading(folder.path("a"), true);
    if (!file.is_direct()) throw NotPossibleHere("no O_DIRECT in " + folder.path());
    demand(file.alignment() == 4096, std::to_string(file.alignment()));
  }));
}

TEST(File, SizeIsTheSizeNow) {
  const FreshFolder folder;
  std::ofstream(folder.path("a")) << "abc";
  const File file = File::open_for_reading(folder.path("a"), false);
  EXPECT_EQ(file.size_bytes(), 3u);
  std::ofstream(folder.path("a"), std::ios::app) << "de";
  EXPECT_EQ(file.size_bytes(), 5u);
}

TEST(File, WithoutDirectAccessItUsesThePageCache) {
  // The kernel offers no O_DIRECT on the files of /proc.
  const File file = File::open_for_reading("/proc/self/maps", true);
  EXPECT_FALSE(file.is_direct());
  EXPECT_EQ(file.alignment(), 1u);
}

TEST(File, WhatCannotBeReadAtAnOffsetIsRefusedByName) {
  const FreshFolder folder;
  expect_refused(folder.path("missing"), "No such file");
  expect_refused(folder.path(), "directory");
  ASSERT_EQ(mkfifo(folder.path("pipe").c_str(), 0600), 0);
  expect_refused(folder.path("pipe"), "neither a file nor a disk");
}

TEST(File, HasOneOwnerThatClosesIt) {
  const FreshFolder folder;
  std::ofstream(folder.path("a")) << "abc";
  std::ofstream(folder.path("b")) << "b";
  int a = -1;
  int b = -1;
  {
    File first = File::open_for_reading(folder.path("a"), false);
    a = first.descriptor();
    EXPECT_NE(fcntl(a, F_GETFD) & FD_CLOEXEC, 0);
    {
      File second = std::move(first);
      EXPECT_EQ(second.descriptor(), a);
      File third = File::open_for_reading(folder.path("b"), false);
      b = third.descriptor();
      third = std::move(second);
      EXPECT_EQ(third.descriptor(), a);
      EXPECT_EQ(third.name(), folder.path("a"));
    }
    EXPECT_FALSE(is_open(a));
    EXPECT_FALSE(is_open(b));
  }
}

}  // namespace
}  // namespace strata::tiers

// What every back end that reaches a real disk must do. The files lie in the folder for temporary
// files, and are direct where its file system allows it.
#include "tiers/io.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <random>

#include "base/error.h"
#include "base/host_memory.h"
#include "tests/tiers/fresh_folder.h"
#include "tiers/file.h"
#include "tiers/thread_io.h"
#include "tiers/uring_io.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""s;
using std::chrono_literals::operator""us;

constexpr uint32_t kBlock = 4096;

struct BackEnd {
  std::string name;
  std::function<std::unique_ptr<Io>(uint32_t depth)> open;
};

const BackEnd kBackEnds[] = {
    {"threads", [](uint32_t depth) { return std::make_unique<ThreadIo>(depth, 3); }},
    {"ring", [](uint32_t depth) { return open_uring_io(depth); }},
    {"plain_ring", [](uint32_t depth) { return open_uring_io(depth, UringSetup::kPlain); }},
};

File open_for_writing(const std::string& path) {
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC;
  const int direct = ::open(path.c_str(), kFlags | O_DIRECT, 0600);
  if (direct >= 0) return File::adopt(direct, true, path);
  return File::adopt(::open(path.c_str(), kFlags, 0600), false, path);
}

class IoTest : public ::testing::TestWithParam<BackEnd> {
 protected:
  void SetUp() override {
    try {
      GetParam().open(1);
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }

  /// Starts the requests and returns all completions by id.
  std::map<uint64_t, IoCompletion> run(Io& io, std::span<const IoRequest> requests) {
    std::map<uint64_t, IoCompletion> by_id;
    std::vector<IoCompletion> out(io.depth());
    while (!requests.empty() || io.in_flight() > 0) {
      requests = requests.subspan(io.submit(requests));
      const uint32_t n = io.wait(out, 60s);
      EXPECT_GT(n, 0u);
      if (n == 0) return by_id;
      for (uint32_t i = 0; i < n; ++i) EXPECT_TRUE(by_id.emplace(out[i].id, out[i]).second);
    }
    return by_id;
  }

  IoCompletion run_one(Io& io, const IoRequest& request) {
    const auto by_id = run(io, {&request, 1});
    return by_id.at(request.id);
  }

  FreshFolder folder_;
  HostMemory memory_ = HostMemory::reserve(4 << 20);
};

TEST_P(IoTest, RandomTransfersMoveTheirBytesAndNoOthers) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  constexpr uint32_t kBlocks = 512;
  const File file = open_for_writing(folder_.path("a"));
  const auto io = GetParam().open(8);
  const IoFile handle = io->add_file(file);
  EXPECT_EQ(io->alignment(handle), file.alignment());
  io->prepare_memory(memory_.as<std::byte>(memory_.size() / 2));  // the rest stays unprepared
  std::vector<std::byte> wanted(kBlocks * kBlock);
  for (std::byte& b : wanted) b = static_cast<std::byte>(random());
  ASSERT_LE(2 * wanted.size(), memory_.size());
  for (int round = 0; round < 4; ++round) {
    // Neighbouring pieces of random lengths, in random order, cover the file once.
    std::vector<IoRequest> requests;
    const uint64_t half = round % 2 == 0 ? 0 : memory_.size() / 2;
    for (uint32_t block = 0; block < kBlocks;) {
      const auto n = static_cast<uint32_t>(std::min<uint64_t>(1 + random() % 24, kBlocks - block));
      const uint64_t offset = uint64_t{block} * kBlock;
      requests.push_back({.op = IoOp::kWrite,
                          .file = handle,
                          .offset = offset,
                          .memory = memory_.data() + half + offset,
                          .bytes = n * kBlock,
                          .id = block});
      block += n;
    }
    std::shuffle(requests.begin(), requests.end(), random);
    std::memcpy(memory_.data() + half, wanted.data(), wanted.size());
    auto by_id = run(*io, requests);
    ASSERT_EQ(by_id.size(), requests.size());
    for (const auto& [id, completion] : by_id) ASSERT_EQ(completion.status, IoStatus::kOk);
    std::memset(memory_.data(), 0x5a, memory_.size());
    for (IoRequest& request : requests) request.op = IoOp::kRead;
    std::shuffle(requests.begin(), requests.end(), random);
    by_id = run(*io, requests);
    for (const IoRequest& request : requests) {
      ASSERT_EQ(by_id.at(request.id).status, IoStatus::kOk);
      ASSERT_EQ(by_id.at(request.id).bytes, request.bytes);
    }
    ASSERT_EQ(std::memcmp(memory_.data() + half, wanted.data(), wanted.size()), 0);
    for (uint64_t i = 0; i < memory_.size() / 2; ++i)
      ASSERT_EQ(memory_.data()[memory_.size() / 2 - half + i], std::byte{0x5a}) << i;
    std::rotate(wanted.begin(), wanted.begin() + 77, wanted.end());
  }
}

TEST_P(IoTest, TheNumberOfARemovedFileIsGivenToTheNextOne) {
  const auto io = GetParam().open(2);
  const auto filled = [&](const std::string& name, std::byte value) {
    File file = open_for_writing(folder_.path(name));
    std::fill_n(memory_.data(), kBlock, value);
    const IoFile handle = io->add_file(file);
    const IoCompletion done = run_one(
        *io, {.op = IoOp::kWrite, .file = handle, .memory = memory_.data(), .bytes = kBlock});
    EXPECT_EQ(done.status, IoStatus::kOk);
    return std::pair(std::move(file), handle);
  };
  const auto kept = filled("kept", std::byte{1});
  IoFile last{};
  for (int i = 2; i < 100; ++i) {  // more than a ring's table holds
    const auto [file, handle] = filled("a" + std::to_string(i), static_cast<std::byte>(i));
    EXPECT_TRUE(i == 2 || handle == last);
    last = handle;
    io->remove_file(handle);
  }
  const auto [file, handle] = filled("b", std::byte{100});
  for (const auto& [of, value] : {std::pair(handle, 100), std::pair(kept.second, 1)}) {
    run_one(*io, {.op = IoOp::kRead, .file = of, .memory = memory_.data(), .bytes = kBlock});
    EXPECT_EQ(memory_.data()[kBlock - 1], static_cast<std::byte>(value));
  }
}

TEST_P(IoTest, SubmitTakesNoMoreThanTheDepth) {
  const File file = open_for_writing(folder_.path("a"));
  const auto io = GetParam().open(5);
  EXPECT_EQ(io->depth(), 5u);
  const IoFile handle = io->add_file(file);
  std::vector<IoRequest> requests;
  for (uint32_t i = 0; i < 12; ++i)
    requests.push_back({.op = IoOp::kWrite,
                        .file = handle,
                        .offset = i * kBlock,
                        .memory = memory_.data(),
                        .bytes = kBlock,
                        .id = i});
  EXPECT_EQ(io->submit(requests), 5u);
  EXPECT_EQ(io->in_flight(), 5u);
  EXPECT_EQ(io->submit(std::span(requests).subspan(5)), 0u);
  IoCompletion one;
  EXPECT_EQ(io->wait({&one, 1}, 60s), 1u);
  EXPECT_LT(one.id, 5u);
  EXPECT_EQ(io->in_flight(), 4u);
  const auto rest = run(*io, std::span(requests).subspan(5));
  EXPECT_EQ(rest.size(), 11u);
  EXPECT_FALSE(rest.contains(one.id));
}

TEST_P(IoTest, NothingInFlightIsNotWaitedFor) {
  const auto io = GetParam().open(2);
  IoCompletion one;
  EXPECT_EQ(io->wait({&one, 1}, std::chrono::microseconds::max()), 0u);
  EXPECT_EQ(io->wait({&one, 1}, 0us), 0u);
}

TEST_P(IoTest, ALookAloneFindsWhatIsThereInTheEnd) {
  const File file = open_for_writing(folder_.path("a"));
  const auto io = GetParam().open(2);
  const IoRequest request = {
      .op = IoOp::kWrite, .file = io->add_file(file), .memory = memory_.data(), .bytes = kBlock};
  ASSERT_EQ(io->submit({&request, 1}), 1u);
  IoCompletion one;
  uint32_t n = 0;
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (n == 0 && std::chrono::steady_clock::now() < deadline) n = io->wait({&one, 1}, 0us);
  EXPECT_EQ(n, 1u);
  EXPECT_EQ(one.status, IoStatus::kOk);
}

TEST_P(IoTest, AReadPastTheEndGivesTheTail) {
  std::ofstream(folder_.path("a")) << std::string(5000, 'x');
  for (const bool direct : {true, false}) {
    const File file = File::open_for_reading(folder_.path("a"), direct);
    const auto io = GetParam().open(2);
    const IoFile handle = io->add_file(file);
    std::memset(memory_.data(), 0, 16384);
    const auto tail =
        run_one(*io, {.file = handle, .memory = memory_.data(), .bytes = 4 * kBlock, .id = 1});
    EXPECT_EQ(tail.status, IoStatus::kEndedEarly);
    EXPECT_EQ(tail.bytes, 5000u);
    EXPECT_EQ(memory_.data()[4999], std::byte{'x'});
    const auto beyond = run_one(
        *io, {.file = handle, .offset = 8192, .memory = memory_.data(), .bytes = kBlock, .id = 2});
    EXPECT_EQ(beyond.status, IoStatus::kEndedEarly);
    EXPECT_EQ(beyond.bytes, 0u);
  }
}

TEST_P(IoTest, WhatTheSystemRefusesIsACompletionNotAnException) {
  std::ofstream(folder_.path("a")) << std::string(8192, 'x');
  const File file = File::open_for_reading(folder_.path("a"), false);
  const auto io = GetParam().open(2);
  const auto completion = run_one(*io, {.op = IoOp::kWrite,
                                        .file = io->add_file(file),
                                        .memory = memory_.data(),
                                        .bytes = kBlock,
                                        .id = 9});
  EXPECT_EQ(completion.id, 9u);
  EXPECT_EQ(completion.status, IoStatus::kOther);
  EXPECT_EQ(completion.error_number, EBADF);
  EXPECT_EQ(completion.bytes, 0u);
}

TEST_P(IoTest, AMisalignedTransferHasANameOfItsOwn) {
  std::ofstream(folder_.path("a")) << std::string(8192, 'x');
  const int descriptor = ::open(folder_.path("a").c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (descriptor < 0) GTEST_SKIP() << "no O_DIRECT in " << folder_.path();
  const File file = File::adopt(descriptor, false, "a");  // hides what the device demands
  std::byte odd[64];
  if (::pread(descriptor, odd, sizeof odd, 100) >= 0)
    GTEST_SKIP() << "the file system of " << folder_.path() << " takes any alignment";
  const auto io = GetParam().open(2);
  const auto completion = run_one(
      *io,
      {.file = io->add_file(file), .offset = 100, .memory = memory_.data(), .bytes = 64, .id = 3});
  EXPECT_EQ(completion.status, IoStatus::kMisaligned);
  EXPECT_EQ(completion.error_number, EINVAL);
}

TEST_P(IoTest, AFullDeviceHasANameOfItsOwn) {
  const int descriptor = ::open("/dev/full", O_RDWR | O_CLOEXEC);
  if (descriptor < 0) GTEST_SKIP() << "no /dev/full";
  const File file = File::adopt(descriptor, false, "/dev/full");
  const auto io = GetParam().open(2);
  const auto completion = run_one(*io, {.op = IoOp::kWrite,
                                        .file = io->add_file(file),
                                        .memory = memory_.data(),
                                        .bytes = kBlock,
                                        .id = 4});
  EXPECT_EQ(completion.status, IoStatus::kNoSpace);
}

TEST_P(IoTest, ManyFilesAreKeptApart) {
  constexpr uint32_t kFiles = 100;  // more than a ring's table of registered ones holds
  std::vector<File> files;
  for (uint32_t i = 0; i < kFiles; ++i)
    files.push_back(open_for_writing(folder_.path(std::to_string(i))));
  const auto io = GetParam().open(16);
  std::vector<IoRequest> requests;
  for (uint32_t i = 0; i < kFiles; ++i) {
    std::memset(memory_.data() + i * kBlock, static_cast<int>(i), kBlock);
    requests.push_back({.op = IoOp::kWrite,
                        .file = io->add_file(files[i]),
                        .memory = memory_.data() + i * kBlock,
                        .bytes = kBlock,
                        .id = i});
  }
  for (const auto& [id, completion] : run(*io, requests))
    EXPECT_EQ(completion.status, IoStatus::kOk);
  for (uint32_t i = 0; i < kFiles; ++i) {
    std::ifstream stream(folder_.path(std::to_string(i)), std::ios::binary);
    EXPECT_EQ(stream.get(), static_cast<int>(i));
    EXPECT_EQ(files[i].size_bytes(), kBlock);
  }
}

INSTANTIATE_TEST_SUITE_P(BackEnds, IoTest, ::testing::ValuesIn(kBackEnds),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace strata::tiers

#include "tiers/transfer.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

namespace strata::tiers {
namespace {

alignas(4096) std::byte g_memory[16384];

Transfer transfer_of(uint32_t bytes, uint32_t alignment) {
  return {.request = {.offset = 8192, .memory = g_memory, .bytes = bytes, .id = 7},
          .alignment = alignment};
}

TEST(Transfer, AWholeAnswerEndsIt) {
  Transfer transfer = transfer_of(8192, 4096);
  IoCompletion completion;
  ASSERT_TRUE(finish(transfer, 8192, completion));
  EXPECT_EQ(completion.id, 7u);
  EXPECT_EQ(completion.status, IoStatus::kOk);
  EXPECT_EQ(completion.error_number, 0);
  EXPECT_EQ(completion.bytes, 8192u);
}

TEST(Transfer, AShortAlignedAnswerGoesOnBehindIt) {
  Transfer transfer = transfer_of(12288, 512);
  IoCompletion completion;
  ASSERT_FALSE(finish(transfer, 4096 + 512, completion));
  EXPECT_EQ(transfer.offset(), 8192u + 4608);
  EXPECT_EQ(transfer.memory(), g_memory + 4608);
  EXPECT_EQ(transfer.bytes(), 12288u - 4608);
  ASSERT_TRUE(finish(transfer, 12288 - 4608, completion));
  EXPECT_EQ(completion.status, IoStatus::kOk);
  EXPECT_EQ(completion.bytes, 12288u);
}

TEST(Transfer, AShortOddAnswerOfADirectFileIsItsEnd) {
  Transfer transfer = transfer_of(8192, 512);
  IoCompletion completion;
  ASSERT_TRUE(finish(transfer, 5000, completion));
  EXPECT_EQ(completion.status, IoStatus::kEndedEarly);
  EXPECT_EQ(completion.bytes, 5000u);
  Transfer buffered = transfer_of(8192, 1);
  EXPECT_FALSE(finish(buffered, 5000, completion));
}

TEST(Transfer, NoBytesAreTheEndOfTheFile) {
  Transfer transfer = transfer_of(8192, 512);
  IoCompletion completion;
  ASSERT_FALSE(finish(transfer, 4096, completion));
  ASSERT_TRUE(finish(transfer, 0, completion));
  EXPECT_EQ(completion.status, IoStatus::kEndedEarly);
  EXPECT_EQ(completion.bytes, 4096u);
}

TEST(Transfer, AnErrorKeepsItsNumberAndTheBytesBeforeIt) {
  Transfer transfer = transfer_of(8192, 512);
  IoCompletion completion;
  ASSERT_FALSE(finish(transfer, 4096, completion));
  ASSERT_TRUE(finish(transfer, -EIO, completion));
  EXPECT_EQ(completion.status, IoStatus::kDeviceError);
  EXPECT_EQ(completion.error_number, EIO);
  EXPECT_EQ(completion.bytes, 4096u);
}

TEST(Transfer, InterruptionsAreRepeatedButNotForEver) {
  for (const int error_number : {EINTR, EAGAIN, EBUSY}) {
    Transfer transfer = transfer_of(8192, 512);
    IoCompletion completion;
    for (uint32_t i = 0; i < kMaxRepeats; ++i)
      ASSERT_FALSE(finish(transfer, -error_number, completion));
    ASSERT_FALSE(finish(transfer, 512, completion));  // progress starts the count again
    for (uint32_t i = 0; i < kMaxRepeats; ++i)
      ASSERT_FALSE(finish(transfer, -error_number, completion));
    ASSERT_TRUE(finish(transfer, -error_number, completion));
    EXPECT_EQ(completion.status, io_status_of(error_number));
    EXPECT_NE(completion.status, IoStatus::kOk);
    EXPECT_EQ(completion.error_number, error_number);
    EXPECT_EQ(completion.bytes, 512u);
  }
}

TEST(TransferDeathTest, ARequestOffTheAlignmentIsABug) {
  check_request({.offset = 512, .memory = g_memory, .bytes = 1024}, 512);
  EXPECT_DEATH(check_request({.offset = 100, .memory = g_memory, .bytes = 512}, 512), "offset=100");
  EXPECT_DEATH(check_request({.memory = g_memory, .bytes = 1000}, 512), "bytes=1000");
  EXPECT_DEATH(check_request({.memory = g_memory + 1, .bytes = 512}, 512), "alignment=512");
  EXPECT_DEATH(check_request({.memory = g_memory, .bytes = 0}, 1), "bytes=0");
}

TEST(IoStatus, ErrorNumbersHaveTheStatusOfTheirCause) {
  EXPECT_EQ(io_status_of(0), IoStatus::kOk);
  for (const int n : {EIO, ENODATA, EREMOTEIO, EILSEQ, ETIMEDOUT, EBADMSG, EUCLEAN})
    EXPECT_EQ(io_status_of(n), IoStatus::kDeviceError) << n;
  for (const int n : {ENOSPC, EDQUOT, EFBIG}) EXPECT_EQ(io_status_of(n), IoStatus::kNoSpace) << n;
  for (const int n : {EPERM, EACCES, EROFS, ETXTBSY, EOPNOTSUPP, ENOSYS})
    EXPECT_EQ(io_status_of(n), IoStatus::kNotPermitted) << n;
  for (const int n :
       {ENODEV, ENXIO, ENOLINK, ENOMEDIUM, ESHUTDOWN, ESTALE, ENOTCONN, ECONNABORTED, EHOSTDOWN})
    EXPECT_EQ(io_status_of(n), IoStatus::kDeviceGone) << n;
  EXPECT_EQ(io_status_of(EINVAL), IoStatus::kMisaligned);
  for (const int n : {ENOMEM, ENOBUFS, EAGAIN, EBUSY})
    EXPECT_EQ(io_status_of(n), IoStatus::kNoMemory) << n;
  // What only a bug of ours brings, and a signal that comes for ever.
  for (const int n : {EBADF, EFAULT, ESPIPE, EISDIR, EOVERFLOW, EDESTADDRREQ, EINTR})
    EXPECT_EQ(io_status_of(n), IoStatus::kOther) << n;
}

TEST(IoStatus, NoErrorNumberSaysThatTheDeviceStillOwnsTheMemory) {
  for (int n = 1; n < 200; ++n) {
    EXPECT_NE(io_status_of(n), IoStatus::kTimedOut) << n;
    EXPECT_NE(io_status_of(n), IoStatus::kOk) << n;
  }
}

TEST(IoStatus, EachHasANameAndACauseOfItsOwn) {
  std::set<std::string_view> names;
  std::set<std::string_view> causes;
  constexpr int kCount = static_cast<int>(IoStatus::kOther) + 1;
  for (int i = 0; i < kCount; ++i) {
    names.insert(io_status_name(static_cast<IoStatus>(i)));
    causes.insert(io_status_cause(static_cast<IoStatus>(i)));
  }
  EXPECT_EQ(names.size(), size_t{kCount});
  EXPECT_EQ(causes.size(), size_t{kCount});
  EXPECT_FALSE(names.contains(""));
  for (const std::string_view cause : causes) EXPECT_TRUE(cause.ends_with(".")) << cause;
}

}  // namespace
}  // namespace strata::tiers

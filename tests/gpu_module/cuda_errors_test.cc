// What the numbers of CUDA mean.
#include "gpu_attn/cuda_errors.h"

#include <gtest/gtest.h>

namespace strata::gpu_attn {
namespace {

TEST(CudaErrors, NumbersAreSortedByWhatCanBeDone) {
  EXPECT_EQ(cuda_status(0), DeviceStatus::kOk);
  for (const int lost : {214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719})
    EXPECT_EQ(cuda_status(lost), DeviceStatus::kLost) << lost;
  EXPECT_EQ(cuda_status(2), DeviceStatus::kOutOfMemory);
  for (const int absent : {100, 101, kNoDriverError})
    EXPECT_EQ(cuda_status(absent), DeviceStatus::kNoDevice) << absent;
  EXPECT_EQ(cuda_status(46), DeviceStatus::kInUse);
  for (const int old : {35, 803}) EXPECT_EQ(cuda_status(old), DeviceStatus::kOldDriver) << old;
  for (const int without_code : {209, kOldCardError})
    EXPECT_EQ(cuda_status(without_code), DeviceStatus::kUnsupported) << without_code;
  // 720 is a launch that was too large: refused, and the device goes on.
  for (const int other : {1, 600, 701, 720, 901, 999, -1})
    EXPECT_EQ(cuda_status(other), DeviceStatus::kFailed) << other;
}

TEST(CudaErrors, TheSameNumberMeansAnotherThingWhereMemoryIsPinned) {
  EXPECT_EQ(pin_error(0), 0);
  EXPECT_EQ(cuda_status(pin_error(2)), DeviceStatus::kPinRefused);
  EXPECT_EQ(cuda_status(pin_error(712)), DeviceStatus::kPinRefused);
  EXPECT_EQ(cuda_number(pin_error(712)), 712);
  EXPECT_EQ(pin_error(700), 700) << "a lost device stays one";
}

TEST(CudaErrors, WhateverFailsWhereDevicesAreCountedThereAreNone) {
  for (const int said : {0, 35, 100}) EXPECT_EQ(count_error(said), said);
  for (const int other : {1, 2, 3, 46, 700, 999}) {
    EXPECT_EQ(cuda_status(count_error(other)), DeviceStatus::kNoDevice) << other;
    EXPECT_EQ(cuda_number(count_error(other)), other);
  }
}

TEST(CudaErrors, OurOwnNumbersHaveWords) {
  EXPECT_EQ(own_words(700), "");
  EXPECT_NE(own_words(kNoDriverError), "");
  EXPECT_NE(own_words(kOldCardError), "");
}

}  // namespace
}  // namespace strata::gpu_attn

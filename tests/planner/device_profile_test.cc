#include "planner/virtual/device_profile.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

#include "base/error.h"

namespace strata::planner {
namespace {

TEST(DeviceProfile, EveryProfileIsFoundByItsName) {
  std::set<std::string_view> names;
  for (const DeviceProfile& profile : device_profiles()) {
    EXPECT_EQ(&device_profile(profile.name), &profile);
    EXPECT_TRUE(names.insert(profile.name).second) << profile.name;
  }
  for (const char* name : {"rtx3060", "rtx4070", "rtx4090", "rtx5090", "laptop8", "h100", "h200"})
    EXPECT_TRUE(names.contains(name)) << name;
}

TEST(DeviceProfile, UnknownNameIsAnsweredWithAllNames) {
  try {
    device_profile("rtx9999");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("rtx9999"), std::string::npos);
    for (const DeviceProfile& profile : device_profiles())
      EXPECT_NE(error.remedy().find(profile.name), std::string::npos) << profile.name;
  }
}

TEST(DeviceProfile, EveryCardIsMostLikeItself) {
  for (const DeviceProfile& profile : device_profiles()) {
    DeviceFacts facts{};
    facts.capability = profile.capability;
    facts.n_multiprocessors = profile.n_multiprocessors;
    // A driver gives some hundred MiB less than a datasheet.
    facts.memory_bytes = static_cast<uint64_t>(profile.hbm_bytes.value * 0.98);
    EXPECT_EQ(nearest_profile(facts).name, profile.name);
  }
}

TEST(DeviceProfile, CardsOfOneChipAreToldApartByTheirMemory) {
  DeviceFacts facts{};
  facts.capability = 90;
  facts.n_multiprocessors = 114;  // fewer than any of that capability
  for (const auto& [gib, name] :
       {std::pair{uint64_t{80}, "h100"}, std::pair{uint64_t{140}, "h200"}}) {
    facts.memory_bytes = gib << 30;
    EXPECT_EQ(nearest_profile(facts).name, name);
  }
}

TEST(DeviceProfile, EveryFigureIsPositiveAndRatesStayBelowTheirPeaks) {
  for (const DeviceProfile& profile : device_profiles()) {
    for (const auto& [name, figure] : profile_figures(profile))
      EXPECT_GT(figure.value, 0) << profile.name << " " << name;
    EXPECT_LT(profile.hbm_rate(), profile.hbm_bytes_per_s.value);
    EXPECT_LT(profile.f16_tensor_rate(), profile.f16_tensor_flops.value);
    EXPECT_LT(profile.attend_rate(), profile.f16_tensor_flops.value);
    EXPECT_LE(profile.gemv_rate(), profile.hbm_rate());
    EXPECT_LE(profile.cpu_attend_bytes_per_s.value, profile.dram_bytes_per_s.value);
    EXPECT_LT(profile.in_bytes_per_s.value, profile.dram_bytes_per_s.value);
    EXPECT_LT(profile.shared_bytes_per_block, uint64_t{256} << 10);
  }
}

/// A card's own figures were measured on an H200; what stands around it never
/// was.
TEST(DeviceProfile, WhatStandsInNoDatasheetIsMeasuredOrAssumed) {
  for (const DeviceProfile& profile : device_profiles()) {
    EXPECT_EQ(profile.hbm_bytes.evidence, Evidence::kDatasheet);
    EXPECT_EQ(profile.hbm_bytes_per_s.evidence, Evidence::kDatasheet);
    for (const Figure& figure : {profile.hbm_efficiency, profile.flop_efficiency, profile.launch_us,
                                 profile.in_bytes_per_s})
      EXPECT_EQ(evidence_name(figure.evidence), profile.name == "h200" ? "measured" : "assumed")
          << profile.name;
    for (const Figure& figure : {profile.dram_bytes_per_s, profile.nvme_bytes_per_s})
      EXPECT_EQ(evidence_name(figure.evidence), "assumed") << profile.name;
  }
}

}  // namespace
}  // namespace strata::planner

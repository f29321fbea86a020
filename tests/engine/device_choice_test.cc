// What --device may say.
#include "engine/device_choice.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using Kind = DeviceChoice::Kind;

TEST(DeviceChoice, IsReadAndWrittenAlike) {
  EXPECT_EQ(parse_device_choice("auto"), DeviceChoice());
  EXPECT_EQ(parse_device_choice("none").kind, Kind::kNone);
  EXPECT_EQ(parse_device_choice("cuda:7"), (DeviceChoice{Kind::kCuda, 7, ""}));
  EXPECT_EQ(parse_device_choice("virtual:rtx-4090"), (DeviceChoice{Kind::kVirtual, 0, "rtx-4090"}));
  for (const std::string text : {"auto", "none", "cuda:0", "cuda:1023", "virtual:a.b_c-1"})
    EXPECT_EQ(to_string(parse_device_choice(text)), text);
}

TEST(DeviceChoice, IsRefusedWhereItIsNone) {
  const auto refused = [](const std::string& text, const std::string& why) {
    SCOPED_TRACE(text);
    testing::expect_error([&] { return parse_device_choice(text); }, ErrorCode::kUsage, why,
                          "--device");
    try {
      (void)parse_device_choice(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.remedy(), "give auto, none, cuda:N or virtual:PROFILE");
    }
  };
  refused("", "it is empty");
  for (const std::string text :
       {"gpu", "Auto", "cuda", "cuda0", " auto", "cpu", "virtual", "none "})
    refused(text, "there is no such kind of device");
  refused("cuda:", "the number of the device is missing");
  for (const std::string text : {"cuda:-1", "cuda:+1", "cuda: 1", "cuda:1x", "cuda:x", "cuda:0x1"})
    refused(text, "wanted the number of a device");
  for (const std::string text : {"cuda:1024", "cuda:4294967296", "cuda:99999999999999999999999"})
    refused(text, "no machine has more than 1024 devices");
  refused("virtual:", "the name of the profile is missing");
  for (const std::string text : {"virtual:a/b", "virtual:a b", "virtual:../x", "virtual:a\n"})
    refused(text, "the name of a profile has letters");
  refused("virtual:" + std::string(65, 'a'), "at most 64");
  refused(std::string(5000, '\x1b'), "no such kind");
}

}  // namespace
}  // namespace strata::engine

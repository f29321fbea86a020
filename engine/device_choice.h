// engine/device_choice.h - what --device says: a pure function of its text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::engine {

struct DeviceChoice {
  enum class Kind : uint8_t {
    kAuto,     // the first CUDA device that can be used, where there is one
    kNone,     // the CPU alone
    kCuda,     // that one, or an error
    kVirtual,  // a simulated one
  };
  Kind kind = Kind::kAuto;
  uint32_t ordinal = 0;  // of kCuda
  std::string profile;   // of kVirtual: its name, not checked here

  bool operator==(const DeviceChoice&) const = default;
};

/// Reads "auto", "none", "cuda:N" or "virtual:PROFILE". Errors: kUsage.
DeviceChoice parse_device_choice(std::string_view text);

/// What parse_device_choice() reads as this.
std::string to_string(const DeviceChoice& choice);

}  // namespace strata::engine

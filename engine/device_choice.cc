#include "engine/device_choice.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "base/error.h"

namespace strata::engine {
namespace {

constexpr std::string_view kCudaPrefix = "cuda:";
constexpr std::string_view kVirtualPrefix = "virtual:";
constexpr uint32_t kOrdinalMax = 1023;
constexpr size_t kProfileMax = 64;

[[noreturn]] void refuse(std::string_view text, const std::string& what) {
  constexpr size_t kShown = 80;
  std::string shown(text.substr(0, kShown));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < ' ') c = '?';
  }
  throw Error(ErrorCode::kUsage, "--device '" + shown + "': " + what, "--device",
              "give auto, none, cuda:N or virtual:PROFILE");
}

bool is_profile_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.';
}

DeviceChoice parse_cuda(std::string_view text) {
  const std::string_view digits = text.substr(kCudaPrefix.size());
  DeviceChoice choice{.kind = DeviceChoice::Kind::kCuda, .profile = {}};
  const char* begin = digits.data();
  const char* end = begin + digits.size();
  const auto [stop, error] = std::from_chars(begin, end, choice.ordinal);
  if (digits.empty()) refuse(text, "the number of the device is missing");
  if (error == std::errc::invalid_argument || stop != end)
    refuse(text, "wanted the number of a device after 'cuda:'");
  if (error != std::errc() || choice.ordinal > kOrdinalMax)
    refuse(text, "no machine has more than " + std::to_string(kOrdinalMax + 1) + " devices");
  return choice;
}

DeviceChoice parse_virtual(std::string_view text) {
  const std::string_view name = text.substr(kVirtualPrefix.size());
  if (name.empty()) refuse(text, "the name of the profile is missing");
  if (name.size() > kProfileMax || !std::ranges::all_of(name, is_profile_letter))
    refuse(text, "the name of a profile has letters, digits, '-', '_' and '.', at most " +
                     std::to_string(kProfileMax));
  return {.kind = DeviceChoice::Kind::kVirtual, .profile = std::string(name)};
}

}  // namespace

DeviceChoice parse_device_choice(std::string_view text) {
  if (text == "auto") return {};
  if (text == "none") return {.kind = DeviceChoice::Kind::kNone, .profile = {}};
  if (text.starts_with(kCudaPrefix)) return parse_cuda(text);
  if (text.starts_with(kVirtualPrefix)) return parse_virtual(text);
  refuse(text, text.empty() ? "it is empty" : "there is no such kind of device");
}

std::string to_string(const DeviceChoice& choice) {
  switch (choice.kind) {
    case DeviceChoice::Kind::kAuto:
      return "auto";
    case DeviceChoice::Kind::kNone:
      return "none";
    case DeviceChoice::Kind::kCuda:
      return std::string(kCudaPrefix) + std::to_string(choice.ordinal);
    case DeviceChoice::Kind::kVirtual:
      return std::string(kVirtualPrefix) + choice.profile;
  }
  return "";
}

}  // namespace strata::engine

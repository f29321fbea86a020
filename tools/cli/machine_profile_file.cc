#include "tools/cli/machine_profile_file.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <ctime>

#include "base/error.h"
#include "engine/sha256.h"
#include "tools/cli/input_files.h"
#include "tools/cli/replaced_file.h"

namespace strata::cli {
namespace {

using planner::MachineProfile;

constexpr int64_t kSecondsOfDay = 86400;
constexpr int64_t kStaleDays = 30;
constexpr size_t kNameDigits = 32;  // of the hash

struct Word {
  const char* name;
  std::string MachineProfile::*value;
};
constexpr Word kWords[] = {{"CPU", &MachineProfile::cpu},
                           {"instruction set", &MachineProfile::cpu_isa},
                           {"disk", &MachineProfile::disk},
                           {"device", &MachineProfile::device},
                           {"driver", &MachineProfile::driver}};

/// Nothing where it is no time as profile_time_text() writes it.
std::optional<int64_t> seconds_of(const std::string& text) {
  std::tm time{};
  const char* end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &time);
  if (end == nullptr || *end != '\0') return std::nullopt;
  const int64_t seconds = timegm(&time);
  return profile_time_text(seconds) == text ? std::optional(seconds) : std::nullopt;
}

}  // namespace

std::string machine_profile_path(const std::string& folder, const MachineProfile& words) {
  std::string all;
  for (const Word& word : kWords) all += words.*word.value + '\0';
  return fmt::format("{}/machine-{}.json", folder, engine::sha256_hex(all).substr(0, kNameDigits));
}

void write_machine_profile(const std::string& path, const MachineProfile& profile) {
  replace_cache_file(path, machine_profile_json(profile), "the profile");
}

ProfileFile read_profile_file(const std::string& path) {
  const auto text = read_text_file_if_present(
      path, "check that the file may be read, or remove it and run `strata calibrate` again");
  ProfileFile file;
  file.is_older = text && is_older_profile(*text);
  if (text && !file.is_older) file.profile = parse_machine_profile(*text, path);
  return file;
}

std::optional<MachineProfile> read_machine_profile(const std::string& path) {
  return read_profile_file(path).profile;
}

void expect_same_machine(const MachineProfile& profile, const MachineProfile& here,
                         const std::string& path) {
  for (const Word& word : kWords) {
    if (profile.*word.value == here.*word.value) continue;
    throw Error(ErrorCode::kUsage,
                fmt::format("the profile is of another machine: its {} is '{}', here it is '{}'",
                            word.name, profile.*word.value, here.*word.value),
                path, "run `strata calibrate` here");
  }
}

std::optional<int64_t> profile_age_days(const MachineProfile& profile, int64_t now_s) {
  const auto measured = seconds_of(profile.measured_at);
  if (!measured) return std::nullopt;
  return (now_s - *measured) / kSecondsOfDay;
}

std::string stale_reason(const MachineProfile& profile, const MachineProfile& here, int64_t now_s) {
  const auto days = profile_age_days(profile, now_s);
  if (!days) return "it was not measured here";
  if (*days > kStaleDays) return fmt::format("it is {} days old", *days);
  if (*days < 0) return "it was measured in the future";
  if (profile.written_by != here.written_by)
    return fmt::format("the kernels of {} were measured, this is {}", profile.written_by,
                       here.written_by);
  if (profile.n_threads != here.n_threads)
    return fmt::format("it was measured with {} threads, here are {}", profile.n_threads,
                       here.n_threads);
  return "";
}

std::string why_not_replaced(const std::optional<MachineProfile>& kept,
                             const MachineProfile& measured, int64_t now_s) {
  const bool has_clean =
      kept && kept->n_disturbed == 0 && stale_reason(*kept, measured, now_s) == "";
  if (measured.n_disturbed == 0 || !has_clean) return "";
  return fmt::format(
      "{} figures were disturbed by other programs, and none of the profile of {} that is kept",
      measured.n_disturbed, kept->measured_at);
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string profile_time_text(int64_t seconds_since_1970) {
  const std::time_t seconds = seconds_since_1970;
  std::tm time{};
  if (gmtime_r(&seconds, &time) == nullptr) return "";  // a year that no int holds
  std::array<char, 64> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &time)};
}

}  // namespace strata::cli

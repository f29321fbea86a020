#include "tools/cli/machine_profile_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>

#include "base/error.h"
#include "engine/sha256.h"
#include "tools/cli/input_files.h"

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

[[noreturn]] void fail(const std::string& path, int error_number) {
  throw Error(ErrorCode::kIo,
              fmt::format("cannot write the profile: {}", std::strerror(error_number)), path,
              "check that the folder may be written, or set XDG_CACHE_HOME");
}

/// Writes and syncs a new file; 0, or the system's error.
int write_whole(const std::string& path, std::string_view text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return errno;
  int error_number = 0;
  while (error_number == 0 && !text.empty()) {
    const ssize_t n = ::write(file, text.data(), text.size());
    if (n > 0) text.remove_prefix(static_cast<size_t>(n));
    if (n < 0 && errno != EINTR) error_number = errno;
  }
  if (error_number == 0 && ::fsync(file) != 0) error_number = errno;
  if (::close(file) != 0 && error_number == 0) error_number = errno;
  return error_number;
}

/// So that the name lasts, too. A file system that cannot sync folders loses the profile at worst.
void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

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
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) fail(path, failed.value());
  // Written beside it and renamed, so that a reader finds the old profile or the new one.
  const std::string written = fmt::format("{}.{}", path, ::getpid());
  int error_number = write_whole(written, machine_profile_json(profile));
  if (error_number == 0 && ::rename(written.c_str(), path.c_str()) != 0) error_number = errno;
  if (error_number != 0) {
    ::unlink(written.c_str());
    fail(path, error_number);
  }
  sync_folder(folder);
}

std::optional<MachineProfile> read_machine_profile(const std::string& path) {
  const auto text = read_text_file_if_present(path);
  if (!text) return std::nullopt;
  return parse_machine_profile(*text, path);
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

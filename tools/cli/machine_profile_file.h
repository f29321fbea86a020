// tools/cli/machine_profile_file.h - the profile of a machine as a JSON file: written whole, read
// strictly. Why strictly: a plan divides by every rate, so one that is wrong makes every plan
// wrong.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "planner/machine_profile.h"

namespace strata::cli {

inline constexpr uint64_t kProfileVersion = 3;  // of the file's keys

/// One object. What there is no figure of is left out.
std::string machine_profile_json(const planner::MachineProfile& profile);

/// Reads it back: all keys and no other, every rate finite and above 0, every share in (0, 1].
/// `path` is what messages point at. Errors: kBadFile (the key, wanted, found).
planner::MachineProfile parse_machine_profile(std::string_view text, const std::string& path);

/// Whether the text is of a version before this one, whose figures mean something else.
bool is_older_profile(std::string_view text);

/// FOLDER/machine-<hash of the words: CPU, instruction set, disk, device, driver>.json.
std::string machine_profile_path(const std::string& folder, const planner::MachineProfile& words);

/// Replaces what was there, all at once, and makes the folder. Errors: kIo.
void write_machine_profile(const std::string& path, const planner::MachineProfile& profile);

/// What a file holds: nothing where there is none, or one of an older version, which is to be
/// measured anew.
struct ProfileFile {
  std::optional<planner::MachineProfile> profile;
  bool is_older = false;
};
/// Errors: those of parse_machine_profile; kIo.
ProfileFile read_profile_file(const std::string& path);
/// Its profile. Errors: those of read_profile_file.
std::optional<planner::MachineProfile> read_machine_profile(const std::string& path);

/// Refuses a profile of other words than `here`. Errors: kUsage, with the first that differs.
void expect_same_machine(const planner::MachineProfile& profile,
                         const planner::MachineProfile& here, const std::string& path);

/// Whole days since it was measured, at `now_s` seconds since 1970; nothing where it was not.
std::optional<int64_t> profile_age_days(const planner::MachineProfile& profile, int64_t now_s);

/// Why its figures should be measured again (older than 30 days, another version's kernels, other
/// threads); empty: they should not.
std::string stale_reason(const planner::MachineProfile& profile,
                         const planner::MachineProfile& here, int64_t now_s);

/// Why a profile that was measured must not take the place of the one that is kept: that still
/// holds and was clean, this one was disturbed. Empty: it may.
std::string why_not_replaced(const std::optional<planner::MachineProfile>& kept,
                             const planner::MachineProfile& measured, int64_t now_s);

/// Now.
int64_t unix_seconds();
/// "2026-11-26T13:20:00Z", as measured_at has it.
std::string profile_time_text(int64_t seconds_since_1970);

}  // namespace strata::cli

// tools/cli/saved_contexts.h - what the verbs on saved contexts (`session`, `cache`) share.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tiers/pack_directory.h"
#include "tools/cli/command_line.h"

namespace strata::cli {

/// The directory of --session-dir, or nothing where there is none; then none is made.
/// Errors: kUsage where no place is known or others can reach it; kIo.
std::optional<tiers::PackDirectory> open_saved_contexts(const Command& command);

/// The sessions asked for, each once, or all with --all. Errors: kUsage (no name, one that cannot
/// be a session's, an unknown one, with those that were perhaps meant).
std::vector<tiers::SessionEntry> asked_sessions(const Command& command, const VerbSyntax& verb,
                                                const tiers::PackDirectory* packs);

/// Why a session cannot be restored whole, as far as heads show; "" where nothing shows. `packs`
/// are all of the directory.
std::string session_problem(const tiers::SessionEntry& session,
                            std::span<const tiers::PackEntry> packs);

/// An object of `session list --json`.
nlohmann::ordered_json session_json(const tiers::SessionEntry& session, const std::string& problem);

/// "2026-11-25T23:19:17Z", of nanoseconds since 1970; for JSON.
std::string utc_time_text(int64_t time_ns);
/// "2026-11-25 23:19" where the user is.
std::string local_time_text(int64_t time_ns);

/// Rows of cells as aligned columns, the first row being the heading. A '<' in `alignment` is a
/// column of words, a '>' one of numbers.
std::string table_text(std::span<const std::vector<std::string>> rows, std::string_view alignment);

/// "1 pack", "2 packs".
std::string count_text(uint64_t n, std::string_view noun);

/// Digits of the beginning of a pack's name that tell it from all others of the directory.
size_t shown_digits(std::span<const tiers::PackEntry> packs);

}  // namespace strata::cli

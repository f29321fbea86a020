// tiers/session_manifest.h - a named session on the disk: its tokens, and the packs that hold their
// blocks (docs/adr/0002-saved-contexts.md).
//
//   magic of 8 bytes, u32 version, u32 bytes of the model's name, model (16 bytes), u64 n_tokens,
//   u64 n_packs, the model's name, n_tokens x i32, n_packs x (two hashes: the pack's file name),
//   hash of all before. Little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tiers/block_tag.h"

namespace strata::tiers {

inline constexpr uint32_t kSessionVersion = 1;
inline constexpr uint64_t kSessionBytesMax = uint64_t{256} << 20;  // 64 million tokens
inline constexpr uint64_t kSessionModelNameMax = 256;

struct SessionManifest {
  Hash128 model;           // as in PackShape
  std::string model_name;  // for people; at most 256 bytes
  std::vector<int32_t> tokens;
  std::vector<std::string> packs;  // names of files, in the order of their positions
  bool operator==(const SessionManifest&) const = default;
};

/// 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot: no name reaches another directory.
bool is_session_name(std::string_view name);
/// NAME.session. Errors: kUsage where the name breaks the rule above.
std::string session_file_name(std::string_view name);
/// The session whose file this is, or "".
std::string session_of_file_name(std::string_view file_name);

std::vector<std::byte> encode_session(const SessionManifest& manifest);

/// Trusts nothing, and returns all of it or nothing. `where` is for messages.
/// Errors: kBadFile, kUnsupported (another version).
SessionManifest parse_session(std::span<const std::byte> bytes, const std::string& where);

}  // namespace strata::tiers

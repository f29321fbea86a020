#include "tiers/session_manifest.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/byte_fields.h"
#include "tiers/pack_format.h"

namespace strata::tiers {
namespace {

constexpr std::array<char, 8> kMagic = {'S', 'T', 'R', 'A', 'S', 'E', 'S', 'S'};
constexpr std::string_view kNameEnd = ".session";
constexpr uint64_t kHashBytes = 16;
constexpr uint64_t kFixedBytes = 8 + 4 + 4 + kHashBytes + 8 + 8;
constexpr uint64_t kPackNameBytes = 2 * kHashBytes;

[[noreturn]] void refuse(const std::string& where, const std::string& problem) {
  throw Error(ErrorCode::kBadFile, "a damaged session: " + problem, where,
              "Remove it by its name and save it again.");
}

Hash128 parse_digits(std::string_view digits) {
  Hash128 hash;
  for (size_t i = 0; i < digits.size(); ++i) {
    uint64_t& half = i < 16 ? hash.high : hash.low;
    const auto digit = static_cast<uint64_t>(digits[i]);
    half = half << 4 | (digit <= '9' ? digit - '0' : digit - 'a' + 10);
  }
  return hash;
}

void check_version(std::span<const std::byte> bytes, const std::string& where) {
  FieldReader in(bytes, where);
  if (bytes.size() < kFixedBytes + kHashBytes || bytes.size() > kSessionBytesMax)
    refuse(where, "it is " + std::to_string(bytes.size()) + " bytes long");
  if (!std::ranges::equal(in.take_bytes(kMagic.size()), std::as_bytes(std::span(kMagic))))
    refuse(where, "it does not begin as one");
  const auto version = in.take<uint32_t>();
  if (version != kSessionVersion)
    throw Error(ErrorCode::kUnsupported,
                "a session of format " + std::to_string(version) + ", where this program reads " +
                    "format " + std::to_string(kSessionVersion),
                where, "Remove it by its name and save it again.");
  FieldReader end(bytes.last(kHashBytes), where);
  if (end.take_hash() != hash_bytes(bytes.first(bytes.size() - kHashBytes)))
    refuse(where, "its hash differs");
}

}  // namespace

bool is_session_name(std::string_view name) {
  if (name.empty() || name.size() > 64 || name.front() == '.') return false;
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

std::string session_file_name(std::string_view name) {
  if (!is_session_name(name))
    throw Error(ErrorCode::kUsage, "this cannot be the name of a session", std::string(name),
                "Use 1 to 64 letters, digits, dots, underscores and hyphens, no dot in front.");
  return std::string(name) + std::string(kNameEnd);
}

std::string session_of_file_name(std::string_view file_name) {
  if (!file_name.ends_with(kNameEnd)) return "";
  file_name.remove_suffix(kNameEnd.size());
  return is_session_name(file_name) ? std::string(file_name) : "";
}

std::vector<std::byte> encode_session(const SessionManifest& manifest) {
  STRATA_CHECK(manifest.model_name.size() <= kSessionModelNameMax, "%zu bytes",
               manifest.model_name.size());
  FieldWriter out;
  out.put_bytes(std::as_bytes(std::span(kMagic)));
  out.put(kSessionVersion);
  out.put(static_cast<uint32_t>(manifest.model_name.size()));
  out.put(manifest.model);
  out.put(uint64_t{manifest.tokens.size()});
  out.put(uint64_t{manifest.packs.size()});
  out.put_bytes(std::as_bytes(std::span(manifest.model_name)));
  for (const int32_t token : manifest.tokens) out.put(token);
  for (const std::string& pack : manifest.packs) {
    STRATA_CHECK(is_pack_file_name(pack), "%s", pack.c_str());
    out.put(parse_digits(std::string_view(pack).substr(0, 32)));
    out.put(parse_digits(std::string_view(pack).substr(33, 32)));
  }
  out.put(hash_bytes(out.bytes()));
  return out.take();
}

SessionManifest parse_session(std::span<const std::byte> bytes, const std::string& where) {
  check_version(bytes, where);
  FieldReader in(bytes.first(bytes.size() - kHashBytes), where);
  in.take_bytes(kMagic.size() + sizeof(kSessionVersion));
  SessionManifest manifest;
  const auto name_bytes = in.take<uint32_t>();
  manifest.model = in.take_hash();
  const auto n_tokens = in.take<uint64_t>();
  const auto n_packs = in.take<uint64_t>();
  if (name_bytes > kSessionModelNameMax)
    refuse(where, "its model's name has " + std::to_string(name_bytes) + " bytes");
  // Each count is below the bytes that are left, so that none of the products wraps.
  const uint64_t left = in.n_left();
  if (n_tokens > left / 4 || n_packs > left / kPackNameBytes ||
      name_bytes + n_tokens * 4 + n_packs * kPackNameBytes != left)
    refuse(where, std::to_string(n_tokens) + " tokens and " + std::to_string(n_packs) +
                      " packs in " + std::to_string(left) + " bytes");
  const auto model_name = in.take_bytes(name_bytes);
  manifest.model_name.assign(reinterpret_cast<const char*>(model_name.data()), model_name.size());
  manifest.tokens.resize(static_cast<size_t>(n_tokens));
  for (int32_t& token : manifest.tokens) token = in.take<int32_t>();
  for (uint64_t i = 0; i < n_packs; ++i) {
    const Hash128 chain_end = in.take_hash();
    manifest.packs.push_back(pack_file_name(chain_end, in.take_hash()));
  }
  return manifest;
}

}  // namespace strata::tiers

#include "tiers/rows_format.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/error.h"
#include "tiers/byte_fields.h"

namespace strata::tiers {
namespace {

constexpr std::array<char, 8> kMagic = {'S', 'T', 'R', 'A', 'R', 'O', 'W', 'S'};
constexpr std::string_view kNameEnd = ".rows";
constexpr uint64_t kHashBytes = 16;

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw Error(ErrorCode::kBadFile, "damaged index rows: " + problem, name,
              "Remove the file; the rows will be made anew.");
}

bool is_kind(std::string_view kind) {
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  return !kind.empty() && kind.size() <= kRowsKindMax && is_letter(kind[0]) &&
         std::ranges::all_of(kind, [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

/// What is wrong with a shape, or "". With these limits no size can wrap: a file has less than 2^4
/// segments x 2^18 streams x 2^32 bytes.
std::string problem_of(const RowsShape& shape) {
  if (!is_kind(shape.kind)) return "its kind is no name";
  if (shape.n_streams == 0 || shape.n_streams > kRowsStreamsMax)
    return std::to_string(shape.n_streams) + " streams";
  if (shape.segment_positions == 0 || shape.segment_positions % kExtentPositions != 0)
    return "segments of " + std::to_string(shape.segment_positions) + " positions";
  if (shape.stream_bytes == 0 || shape.stream_bytes > kRowsStreamBytesMax)
    return std::to_string(shape.stream_bytes) + " bytes of a stream";
  return "";
}

std::string take_kind(FieldReader& in, const std::string& name) {
  std::string kind;
  bool ends = false;
  for (const std::byte byte : in.take_bytes(kRowsKindMax)) {
    const auto c = std::to_integer<char>(byte);
    if (ends && c != 0) refuse(name, "its kind goes on behind its end");
    ends = ends || c == 0;
    if (!ends) kind += c;
  }
  return kind;
}

Hash128 hash_of_name(const std::string& pack) {
  return hash_bytes(std::as_bytes(std::span(pack.data(), pack.size())));
}

}  // namespace

SegmentRange segments_ending_in(uint32_t first_pos, uint32_t end_pos, uint32_t segment_positions) {
  const uint32_t first = first_pos / segment_positions;
  return {first, std::max(first, end_pos / segment_positions)};
}

std::string rows_file_name(const std::string& pack, const std::string& kind) {
  return pack + "." + kind + std::string(kNameEnd);
}

std::string kind_of_rows_file(std::string_view name) {
  STRATA_CHECK(!pack_of_rows_file(name).empty(), "%s", std::string(name).c_str());
  name.remove_suffix(kNameEnd.size());
  return std::string(name.substr(name.rfind('.') + 1));
}

std::string pack_of_rows_file(std::string_view name) {
  if (!name.ends_with(kNameEnd)) return "";
  name.remove_suffix(kNameEnd.size());
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || !is_kind(name.substr(dot + 1))) return "";
  const std::string_view pack = name.substr(0, dot);
  return is_pack_file_name(pack) ? std::string(pack) : "";
}

uint64_t rows_file_bytes(const RowsShape& shape, uint32_t n_segments) {
  return n_segments * (shape.segment_bytes() + kHashBytes) + kRowsTrailerBytes;
}

std::vector<std::byte> encode_rows_end(const RowsHead& head, const std::string& pack) {
  const std::string problem = problem_of(head.shape);
  STRATA_CHECK(problem.empty() && head.n_segments() >= 1 && head.n_segments() <= kRowsSegmentsMax,
               "%s, %u segments", problem.c_str(), head.n_segments());
  FieldWriter out;
  for (const Hash128& hash : head.hashes) out.put(hash);
  out.put_bytes(std::as_bytes(std::span(kMagic)));
  out.put(kRowsVersion);
  out.put(head.shape.n_streams);
  std::array<char, kRowsKindMax> kind{};
  std::ranges::copy(head.shape.kind, kind.begin());
  out.put_bytes(std::as_bytes(std::span(kind)));
  out.put(hash_of_name(pack));
  out.put(head.shape.segment_positions);
  out.put(head.first_segment);
  out.put(uint64_t{head.n_segments()});
  out.put(head.shape.stream_bytes);
  out.put(rows_file_bytes(head.shape, head.n_segments()));
  out.put(hash_bytes(out.bytes()));
  return out.take();
}

RowsHead parse_rows_end(std::span<const std::byte> tail, uint64_t file_bytes,
                        const std::string& pack, uint32_t first_pos, uint32_t end_pos,
                        const std::string& name) {
  STRATA_CHECK(tail.size() == std::min(file_bytes, kRowsEndBytesMax), "a tail of %zu bytes",
               tail.size());
  if (tail.size() < kRowsTrailerBytes)
    refuse(name, "it is only " + std::to_string(file_bytes) + " bytes long");
  FieldReader in(tail.last(kRowsTrailerBytes), name);
  if (!std::ranges::equal(in.take_bytes(kMagic.size()), std::as_bytes(std::span(kMagic))))
    refuse(name, "it does not end as such");
  if (const auto version = in.take<uint32_t>(); version != kRowsVersion)
    throw Error(ErrorCode::kUnsupported,
                "index rows of format " + std::to_string(version) + ", where this program reads " +
                    "format " + std::to_string(kRowsVersion),
                name, "Remove the file; the rows will be made anew.");
  RowsHead head;
  head.shape.n_streams = in.take<uint32_t>();
  head.shape.kind = take_kind(in, name);
  const Hash128 of_pack = in.take_hash();
  head.shape.segment_positions = in.take<uint32_t>();
  head.first_segment = in.take<uint32_t>();
  const auto n_segments = in.take<uint64_t>();
  head.shape.stream_bytes = in.take<uint64_t>();
  const auto claimed_bytes = in.take<uint64_t>();
  const Hash128 hash = in.take_hash();
  if (claimed_bytes != file_bytes)
    refuse(name, "it was " + std::to_string(claimed_bytes) + " bytes long and is " +
                     std::to_string(file_bytes));
  const uint64_t end_bytes = n_segments * kHashBytes + kRowsTrailerBytes;
  if (n_segments == 0 || n_segments > kRowsSegmentsMax || end_bytes > tail.size())
    refuse(name, std::to_string(n_segments) + " segments do not fit");
  const auto end = tail.last(static_cast<size_t>(end_bytes));
  if (hash_bytes(end.first(end.size() - kHashBytes)) != hash)
    refuse(name, "the hash of its end differs");
  if (of_pack != hash_of_name(pack)) refuse(name, "they are another saved context's");
  if (const std::string problem = problem_of(head.shape); !problem.empty()) refuse(name, problem);
  const auto wanted = segments_ending_in(first_pos, end_pos, head.shape.segment_positions);
  if (head.first_segment != wanted.first || n_segments > wanted.n())
    refuse(name, std::to_string(n_segments) + " segments from " +
                     std::to_string(head.first_segment) + " on are not those of positions " +
                     std::to_string(first_pos) + " to " + std::to_string(end_pos));
  if (rows_file_bytes(head.shape, static_cast<uint32_t>(n_segments)) != file_bytes)
    refuse(name, "its segments do not take " + std::to_string(file_bytes) + " bytes");
  FieldReader hashes(end, name);
  for (uint64_t i = 0; i < n_segments; ++i) head.hashes.push_back(hashes.take_hash());
  return head;
}

}  // namespace strata::tiers

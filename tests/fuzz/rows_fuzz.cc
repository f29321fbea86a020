// tests/fuzz/rows_fuzz.cc - libFuzzer target: any bytes as a file of index rows.
// Each input is parsed as a whole file of rows of one of a few packs, and as the end of one of the
// size that it claims. Wanted: strata::Error, or something that, written again, gives the same
// bytes; live memory never above a small multiple of the input.
// Run: rows_fuzz -max_len=2048 CORPUS_DIR tests/fuzz/seeds/rows_fuzz
// The end has a hash of itself. The mutator seals most inputs again, so that what lies behind the
// hash is reached.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/fuzz/live_memory.h"
#include "tests/fuzz/sealed_input.h"
#include "tiers/rows_format.h"

namespace {

using strata::tiers::Hash128;
using strata::tiers::kRowsEndBytesMax;
using strata::tiers::kRowsTrailerBytes;
using strata::tiers::RowsHead;

constexpr uint64_t kLiveBytesMin = 16 << 10;  // messages and a list of hashes
constexpr size_t kHashBytes = 16;
constexpr size_t kClaimedAt = 72;  // of the trailer

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

/// The pack that the seeds are of.
const std::string& pack() {
  static const std::string name = strata::tiers::pack_file_name(Hash128{1, 2}, Hash128{3, 4});
  return name;
}

/// Positions of the pack: [first, end).
constexpr std::array<std::array<uint32_t, 2>, 3> kPacks = {{{0, 4096}, {2816, 6912}, {4096, 5120}}};

void run(std::span<const std::byte> tail, uint64_t file_bytes) {
  for (const auto& [first_pos, end_pos] : kPacks) {
    try {
      const RowsHead head =
          strata::tiers::parse_rows_end(tail, file_bytes, pack(), first_pos, end_pos, "fuzz");
      const auto range =
          strata::tiers::segments_ending_in(first_pos, end_pos, head.shape.segment_positions);
      if (head.first_segment != range.first || head.first_segment + head.n_segments() > range.end)
        fail("segments of no such pack");
      if (strata::tiers::rows_file_bytes(head.shape, head.n_segments()) != file_bytes)
        fail("another size");
      const auto end = strata::tiers::encode_rows_end(head, pack());
      if (!std::ranges::equal(end, tail.last(end.size()))) fail("another end");
    } catch (const strata::Error&) {
    }
  }
}

/// Puts the right hash over hashes and trailer.
void seal(uint8_t* bytes, size_t size) {
  if (size < kRowsTrailerBytes) return;
  const uint8_t* trailer = bytes + size - kRowsTrailerBytes;
  if (std::memcmp(trailer, "STRAROWS", 8) != 0) return;
  uint64_t n_segments = 0;
  std::memcpy(&n_segments, trailer + 56, 8);
  if (n_segments > (size - kRowsTrailerBytes) / kHashBytes) return;
  const size_t n = kRowsTrailerBytes + n_segments * kHashBytes;
  const Hash128 hash =
      strata::tiers::hash_bytes(std::as_bytes(std::span(bytes + size - n, n - kHashBytes)));
  std::memcpy(bytes + size - kHashBytes, &hash, kHashBytes);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  strata::fuzz::count_live_memory();
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  return strata::fuzz::mutate_sealed(data, size, max_size, seed, kRowsTrailerBytes, seal);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const uint64_t peak = strata::fuzz::peak_bytes_of([&] {
    run(bytes.last(std::min<size_t>(size, kRowsEndBytesMax)), size);
    if (size < kRowsTrailerBytes || size > kRowsEndBytesMax) return;
    // A file of the size it claims: of what lies before the input nothing may be made.
    uint64_t claimed = 0;
    std::memcpy(&claimed, data + size - kRowsTrailerBytes + kClaimedAt, 8);
    if (claimed <= size) return;
    std::vector<std::byte> tail(std::min(claimed, kRowsEndBytesMax));
    std::ranges::copy(bytes, tail.end() - static_cast<std::ptrdiff_t>(size));
    run(tail, claimed);
  });
  if (peak > kLiveBytesMin) fail("more live memory than an end justifies");
  return 0;
}

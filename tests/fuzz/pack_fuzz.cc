// tests/fuzz/pack_fuzz.cc - libFuzzer target: any bytes as the end of a pack and as a session.
// Each input is parsed as the last bytes of a pack of the size that it claims, as a whole pack, and
// as a session manifest. Wanted: strata::Error, or something that, written again, gives the same
// bytes; live memory never above a small multiple of the input.
// Run: pack_fuzz -max_len=4096 CORPUS_DIR tests/fuzz/seeds/pack_fuzz
// Both formats end in a hash of themselves. The mutator seals most inputs again, so that what lies
// behind the hash is reached.
#include <algorithm>
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
#include "tiers/pack_format.h"
#include "tiers/session_manifest.h"

namespace {

using strata::tiers::Hash128;
using strata::tiers::kPackTailBytes;
using strata::tiers::kPackTrailerBytes;
using strata::tiers::PackGeometry;
using strata::tiers::PackHead;

// A chain hash per 32 tokens, a byte per bit of presence and a region offset per layer and extent
// are the largest shares; the rest is what strings and growing vectors need at least.
constexpr uint64_t kLiveBytesPerByte = 64;
constexpr uint64_t kLiveBytesMin = 64 << 10;
constexpr size_t kHashBytes = 16;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void check_head(std::span<const std::byte> tail, const PackHead& head) {
  const PackGeometry geometry(head);
  if (!strata::tiers::is_pack_file_name(pack_file_name(head))) fail("a pack without a name");
  if (geometry.tags_bytes > tail.size()) return;
  PackHead copy = head;
  const auto end = encode_pack_end(copy, std::vector<Hash128>(geometry.n_tags()));
  const auto written = std::span(end).subspan(geometry.tags_bytes);
  const size_t n_head = written.size() - kPackTrailerBytes;
  const auto read = tail.last(written.size());
  if (!std::ranges::equal(written.first(n_head), read.first(n_head))) fail("another head");
}

/// `bytes` are the whole file, or the tail of a larger one.
void run_pack(std::span<const std::byte> bytes, uint64_t file_bytes) {
  const auto tail = bytes.last(std::min<size_t>(bytes.size(), kPackTailBytes));
  try {
    const PackHead head = strata::tiers::parse_pack_head(tail, file_bytes, "fuzz");
    check_head(tail, head);
    const PackGeometry geometry(head);
    if (file_bytes == bytes.size())
      parse_pack_tags(head, geometry, bytes.subspan(geometry.tags_offset, geometry.tags_bytes),
                      "fuzz");
  } catch (const strata::Error&) {
  }
}

void run_session(std::span<const std::byte> bytes) {
  try {
    const auto session = strata::tiers::parse_session(bytes, "fuzz");
    if (!std::ranges::equal(encode_session(session), bytes)) fail("another session");
  } catch (const strata::Error&) {
  }
}

/// Puts the right hash over the last bytes of what ends as a pack or begins as a session.
void seal(uint8_t* bytes, size_t size) {
  if (size < kPackTrailerBytes) return;
  size_t first = 0;
  if (std::memcmp(bytes + size - kPackTrailerBytes, "STRAPACK", 8) == 0) {
    uint32_t head_bytes = 0;
    std::memcpy(&head_bytes, bytes + size - kPackTrailerBytes + 12, 4);
    if (head_bytes > size - kPackTrailerBytes) return;
    first = size - kPackTrailerBytes - head_bytes;
  } else if (std::memcmp(bytes, "STRASESS", 8) != 0) {
    return;
  }
  const size_t n = size - first - kHashBytes;
  const Hash128 hash = strata::tiers::hash_bytes(std::as_bytes(std::span(bytes + first, n)));
  std::memcpy(bytes + size - kHashBytes, &hash, kHashBytes);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  strata::fuzz::count_live_memory();
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  return strata::fuzz::mutate_sealed(data, size, max_size, seed, kPackTrailerBytes, seal);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const uint64_t peak = strata::fuzz::peak_bytes_of([&] {
    run_session(bytes);
    run_pack(bytes, size);
    if (size < kPackTrailerBytes || size > kPackTailBytes) return;
    // A pack of the size it claims: of what lies before the input nothing may be made.
    uint64_t claimed = 0;
    std::memcpy(&claimed, data + size - kPackTrailerBytes + 24, 8);
    if (claimed <= size) return;
    std::vector<std::byte> tail(std::min(claimed, kPackTailBytes));
    std::ranges::copy(bytes, tail.end() - static_cast<std::ptrdiff_t>(size));
    run_pack(tail, claimed);
  });
  if (peak > kLiveBytesMin + kPackTailBytes + kLiveBytesPerByte * size)
    fail("more live memory than the input justifies");
  return 0;
}

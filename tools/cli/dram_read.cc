#include "tools/cli/dram_read.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/host_memory.h"
#include "base/seconds_since.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kPiece = uint64_t{1} << 20;
constexpr uint64_t kOwnPieces = 96;
constexpr uint64_t kResidentPiecesMax = 512;  // more only takes longer
constexpr uint64_t kLine = 64;
constexpr int kPasses = 5;
constexpr int kFirstCache = 3, kSecondCache = 2;  // of __builtin_prefetch

using Vector = uint64_t __attribute__((vector_size(16)));  // every x86-64 loads it at once
constexpr uint64_t kVectors = kLine / sizeof(Vector);

/// Sums a piece, read as kStreams streams side by side. Each asks for the line kAhead bytes further
/// on (0: leaves that to the processor), which behind the last piece does nothing.
template <uint64_t kStreams, uint64_t kAhead, int kCache>
uint64_t sum_of_piece(const std::byte* piece) {
  constexpr uint64_t kStream = kPiece / kStreams;
  Vector sums[kVectors] = {};
  for (uint64_t at = 0; at < kStream; at += kLine)
    for (uint64_t stream = 0; stream < kStreams; ++stream) {
      const std::byte* line = piece + stream * kStream + at;
      if constexpr (kAhead != 0) __builtin_prefetch(line + kAhead, 0, kCache);
#pragma GCC unroll 4
      for (uint64_t i = 0; i < kVectors; ++i) {
        Vector words;
        std::memcpy(&words, line + i * sizeof(Vector), sizeof(Vector));
        sums[i] += words;
      }
    }
  uint64_t sum = 0;
  for (const Vector& words : sums) sum += words[0] + words[1];
  return sum;
}

// Two threads of a Zen 5 (November 2026), 512 MiB, GB/s: one stream 27; with lines asked for 2 KiB
// ahead into the second cache 66, 8 KiB ahead 61, 8 KiB into the first 73; four streams 2 KiB ahead
// 44. Adding words of 8 bytes held each thread at 22, whatever the order.
constexpr uint64_t (*kOrders[])(const std::byte* piece) = {
    sum_of_piece<1, 0, kFirstCache>, sum_of_piece<1, 2048, kSecondCache>,
    sum_of_piece<1, 8192, kSecondCache>, sum_of_piece<1, 8192, kFirstCache>,
    sum_of_piece<4, 2048, kSecondCache>};

}  // namespace

double measure_dram_read(ThreadPool& pool, std::span<const std::byte> resident) {
  const HostMemory own = HostMemory::reserve(kOwnPieces * kPiece);
  pool.for_each(kOwnPieces, 1, [&](uint64_t begin, uint64_t end, uint32_t) {
    std::memset(own.data() + begin * kPiece, 1, (end - begin) * kPiece);
  });
  const uint64_t n_resident = std::min(resident.size() / kPiece, kResidentPiecesMax);
  const uint64_t n_pieces = kOwnPieces + n_resident;
  double best_s = 1e30;
  uint64_t wanted = 0;
  for (int pass = 0; pass < kPasses; ++pass)
    for (const auto sum_of : kOrders) {
      std::atomic<uint64_t> total = 0;
      const auto start = Clock::now();
      pool.for_each(n_pieces, 4, [&](uint64_t begin, uint64_t end, uint32_t) {
        uint64_t sum = 0;
        for (uint64_t piece = begin; piece < end; ++piece)
          sum += sum_of(piece < n_resident ? resident.data() + piece * kPiece
                                           : own.data() + (piece - n_resident) * kPiece);
        total.fetch_add(sum, std::memory_order_relaxed);
      });
      best_s = std::min(best_s, seconds_since(start));
      if (wanted == 0) wanted = total.load();
      STRATA_CHECK(total.load() == wanted, "pass %d read another sum", pass);
    }
  return static_cast<double>(n_pieces * kPiece) / best_s / 1e9;
}

}  // namespace strata::cli

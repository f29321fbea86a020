// Every instruction set's XXH3 against the library's code without vectors and against the vectors
// that xxHash publishes.
#include "tiers/hash_kernels.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/cpu_attn/weak_symbols.h"
#include "tests/sanitizer.h"
#include "tests/tiers/xxh3_reference.h"
#include "tests/tree_paths.h"

namespace strata::tiers {
namespace {

/// The bytes over which xxHash states its vectors: the top byte of a product that goes on.
std::vector<std::byte> published_bytes(size_t n) {
  std::vector<std::byte> bytes(n);
  uint64_t state = 2654435761u;
  for (std::byte& byte : bytes) {
    byte = static_cast<std::byte>(state >> 56);
    state *= 11400714785074694797u;
  }
  return bytes;
}

std::vector<std::byte> random_bytes(size_t n, std::mt19937_64& random) {
  std::vector<std::byte> bytes(n);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(HashKernels, TheScalarOneIsAlwaysThereAndHashBytesAgreesWithTheWidest) {
  const auto kernels = available_hash_kernels();
  ASSERT_FALSE(kernels.empty());
  EXPECT_STREQ(kernels.front().name, "scalar");
  const auto bytes = published_bytes(1000);
  EXPECT_EQ(hash_bytes(bytes), kernels.back().hash(bytes.data(), bytes.size()));
}

TEST(HashKernels, PublishedVectorsHold) {
  struct Vector {
    size_t n_bytes;
    Hash128 hash;
  };
  // Of each way that XXH3 takes by length; seed 0.
  constexpr Vector kVectors[] = {{0, {0x6001c324468d497f, 0x99aa06d3014798d8}},
                                 {1, {0xc44bdff4074eecdb, 0xa6cd5e9392000f6a}},
                                 {6, {0x3e7039bdda43cfc6, 0x082afe0b8162d12a}},
                                 {12, {0x061a192713f69ad9, 0x6e3efd8fc7802b18}},
                                 {24, {0x1e7044d28b1b901d, 0x0ce966e4678d3761}},
                                 {48, {0xf942219aed80f67b, 0xa002ac4e5478227e}},
                                 {81, {0x5e8bafb9f95fb803, 0x4952f58181ab0042}},
                                 {222, {0xf1aebd597cec6b3a, 0x337e09641b948717}},
                                 {403, {0xcdeb804d65c6dea4, 0x1b6de21e332dd73d}},
                                 {512, {0x617e49599013cb6b, 0x18d2d110dcc9bca1}},
                                 {2048, {0xdd59e2c3a5f038e0, 0xf736557fd47073a5}},
                                 {2240, {0x6e73a90539cf2948, 0xccb134fbfa7ce49d}},
                                 {2367, {0xcb37aeb9e5d361ed, 0xe89c0f6ff369b427}}};
  const auto bytes = published_bytes(2367);
  for (const Vector& vector : kVectors) {
    SCOPED_TRACE(vector.n_bytes);
    EXPECT_EQ(reference_hash({bytes.data(), vector.n_bytes}), vector.hash);
    for (const HashKernel& kernel : available_hash_kernels())
      EXPECT_EQ(kernel.hash(bytes.data(), vector.n_bytes), vector.hash) << kernel.name;
  }
}

/// `bytes`, `offset` bytes into memory of their own that ends with them, so that the address
/// sanitizer sees a byte read behind them.
void expect_one_value(std::span<const std::byte> bytes, size_t offset) {
  std::vector<std::byte> moved(offset + bytes.size());
  std::copy(bytes.begin(), bytes.end(), moved.begin() + static_cast<std::ptrdiff_t>(offset));
  const std::byte* data = moved.data() + offset;
  const Hash128 wanted = reference_hash({data, bytes.size()});
  for (const HashKernel& kernel : available_hash_kernels()) {
    ASSERT_EQ(kernel.hash(data, bytes.size()), wanted)
        << kernel.name << ", " << bytes.size() << " bytes at " << static_cast<const void*>(data);
  }
}

TEST(HashKernels, AllGiveTheReferencesValueAtEveryLengthAndAlignment) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const auto bytes = random_bytes(4096, random);
  // All 64 alignments up to 512 bytes, which meet each of XXH3's ways by length; then six of them.
  for (size_t n = 0; n <= bytes.size(); ++n) {
    for (size_t offset = 0; offset < 64; offset += n <= 512 ? 1 : 13)
      ASSERT_NO_FATAL_FAILURE(expect_one_value({bytes.data(), n}, (offset + n) % 64));
  }
}

TEST(HashKernels, AllGiveTheReferencesValueOverWholeBlocks) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const auto bytes = random_bytes((size_t{128} << 10) + 1, random);
  for (const size_t kibibytes : {4u, 8u, 12u, 16u, 64u, 128u}) {
    for (const size_t n : {kibibytes * 1024 - 1, kibibytes * 1024, kibibytes * 1024 + 1})
      ASSERT_NO_FATAL_FAILURE(expect_one_value({bytes.data(), n}, random() % 64));
  }
}

TEST(HashKernels, ObjectsWithTheirOwnFlagsDefineNoWeakSymbol) {
  if (sanitizer::kAny)
    GTEST_SKIP() << "a sanitizer adds weak data symbols of its own; the release suite judges";
  EXPECT_EQ(weak_symbols_in(build_path("tiers"), "hash_"), "");
}

}  // namespace
}  // namespace strata::tiers

// tests/fuzz/sealed_input.h - mutating inputs that end in a hash of themselves: most are sealed
// again, so that what lies behind the hash is reached. Header only, because each fuzz target is one
// file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace strata::fuzz {

/// For LLVMFuzzerCustomMutator: `seal(data, size)` puts the right hash where the input has one.
/// Most changes keep the length, so that fields keep their places and the trailer its own.
template <typename Seal>
size_t mutate_sealed(uint8_t* data, size_t size, size_t max_size, unsigned int seed,
                     size_t trailer_bytes, const Seal& seal) {
  std::minstd_rand random(seed);
  random.discard(2);
  const bool keeps_length = random() % 4 != 0;
  if (keeps_length && size > trailer_bytes) {
    const size_t at = random() % size;
    LLVMFuzzerMutate(data + at, std::min<size_t>(size - at, 1 + random() % 8),
                     std::min<size_t>(size - at, 8));
  } else {
    size = LLVMFuzzerMutate(data, size, max_size);
  }
  if (random() % 8 != 0) seal(data, size);
  return size;
}

}  // namespace strata::fuzz

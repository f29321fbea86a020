// tools/makers/random_values.h - random tensors in any file type, the same bytes on every machine.
// Why: a random model needs no encoder. Quantised rows are random codes under scales that give the
// elements the mean and deviation asked for; every such block is one that the format allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/tensor_type.h"

namespace strata::makers {

/// SplitMix64 (Steele, Lea and Flood 2014): standard distributions differ between libraries.
class RandomStream {
 public:
  explicit RandomStream(uint64_t seed) : state_(seed) {}
  uint64_t next();
  /// Mean 0, deviation 1: four uniform numbers of 16 bits each, so |value| < 3.47.
  double bell();

 private:
  uint64_t state_;
};

/// The seed of row `row` of a tensor: rows can be made in any order.
uint64_t row_seed(uint64_t seed, std::string_view tensor_name, uint64_t row);

/// Fills `out` (whole blocks of `type`) with elements of about this mean and deviation. Quantised
/// types have mean 0.
void fill_random(TensorType type, double mean, double deviation, uint64_t seed,
                 std::span<std::byte> out);

}  // namespace strata::makers

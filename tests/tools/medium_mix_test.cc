// Which matrices of a random model in Q4_K_M have more bits.
#include <gtest/gtest.h>

#include <vector>

#include "tools/makers/medium_mix.h"

namespace strata::makers {
namespace {

TEST(MediumMix, GivesMoreBitsToTheFirstAndLastEighthAndEveryThirdLayerBetween) {
  std::vector<uint32_t> layers;
  for (uint32_t layer = 0; layer < 32; ++layer)
    if (has_more_bits(layer, 32)) layers.push_back(layer);
  EXPECT_EQ(layers,
            (std::vector<uint32_t>{0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}));
  for (uint32_t matrix = 0; matrix < kLayerMatrices; ++matrix) {
    EXPECT_EQ(is_in_medium_mix(matrix, 0, 32), matrix == kValueMatrix || matrix == kDownMatrix);
    EXPECT_FALSE(is_in_medium_mix(matrix, 4, 32));
  }
}

}  // namespace
}  // namespace strata::makers

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/gguf/dequantise.h"
#include "engine/gguf/gguf_writer.h"
#include "tools/makers/random_values.h"

namespace strata::engine {
namespace {

constexpr uint64_t kValuesSeed = 7;

TEST(GgufWriter, GeneratedTensorHasTheBytesOfOneThatWasHeld) {
  // Rows of 3000 bytes, so that a piece of 1 MiB ends inside the tensor.
  constexpr uint64_t kRowFloats = 750, kRows = 1000;
  std::vector<float> values(kRowFloats * kRows);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const float last[] = {1, 2, 3};
  GgufWriter held, generated;
  held.add_tensor("a", TensorType::kF32, {kRowFloats, kRows}, std::as_bytes(std::span(values)));
  generated.add_generated_tensor(
      "a", TensorType::kF32, {kRowFloats, kRows}, [&](uint64_t row, std::span<std::byte> out) {
        std::memcpy(out.data(), values.data() + row * kRowFloats, out.size());
      });
  for (GgufWriter* writer : {&held, &generated})
    writer->add_tensor("b", TensorType::kF32, {3}, std::as_bytes(std::span(last)));
  EXPECT_EQ(held.serialise(), generated.serialise());
}

TEST(RandomValues, HaveTheMeanAndDeviationAskedForInEveryType) {
  constexpr double kDeviation = 0.25;
  constexpr uint64_t kElements = 256 * 256;
  for (const TensorTypeInfo& info : tensor_types()) {
    std::vector<std::byte> bytes(tensor_row_bytes(info.type, kElements));
    makers::fill_random(info.type, 0, kDeviation, kValuesSeed, bytes);
    std::vector<float> values(kElements);
    dequantise(info.type, bytes, values);
    double mean = 0, square = 0;
    for (const float value : values) {
      ASSERT_TRUE(std::isfinite(value)) << info.name;
      mean += static_cast<double>(value) / kElements;
      square += static_cast<double>(value) * static_cast<double>(value) / kElements;
    }
    // A block's codes share scales: as if there were a hundredth as many independent elements, five
    // deviations of the mean; and Q4_0, Q3_K and the like have half a code, a tenth of a deviation.
    EXPECT_NEAR(mean, 0, 5 * kDeviation / std::sqrt(kElements / 100) + 0.11 * kDeviation)
        << info.name << " seed " << kValuesSeed;
    EXPECT_NEAR(std::sqrt(square), kDeviation, 0.03 * kDeviation)
        << info.name << " seed " << kValuesSeed;
  }
}

TEST(RandomValues, OfARowDependOnItsTensorAndNumberOnly) {
  EXPECT_EQ(makers::row_seed(1, "a", 2), makers::row_seed(1, "a", 2));
  EXPECT_NE(makers::row_seed(1, "a", 2), makers::row_seed(1, "a", 3));
  EXPECT_NE(makers::row_seed(1, "a", 2), makers::row_seed(1, "b", 2));
  EXPECT_NE(makers::row_seed(1, "a", 2), makers::row_seed(2, "a", 2));
}

}  // namespace
}  // namespace strata::engine

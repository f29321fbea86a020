#include "engine/dram_budget.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"

namespace strata::engine {
namespace {

ModelShape drawn_shape(std::mt19937_64& random) {
  ModelShape shape;
  shape.architecture = "llama";
  shape.n_layers = 2 + static_cast<uint32_t>(random() % 30);
  shape.head_dim = 32u << random() % 3;
  const auto n_kv_heads = 1 + static_cast<uint32_t>(random() % 8);
  const auto n_heads = n_kv_heads * (1 + static_cast<uint32_t>(random() % 4));
  shape.d_model = n_heads * shape.head_dim;
  shape.vocab_size = 1000 + static_cast<uint32_t>(random() % 100'000);
  shape.n_ctx_train = 1024u << random() % 8;
  for (uint32_t i = 0; i < shape.n_layers; ++i) {
    LayerShape layer;
    layer.n_heads = n_heads;
    layer.n_kv_heads = n_kv_heads;
    layer.d_ff = 3 * shape.d_model;
    if (random() % 4 == 0) {
      layer.kind = LayerKind::kWindow;
      layer.window = 512;
    }
    shape.layers.push_back(layer);
  }
  return shape;
}

WeightSizes drawn_sizes(const ModelShape& shape, std::mt19937_64& random) {
  WeightSizes sizes;
  sizes.always_bytes = uint64_t{shape.vocab_size} * shape.d_model;
  for (uint32_t i = 0; i < shape.n_layers; ++i) {
    const uint64_t bytes = uint64_t{shape.d_model} * shape.d_model * (4 + random() % 12);
    sizes.layers.push_back({.packed_bytes = bytes, .n_reads = 7, .read_bytes_max = bytes / 7});
  }
  return sizes;
}

TEST(DramBudget, APlanNeverExceedsIt) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  uint32_t n_planned = 0, n_spilling = 0, n_streaming = 0;
  for (uint32_t i = 0; i < 1000; ++i) {
    const ModelShape shape = drawn_shape(random);
    const WeightSizes sizes = drawn_sizes(shape, random);
    ContextRequest request;
    request.n_ctx = random() % 2 == 0 ? 0 : 512u << random() % 8;
    request.allow_untrained = true;
    request.chunk_rows = 64u << random() % 4;
    request.has_packs = random() % 2 == 0;
    request.n_threads = 1 + static_cast<uint32_t>(random() % 16);
    request.nvme_bytes = random() % 3 == 0 ? 0 : uint64_t{1} << 40;
    request.is_budgeted = true;
    request.available_bytes = (uint64_t{32} << 20) + random() % (uint64_t{4} << 30);
    try {
      const WeightPlan weights = plan_weights(sizes, weights_share(sizes, shape, request));
      request.weight_bytes = weights.total_bytes();
      request.weight_bytes_min = smallest_weight_budget(sizes);
      const ContextPlan plan = plan_context(shape, request);
      const uint64_t buffers = walk_buffer_bytes(shape, plan.chunk_rows, request.n_threads);
      ASSERT_LE(weights.total_bytes() + plan.kv.dram_bytes() + buffers, request.available_bytes);
      // Frames and packs are in it wherever saved contexts can be read.
      ASSERT_EQ(plan.kv.pack_bytes > 0, request.has_packs && can_spill(shape));
      ASSERT_EQ(plan.kv.n_frames > 0,
                plan.kv.is_spilling() || (request.has_packs && can_spill(shape)));
      ++n_planned;
      n_spilling += plan.kv.is_spilling();
      n_streaming += weights.n_streamed() > 0;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kDoesNotFit) << error.what();
    }
  }
  EXPECT_GT(n_planned, 300u);
  EXPECT_GT(n_spilling, 30u);
  EXPECT_GT(n_streaming, 10u);  // some 50 as a rule
}

TEST(DramBudget, WeightsStayWhereKAndVCanSpill) {
  std::mt19937_64 random(1);
  ModelShape shape = drawn_shape(random);
  for (LayerShape& layer : shape.layers) layer.window = 0;
  const WeightSizes sizes = drawn_sizes(shape, random);
  ContextRequest request{.n_ctx = 65536, .nvme_bytes = uint64_t{1} << 40, .is_budgeted = true};
  request.available_bytes =
      plan_weights(sizes, 0).total_bytes() + walk_buffer_bytes(shape, request.chunk_rows, 1) +
      smallest_spilling_dram(shape, {request.k_codec, request.v_codec, 65536, request.chunk_rows});
  EXPECT_EQ(weights_share(sizes, shape, request), 0u);
  request.available_bytes -= 1;
  EXPECT_GT(weights_share(sizes, shape, request), 0u);
}

/// Whatever does not fit is told the least that does, and a little less does not.
TEST(DramBudget, ARefusalKnowsTheSmallestThatWouldDo) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr uint64_t kPlenty = uint64_t{1} << 40;
  uint32_t n_refused = 0, n_hopeless = 0;
  for (uint32_t i = 0; i < 300; ++i) {
    const ModelShape shape = drawn_shape(random);
    const WeightSizes sizes = drawn_sizes(shape, random);
    ContextRequest request{.n_ctx = 512u << random() % 8, .allow_untrained = true};
    request.chunk_rows = 64u << random() % 4;
    request.has_packs = random() % 2 == 0;
    request.nvme_bytes = random() % 2 == 0 ? 0 : uint64_t{1} << 40;
    request.is_budgeted = true;
    request.available_bytes = random() % (uint64_t{1} << 30);
    const auto is_divided = [&](uint64_t available_bytes) {
      ContextRequest other = request;
      other.available_bytes = available_bytes;
      try {
        const DividedDram divided = divide_dram(sizes, shape, other, 0);
        return divided.weights.total_bytes() + divided.context.kv.dram_bytes() <= available_bytes;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit) << error.what();
        return false;
      }
    };
    if (is_divided(request.available_bytes)) continue;
    const uint64_t smallest = smallest_dram(sizes, shape, request, 0, kPlenty) - kProcessBytes;
    ASSERT_TRUE(is_divided(smallest));
    ASSERT_FALSE(is_divided(smallest - (uint64_t{16} << 10)));
    EXPECT_EQ(smallest_dram(sizes, shape, request, 0, smallest - (uint64_t{16} << 10)), 0u);
    ++n_refused;
    n_hopeless += smallest_dram(sizes, shape, request, 0, request.available_bytes) == 0;
  }
  EXPECT_GT(n_refused, 30u);
  EXPECT_EQ(n_hopeless, n_refused);
  EXPECT_EQ(remedy_with_dram("use -c 32", uint64_t{64} << 20), "use --dram 64MiB, or -c 32");
}

}  // namespace
}  // namespace strata::engine

// What a server counts of an engine whose device is the emulated one.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/device_walk.h"
#include "tests/device/device_fixture.h"
#include "tools/serve/service_counts.h"

namespace strata::engine {
namespace {

using serve::ServiceCounts;
using serve::TierBytes;

class DeviceCounts : public testing::DeviceTest {
 protected:
  static ServiceCounts counts_of(Engine& engine) {
    ServiceCounts counts;
    serve::count_engine(engine, counts);
    return counts;
  }
};

TEST_F(DeviceCounts, SayWhatTheDeviceHoldsAndWhatCrossedTheLink) {
  Engine engine = Engine::open(options());
  answer(engine);
  const ServiceCounts counts = counts_of(engine);
  ASSERT_EQ(counts.tiers.size(), 2u);
  const TierBytes &hbm = counts.tiers[0], &dram = counts.tiers[1];
  EXPECT_EQ(hbm.name, "hbm");
  const DevicePlan& plan = engine.walk().device()->plan();
  EXPECT_EQ(plan.n_streamed(), 0u);
  EXPECT_GT(hbm.weights_bytes, engine.model().weight_bytes() / 2);
  EXPECT_LE(hbm.weights_bytes + hbm.kv_bytes, hbm.budget_bytes);
  // Every closed block goes home once, and weights that stay do not move again.
  EXPECT_EQ(hbm.read_bytes, engine.walk().device()->kv_counts().written_bytes);
  EXPECT_GT(hbm.read_bytes, 0u);
  EXPECT_EQ(dram.written_bytes, hbm.read_bytes);
  EXPECT_EQ(dram.read_bytes, hbm.written_bytes);
}

TEST_F(DeviceCounts, SayHowMuchOfWhatStepsAttendIsThere) {
  const auto rate = [&](uint64_t kv_bytes) {
    EngineOptions some = options();
    const DevicePlan whole = Engine::open(some).device_plan();
    some.hbm_bytes = whole.hbm_bytes - whole.kv_bytes + std::min(kv_bytes, whole.kv_bytes);
    Engine engine = Engine::open(some);
    answer(engine);
    EXPECT_EQ(engine.device_plan().n_streamed(), 0u);
    EXPECT_GT(engine.walk().device()->kv_counts().attended_bytes, 0u);
    return counts_of(engine).hbm_hit_rate.value_or(-1);
  };
  EXPECT_EQ(rate(UINT64_MAX), 1);
  EXPECT_EQ(rate(0), 0);
  const uint64_t kv_bytes = Engine::open(options()).device_plan().kv_bytes;
  EXPECT_GT(rate(kv_bytes / 8), 0.1);
  EXPECT_LT(rate(kv_bytes / 8), 0.9);
  Engine lone = Engine::open(options(DeviceChoice::Kind::kNone));
  answer(lone);
  EXPECT_FALSE(counts_of(lone).hbm_hit_rate.has_value());
}

/// Rows of an index and where they lie go there, and what it says of blocks comes back.
TEST_F(DeviceCounts, SayWhatASearchMovesAcrossTheLink) {
  EngineOptions choosing = options();
  choosing.method = index::Method::kRabitq;
  choosing.selection.budget = {index::Budget::Kind::kTokens, 32};
  Engine engine = Engine::open(choosing);
  answer(engine);
  const ServiceCounts counts = counts_of(engine);
  const DeviceWalk& device = *engine.walk().device();
  const DeviceIndexCounts index = device.index_counts();
  EXPECT_GT(index.row_bytes, 0u);
  EXPECT_GT(index.table_bytes, 0u);
  EXPECT_GT(index.weight_bytes, 0u);
  EXPECT_EQ(counts.tiers[0].written_bytes,
            device.kv_counts().fetched_bytes + index.row_bytes + index.table_bytes);
  EXPECT_EQ(counts.tiers[0].read_bytes, device.kv_counts().written_bytes + index.weight_bytes);
  EXPECT_EQ(counts.tiers[1].written_bytes, counts.tiers[0].read_bytes);
}

/// What the CPU multiplies by is read of DRAM, and crosses nothing.
TEST_F(DeviceCounts, SayWhatTheCpuReadsBesideTheDevice) {
  EngineOptions small = options();
  const DevicePlan whole = Engine::open(small).device_plan();
  small.hbm_bytes = whole.hbm_bytes - whole.kv_bytes - 1;
  small.cpu_share = 1;
  Engine engine = Engine::open(small);
  answer(engine);
  const ServiceCounts counts = counts_of(engine);
  EXPECT_GT(engine.walk().device()->cpu_weight_bytes(), 0u);
  EXPECT_EQ(counts.tiers[1].read_bytes,
            counts.tiers[0].written_bytes + engine.walk().device()->cpu_weight_bytes());
}

TEST_F(DeviceCounts, SayThatLayersPassThroughASmallOne) {
  EngineOptions small = options();
  const DevicePlan whole = Engine::open(small).device_plan();
  small.hbm_bytes = whole.hbm_bytes - whole.kv_bytes - 1;
  Engine engine = Engine::open(small);
  answer(engine);
  const DevicePlan& plan = engine.walk().device()->plan();
  ASSERT_GT(plan.n_streamed(), 0u);
  const ServiceCounts counts = counts_of(engine);
  EXPECT_LT(counts.tiers[0].weights_bytes, whole.weight_bytes);
  EXPECT_GE(counts.tiers[0].written_bytes, engine.walk().device()->streamed_bytes());
  EXPECT_GT(engine.walk().device()->streamed_bytes(), 0u);
}

}  // namespace
}  // namespace strata::engine

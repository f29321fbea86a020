// Layers that are brought to host memory before they are copied: who waits for them, what goes
// before them, and when their memory is given back.
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/host_memory.h"
#include "engine/device.h"
#include "gpu_attn/streamed_weights.h"
#include "tests/gpu_emu/emulated_device.h"

namespace strata::engine {
namespace {

constexpr uint32_t kBroughtLayers = 5;
constexpr uint64_t kBroughtBytes = 512;

/// Has what a test says; tells in one string what is asked of it.
class ScriptedLayers final : public gpu_attn::BroughtLayers {
 public:
  const std::byte* take(uint32_t layer) override {
    EXPECT_FALSE(is_lent_);
    told += (there.contains(layer) ? "take " : "wait for ") + std::to_string(layer) + " ";
    if (fails) throw std::string("no disk");
    is_lent_ = true;
    return memory.data();
  }
  void release() override {
    EXPECT_TRUE(is_lent_);
    is_lent_ = false;
    told += "release ";
  }
  bool is_there(uint32_t layer) const override { return there.contains(layer); }
  bool go_on() override {
    told += "go on ";
    return true;
  }
  std::string tale() { return std::exchange(told, ""); }

  std::set<uint32_t> there;
  bool fails = false;
  HostMemory memory = HostMemory::reserve(kBroughtBytes);

 private:
  std::string told;
  bool is_lent_ = false;
};

int n_queries_until_copied = 0;  // of the copy that was queued last

/// The emulated device, whose copies are done when somebody has asked so often.
const DeviceTable& slow_device() {
  static const DeviceTable table = [] {
    DeviceTable slow = gpu_emu::emulated_device();
    slow.query = [](DeviceEvent*, bool* is_done) {
      *is_done = n_queries_until_copied == 0;
      if (!*is_done) --n_queries_until_copied;
      return 0;
    };
    return slow;
  }();
  return table;
}

/// Layer 3 is in memory, the others are brought.
class DeviceBrought : public ::testing::Test {
 protected:
  DeviceBrought()
      : device_(OpenDevice::open(slow_device(), 0)),
        stream_(Stream::create(device_)),
        slots_(DeviceBuffer::allocate(device_, gpu_attn::kStreamSlots * kBroughtBytes, "slots")) {
    n_queries_until_copied = 0;
    std::vector<gpu_attn::StreamedLayer> streamed;
    for (uint32_t layer = 0; layer < kBroughtLayers; ++layer) {
      gpu_attn::StreamedLayer of{.layer = layer, .offsets = {0, 64, 128, 192, 256, 320, 384}};
      if (layer == 3) {
        of.host = near_.data();
        of.bytes = kBroughtBytes;
      } else {
        of.brought_bytes = kBroughtBytes;
      }
      streamed.push_back(of);
    }
    EXPECT_EQ(
        gpu_attn::StreamedWeights::create(slow_device(), device_.get(),
                                          std::vector<gpu_attn::DeviceLayerWeights>(kBroughtLayers),
                                          streamed, slots_.bytes(), &weights_, &layers_),
        0);
    // Steps by whom layers 1 and 2 are multiplied elsewhere.
    few_ = weights_->add_round({streamed[0], streamed[3], streamed[4]});
  }
  void take(uint32_t layer) { take_in(layer % 2, layer); }
  void take_in(uint32_t slot, uint32_t layer) {
    const gpu_attn::DeviceLayerWeights* of = nullptr;
    EXPECT_EQ(weights_->take(stream_.get(), layer, &of), 0);
    ASSERT_NE(of, nullptr);
    EXPECT_EQ(of->q.bytes, slots_.bytes() + slot * kBroughtBytes);
  }
  void release(uint32_t layer) { EXPECT_EQ(weights_->release(stream_.get(), layer), 0); }
  void begin(uint32_t round) { EXPECT_EQ(weights_->begin(stream_.get(), round), 0); }
  uint64_t n_copies() const { return weights_->queued_bytes() / kBroughtBytes; }

  HostMemory near_ = HostMemory::reserve(kBroughtBytes);
  ScriptedLayers layers_;
  OpenDevice device_;
  Stream stream_;
  DeviceBuffer slots_;
  std::unique_ptr<gpu_attn::StreamedWeights> weights_;
  uint32_t few_ = 0;
};

TEST_F(DeviceBrought, OnlyWhoNeedsALayerWaitsForIt) {
  EXPECT_EQ(n_copies(), 0u);
  take(0);
  EXPECT_EQ(layers_.tale(), "wait for 0 ");
  take(1);  // 0 is copied
  EXPECT_EQ(layers_.tale(), "release wait for 1 ");
  release(0);  // 2 has not come
  EXPECT_EQ(layers_.tale(), "release ");
  EXPECT_EQ(n_copies(), 2u);
  release(1);  // 3 is in memory, and goes before
  EXPECT_EQ(n_copies(), 3u);
  layers_.there = {2};
  EXPECT_EQ(weights_->go_on(), 0);
  EXPECT_EQ(layers_.tale(), "take 2 ");
  EXPECT_EQ(n_copies(), 4u);
  take(2);
  take(3);
  layers_.there = {4, 0};
  release(2);
  EXPECT_EQ(layers_.tale(), "release take 4 ");
  release(3);  // of the next step 1 has not come
  EXPECT_EQ(layers_.tale(), "release ");
  take(4);
  release(4);
  EXPECT_EQ(layers_.tale(), "");  // 0 may have come, but 1 comes first
  EXPECT_EQ(n_copies(), 5u);
}

TEST_F(DeviceBrought, MemoryIsGivenBackOnceItIsCopied) {
  layers_.there = {0, 1, 2};
  take(0);
  EXPECT_EQ(layers_.tale(), "take 0 ");
  n_queries_until_copied = 2;
  take(1);  // is wanted, asked, and waited for
  EXPECT_EQ(layers_.tale(), "go on release take 1 ");
  n_queries_until_copied = 1;
  release(0);  // waits for no copy
  EXPECT_EQ(layers_.tale(), "");
  EXPECT_EQ(weights_->go_on(), 0);
  EXPECT_EQ(layers_.tale(), "release take 2 ");
  n_queries_until_copied = 3;
  EXPECT_EQ(weights_->leave(), 0);
  EXPECT_EQ(layers_.tale(), "go on go on go on release ");
}

/// Not only where the next one is wanted: a disk may want that memory meanwhile.
TEST_F(DeviceBrought, MemoryIsGivenBackWhereNothingElseIsBrought) {
  layers_.there = {0, 1, 2};
  take(0);
  take(1);
  release(0);
  EXPECT_EQ(layers_.tale(), "take 0 release take 1 release take 2 ");
  n_queries_until_copied = 2;
  EXPECT_EQ(weights_->go_on(), 0);
  EXPECT_EQ(layers_.tale(), "");
  release(1);  // the next layer there is in memory
  EXPECT_EQ(layers_.tale(), "");
  EXPECT_EQ(n_copies(), 4u);
  EXPECT_EQ(weights_->go_on(), 0);
  EXPECT_EQ(layers_.tale(), "release ");
  EXPECT_EQ(weights_->go_on(), 0);
  EXPECT_EQ(layers_.tale(), "");
}

/// A chunk is followed by tokens that lack two of its layers, and these by a chunk.
TEST_F(DeviceBrought, StepsOfAnotherRoundBeginWithTheirOwn) {
  layers_.there = {0, 1, 2, 4};
  for (uint32_t layer = 0; layer < kBroughtLayers; ++layer) {
    take(layer);
    release(layer);
  }
  EXPECT_EQ(layers_.tale(),
            "take 0 release take 2 release take 1 release take 4 release take 1 release take 0 ");
  EXPECT_EQ(n_copies(), 7u);  // the next chunk's first two are on their way
  begin(few_);
  EXPECT_EQ(layers_.tale(), "release take 0 release ");  // 3 is in memory
  EXPECT_EQ(n_copies(), 9u);
  take_in(0, 0);
  take_in(1, 3);
  release(0);
  take_in(0, 4);
  release(3);  // the only one of its slot
  release(4);
  EXPECT_EQ(layers_.tale(), "take 4 release take 0 ");
  EXPECT_EQ(n_copies(), 11u);
  begin(0);
  take(0);
  take(1);
  EXPECT_EQ(layers_.tale(), "release take 0 release take 1 ");
}

/// A step that has all its layers does not fail for one of the next step.
TEST_F(DeviceBrought, WhatIsBroughtAheadFailsWhereItIsNeeded) {
  layers_.there = {0, 1};
  take(0);
  layers_.tale();
  layers_.fails = true;
  layers_.there = {0, 1, 2};
  release(0);
  EXPECT_EQ(weights_->go_on(), 0);
  EXPECT_EQ(n_copies(), 1u);
  const gpu_attn::DeviceLayerWeights* of = nullptr;
  EXPECT_THROW((void)weights_->take(stream_.get(), 2, &of), std::string);
  layers_.fails = false;
  take(2);
  EXPECT_EQ(n_copies(), 2u);
}

/// A step that is given up, and left to others.
TEST_F(DeviceBrought, WhatFailsToComeIsAskedForAgain) {
  take(0);
  layers_.fails = true;
  const gpu_attn::DeviceLayerWeights* of = nullptr;
  EXPECT_THROW((void)weights_->take(stream_.get(), 1, &of), std::string);
  layers_.fails = false;
  layers_.tale();
  EXPECT_EQ(weights_->leave(), 0);
  EXPECT_EQ(layers_.tale(), "");  // nothing is lent
  layers_.there = {1};
  EXPECT_EQ(weights_->go_on(), 0);  // and nothing is wanted
  EXPECT_EQ(layers_.tale(), "");
  take(0);  // its slot has it still
  EXPECT_EQ(layers_.tale(), "");
  take(1);
  EXPECT_EQ(layers_.tale(), "take 1 ");
  EXPECT_EQ(n_copies(), 2u);
}

}  // namespace
}  // namespace strata::engine

// tests/device/device_run.h - a model of the zoo whose steps run on a device.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include "base/checked_math.h"
#include "engine/device_walk.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/gpu_emu/emulated_device.h"

namespace strata::engine::testing {

/// KV heads of all layers that attend the whole text.
inline uint64_t n_full_streams(const ModelShape& shape) {
  uint64_t n = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) n += layer.n_kv_heads;
  return n;
}

/// A model whose steps run on a device, the emulated one unless another's table is given.
class DeviceRun {
 public:
  template <class Loaded>
  DeviceRun(const Loaded& member, const WalkSetting& setting, uint64_t hbm_bytes = 0,
            const DeviceTable& table = gpu_emu::emulated_device(), double cpu_share = 0,
            const std::function<void(const DeviceNeeds&, DevicePlan&)>& change = {},
            std::unique_ptr<tiers::Spill> spill = nullptr)
      : device_(OpenDevice::open(table, 0)), walk_(member.model, setting, std::move(spill)) {
    const KvLayout& layout = walk_.cache().layout();
    auto described = describe_for_device(member.file, member.model.spec(), layout);
    EXPECT_EQ(why_not_on_device(described), "");
    needs_ = device_needs(described, member.file, member.model.shape(), device_.facts(),
                          setting.n_ctx, walk_.cache().pool().memory().size(), setting.chunk_rows);
    add_index_needs(member.model.shape(), layout, setting.n_ctx, setting.chunk_rows, 1,
                    setting.method, setting.rule, needs_);
    plan_ = plan_device(needs_, hbm_bytes == 0 ? uint64_t{1} << 30 : hbm_bytes);
    plan_.cpu_share = cpu_share;
    if (change) change(needs_, plan_);
    walk_.walk().use_device(std::make_unique<DeviceWalk>(
        device_, member.model, std::move(described), walk_.cache(), plan_, setting.chunk_rows,
        setting.n_ctx, walk_.walk().pool()));
  }
  ZooWalk& walk() { return walk_; }
  const DevicePlan& plan() const { return plan_; }
  const DeviceNeeds& needs() const { return needs_; }
  const DeviceWalk& device() { return *walk_.walk().device(); }
  Device* opened() const { return device_.get(); }

 private:
  OpenDevice device_;
  ZooWalk walk_;
  DeviceNeeds needs_;
  DevicePlan plan_;
};

/// Of the zoo, with widths that the tensor cores take: 32 inputs at a time. Of so many layers.
inline makers::RandomTransformer wide_llama(uint32_t n_layers) {
  makers::RandomTransformer model = makers::zoo_member("llama3").model;
  model.n_layers = n_layers;
  model.d_model = 64;
  model.d_ff = 96;
  return model;
}

/// The budget that streams every layer and leaves K and V no memory.
inline uint64_t least_hbm(const DeviceNeeds& needs) {
  const uint64_t largest = std::ranges::max(needs.layer_bytes);
  return needs.buffer_bytes + needs.head_bytes + 2 * round_up(largest, uint64_t{256});
}

}  // namespace strata::engine::testing

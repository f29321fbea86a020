// engine/device_products.h - few rows are multiplied by the CPU where weights lie that the device
// does not hold. Why: the link moves fewer bytes per second than the CPU reads
// (docs/adr/0025-products-on-both-sides.md).
//
// Whose products are the CPU's is the plan's word (DevicePlan::on_cpu), for every step of few rows;
// norms, RoPE, attention and sums stay the device's. Each product is a wait of the host for rows of
// a few KiB. Meanwhile copies of the next layers that pass are on their way; a copy of the products
// would wait behind them, so the operation that reads products reads them where the host made them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/layer_piece.h"
#include "base/model_shape.h"
#include "engine/device.h"
#include "gpu_attn/decode_step.h"

namespace strata::engine {

/// Whoever multiplies on the host.
class RowMultiplier {
 public:
  virtual ~RowMultiplier() = default;
  /// `x` [n_rows, n_in] by what the layer has of the product; to `out` [n_rows, n_out]: q, k and v,
  /// or one.
  virtual void multiply(gpu_attn::HostProduct product, uint32_t layer, uint32_t n_rows,
                        const float* x, const std::array<float*, 3>& out) = 0;
};

class DeviceProducts : public gpu_attn::HostProducts {
 public:
  /// `host` is host_bytes() of `pinned`; both, the shape, `on_cpu` [n_layers] and `stream`, on
  /// which steps are queued, are borrowed. Errors: kDeviceLost.
  DeviceProducts(const OpenDevice& device, const ModelShape& shape,
                 const std::vector<PieceSet>& on_cpu, Stream& stream, const PinnedMemory& pinned,
                 std::byte* host);
  static uint64_t host_bytes(const ModelShape& shape);

  /// `multiplier` is asked from now on; null: nobody is any more.
  void use(RowMultiplier* multiplier) { multiplier_ = multiplier; }

  PieceSet pieces(uint32_t layer) const override { return on_cpu_[layer]; }
  int multiply(DeviceStream* stream, gpu_attn::HostProduct product, uint32_t layer, uint32_t n_rows,
               const float* x, std::span<const float*> products) override;

 private:
  const ModelShape& shape_;
  const std::vector<PieceSet>& on_cpu_;
  Stream& stream_;
  Event asked_;  // the rows are on the host
  const PinnedMemory& pinned_;
  float* x_;         // [kDeviceFewRows, the widest n_in]
  float* products_;  // [kDeviceFewRows, the widest n_out], of q, k and v one behind the other
  RowMultiplier* multiplier_ = nullptr;
};

}  // namespace strata::engine

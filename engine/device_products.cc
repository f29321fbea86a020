#include "engine/device_products.h"

#include <algorithm>

#include "base/check.h"
#include "base/device_kernels.h"

namespace strata::engine {
namespace {

using gpu_attn::HostProduct;

struct Widths {
  uint64_t x = 0;
  std::array<uint64_t, 3> out = {};  // 0: none

  uint64_t all_out() const { return out[0] + out[1] + out[2]; }
};

Widths widths_of(const ModelShape& shape, uint32_t layer, HostProduct product) {
  const LayerShape& of = shape.layers[layer];
  const uint64_t q = uint64_t{of.n_heads} * shape.head_dim;
  const uint64_t kv = uint64_t{of.n_kv_heads} * shape.head_dim;
  if (product == HostProduct::kQkv) return {shape.d_model, {q, kv, kv}};
  return {product == HostProduct::kAttnOutput ? q : shape.d_model, {shape.d_model, 0, 0}};
}

/// Of all layers' products.
struct Widest {
  uint64_t x = 0, out = 0;
};
Widest widest(const ModelShape& shape) {
  Widest most;
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer)
    for (const HostProduct product :
         {HostProduct::kQkv, HostProduct::kAttnOutput, HostProduct::kFfn}) {
      const Widths of = widths_of(shape, layer, product);
      most = {std::max(most.x, of.x), std::max(most.out, of.all_out())};
    }
  return most;
}

}  // namespace

uint64_t DeviceProducts::host_bytes(const ModelShape& shape) {
  const Widest most = widest(shape);
  return kDeviceFewRows * (most.x + most.out) * sizeof(float);
}

DeviceProducts::DeviceProducts(const OpenDevice& device, const ModelShape& shape,
                               const std::vector<PieceSet>& on_cpu, Stream& stream,
                               const PinnedMemory& pinned, std::byte* host)
    : shape_(shape),
      on_cpu_(on_cpu),
      stream_(stream),
      asked_(Event::create(device)),
      pinned_(pinned),
      x_(reinterpret_cast<float*>(host)),
      products_(x_ + kDeviceFewRows * widest(shape).x) {
  STRATA_CHECK(on_cpu.size() == shape.n_layers, "%zu layers", on_cpu.size());
}

int DeviceProducts::multiply(DeviceStream* stream, HostProduct product, uint32_t layer,
                             uint32_t n_rows, const float* x, std::span<const float*> products) {
  STRATA_CHECK(stream == stream_.get() && n_rows <= kDeviceFewRows && multiplier_ != nullptr,
               "nobody multiplies %u rows of layer %u", n_rows, layer);
  const Widths widths = widths_of(shape_, layer, product);
  // What reads the products before has ended when this copy is over.
  stream_.copy(x_, x, n_rows * widths.x * sizeof(float));
  stream_.record(asked_);
  asked_.wait();
  std::array<float*, 3> made = {};
  float* next = products_;
  for (size_t i = 0; i < products.size(); ++i) {
    made[i] = next;
    products[i] = pinned_.on_device(next);
    next += n_rows * widths.out[i];
  }
  multiplier_->multiply(product, layer, n_rows, x_, made);
  return 0;
}

}  // namespace strata::engine

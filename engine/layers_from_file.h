// engine/layers_from_file.h - layers that a device's steps get from the model file: a slot of
// engine/weight_stream.h is the host memory that they are copied from. Why one at a time: while one
// is copied the other slot's layer is packed, and the disk reads a third.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/model.h"
#include "gpu_attn/streamed_weights.h"

namespace strata::engine {

/// Who reads weights for a step: the walk, with its threads.
class LayerTaker {
 public:
  virtual ~LayerTaker() = default;
  virtual LayerLease take_layer(uint32_t layer) = 0;            // Model::take_layer
  virtual bool read_ahead(std::chrono::microseconds most) = 0;  // Model::read_ahead
};

class LayersFromFile final : public gpu_attn::BroughtLayers {
 public:
  /// Steps want `pieces` of each layer, which are streamed, and no others; `host` is borrowed.
  LayersFromFile(const Model& host, std::vector<PieceSet> pieces);

  /// Whose steps these are from now on; null: nobody's, and nothing more comes.
  void use(LayerTaker* taker);

  const std::byte* take(uint32_t layer) override;
  void release() override { lease_.release(); }
  bool is_there(uint32_t layer) const override;
  bool go_on() override;

 private:
  const Model& host_;
  std::vector<PieceSet> pieces_;
  uint32_t round_;
  LayerTaker* taker_ = nullptr;
  LayerLease lease_;
};

}  // namespace strata::engine

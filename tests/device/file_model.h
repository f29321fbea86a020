// tests/device/file_model.h - a model of which DRAM does not hold all weights, and where a device
// has them.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "tests/device/device_run.h"
#include "tests/engine/scripted_io.h"

namespace strata::engine::testing {

/// Written, opened and loaded: these pieces of each layer come from the file.
struct FileModel {
  FileModel(const makers::RandomTransformer& of, const std::vector<PieceSet>& streamed,
            const MakeIo& make_io = {}, std::chrono::milliseconds deadline = kReadDeadline)
      : vocab_size(of.vocab_size),
        written(of),
        file(written.open()),
        model(load(file, streamed, make_io, deadline)) {}
  std::vector<int32_t> text(uint32_t n, uint32_t seed) const {
    return random_tokens(n, vocab_size, seed);
  }
  static Model load(const GgufFile& file, const std::vector<PieceSet>& streamed,
                    const MakeIo& make_io, std::chrono::milliseconds deadline) {
    WeightOptions options;
    options.plan = weight_plan_of(weight_sizes(file, read_model_spec(file)), streamed);
    options.make_io = make_io;
    options.deadline = deadline;
    options.load = LoadMode::kDirect;
    ThreadPool pool(1);
    return Model::load(file, read_model_spec(file), pool, {}, options);
  }
  uint32_t vocab_size;
  ModelFile written;
  GgufFile file;
  Model model;
};

/// Where each piece of a model's layers is: on the device or not, and in DRAM or not.
struct DrawnHomes {
  std::vector<PieceSet> streamed, resident;

  DrawnHomes(uint32_t n_layers, uint32_t seed) {
    std::mt19937 random(seed);
    for (uint32_t layer = 0; layer < n_layers; ++layer) {
      streamed.push_back({random() % 3 != 0, random() % 3 != 0});
      resident.push_back({random() % 3 == 0, random() % 3 == 0});
    }
    streamed[random() % n_layers] = kWholeLayer;
  }
  /// Pieces of either kind that are on the device or not.
  uint64_t n_streamed(bool is_resident) const {
    uint64_t n = 0;
    for (size_t layer = 0; layer < streamed.size(); ++layer)
      for (const LayerPiece piece : kEachPiece)
        n += streamed[layer].has(piece) && resident[layer].has(piece) == is_resident ? 1u : 0u;
    return n;
  }
};

/// With room for all K and V, and these pieces on the device.
inline std::function<void(const DeviceNeeds&, DevicePlan&)> holding(std::vector<PieceSet> pieces) {
  return [pieces](const DeviceNeeds& needs, DevicePlan& plan) {
    const uint64_t kv_bytes = plan.kv_bytes;
    plan = device_plan_of(needs, pieces);
    plan.kv_bytes = kv_bytes;
  };
}

}  // namespace strata::engine::testing

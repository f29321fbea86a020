// tests/device/device_fixture.h - a small model on disk, and engines of it beside the emulated
// device.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/generator.h"
#include "gpu_attn/open_module.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/gpu_emu/emulated_device.h"

namespace strata::engine::testing {

class DeviceTest : public ::testing::Test {
 protected:
  DeviceTest() {
    makers::write_random_transformer(makers::zoo_member("llama-quantised").model, path_);
  }
  EngineOptions options(DeviceChoice::Kind kind = DeviceChoice::Kind::kAuto) const {
    EngineOptions options;
    options.model_path = path_;
    options.n_ctx = 256;
    options.n_threads = 1;
    options.chunk_rows = 32;
    options.device.kind = kind;
    options.devices = &devices_;
    return options;
  }
  /// Loads the engine: its likeliest 12 tokens behind a prompt of 70.
  static std::vector<TokenId> answer(Engine& engine) {
    engine.load({});
    Sequence sequence = engine.cache().make_sequence();
    const auto prompt = random_tokens(70, engine.spec().shape.vocab_size, 7);
    GenerationRequest request;
    request.prompt = prompt;
    request.vocab_size = engine.spec().shape.vocab_size;
    request.n_ctx = 256;
    request.n_predict = 12;
    request.chunk_rows = engine.context().chunk_rows;
    request.sampler.temperature = 0;
    request.ignore_eos = true;
    if (engine.options().method) request.attention = Attention::kSelected;
    return generate(engine.walk(), sequence, engine.tokenizer(), request).tokens;
  }

  TestFolder folder_;
  std::string path_ = folder_.path("model.gguf");
  gpu_attn::CudaDevices devices_ = gpu_attn::count_devices(gpu_emu::emulated_device());
};

}  // namespace strata::engine::testing

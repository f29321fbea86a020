#include "engine/layer_blocks.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

#include "engine/context_size.h"
#include "engine/kv_placement.h"
#include "tests/engine/letter_requests.h"

namespace strata::engine {
namespace {

using testing::drawn_model;
using testing::drawn_tokens;
using testing::SmallModel;
using testing::TemporaryModel;
using testing::TestFolder;
using testing::Tokens;

constexpr uint32_t kLongContext = 32768;

TemporaryModel long_model() {
  SmallModel model = drawn_model();
  model.set("llama.context_length", kLongContext);
  return TemporaryModel(model);
}

/// K and V in memory, or with a folder as few of them as can be.
Engine opened(const TemporaryModel& model, const std::string& folder) {
  EngineOptions options;
  options.model_path = model.path();
  options.n_ctx = folder.empty() ? 2048 : kLongContext;
  options.chunk_rows = 16;
  options.n_threads = 1;
  options.io = tiers::IoChoice::kThreads;
  if (!folder.empty()) {
    options.kv_dram_bytes = smallest_spilling_dram(Engine::open(options).spec().shape,
                                                   {.n_ctx = kLongContext, .chunk_rows = 16});
    options.nvme_directory = folder;
  }
  Engine engine = Engine::open(options);
  engine.load({});
  return engine;
}

void read(Engine& engine, Sequence& sequence, const Tokens& text) {
  for (size_t begin = 0; begin < text.size(); begin += 16) {
    std::vector<StepRow> rows;
    for (size_t i = begin; i < std::min(begin + 16, text.size()); ++i)
      rows.push_back({&sequence, text[i], false});
    engine.walk().step(rows);
  }
}

TEST(LayerBlocks, ABlockThatTwoSequencesShareCountsOnce) {
  const TemporaryModel model = long_model();
  Engine engine = opened(model, "");
  std::mt19937 random(3);
  Sequence parent = engine.cache().make_sequence();
  read(engine, parent, drawn_tokens(random, 100));  // four blocks of each stream
  Sequence child = parent.fork();
  read(engine, child, drawn_tokens(random, 40));  // its own fourth, and a fifth
  const std::array<const Sequence*, 2> both = {&parent, &child};
  const auto layers = layer_blocks(engine, both);
  const ModelShape& shape = engine.spec().shape;
  ASSERT_EQ(layers.size(), shape.n_layers);
  for (uint32_t i = 0; i < shape.n_layers; ++i) {
    EXPECT_EQ(layers[i].dram, 6 * shape.layers[i].n_kv_heads);
    EXPECT_EQ(layers[i].nvme + layers[i].hbm, 0u);
  }
}

TEST(LayerBlocks, WhatLeftMemoryIsOnDisk) {
  const TemporaryModel model = long_model();
  const TestFolder folder;
  Engine engine = opened(model, folder.path());
  ASSERT_TRUE(engine.context().kv.is_spilling());
  std::mt19937 random(4);
  Sequence sequence = engine.cache().make_sequence();
  read(engine, sequence, drawn_tokens(random, 3200));
  const std::array<const Sequence*, 1> all = {&sequence};
  const auto layers = layer_blocks(engine, all);
  const ModelShape& shape = engine.spec().shape;
  uint64_t n_dram = 0, n_nvme = 0;
  for (uint32_t i = 0; i < shape.n_layers; ++i) {
    EXPECT_EQ(layers[i].dram + layers[i].nvme, 100 * shape.layers[i].n_kv_heads);
    n_dram += layers[i].dram;
    n_nvme += layers[i].nvme;
  }
  const auto& pool = engine.cache().store().pool();
  EXPECT_EQ(n_dram, pool.n_slots() - pool.n_free());
  EXPECT_GT(n_nvme, 0u);
}

}  // namespace
}  // namespace strata::engine

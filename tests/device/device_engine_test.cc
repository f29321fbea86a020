// An engine whose device is the emulated one: what is chosen, refused and said.
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/device_walk.h"
#include "tests/device/device_fixture.h"
#include "tests/device/watched_device.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

class DeviceEngine : public testing::DeviceTest {
 protected:
  static Error error_of(const EngineOptions& options) {
    try {
      Engine::open(options);
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "opened";
    return Error(ErrorCode::kCancelled, "");
  }
};

TEST_F(DeviceEngine, IsUsedWhereThereIsOneAndAnswersAsTheCpu) {
  Engine on_device = Engine::open(options());
  ASSERT_NE(on_device.device(), nullptr);
  EXPECT_TRUE(on_device.notices().empty());
  Engine on_cpu = Engine::open(options(DeviceChoice::Kind::kNone));
  EXPECT_EQ(on_cpu.device(), nullptr);
  EXPECT_EQ(answer(on_device), answer(on_cpu));
  EXPECT_NE(on_device.walk().device(), nullptr);
}

TEST_F(DeviceEngine, ASmallBudgetPassesLayersThroughIt) {
  Engine engine = Engine::open(options());
  EngineOptions small = options();
  small.hbm_bytes = engine.device_plan().hbm_bytes - engine.device_plan().kv_bytes;
  Engine without_kv = Engine::open(small);
  EXPECT_EQ(without_kv.device_plan().kv_bytes, 0u);
  EXPECT_EQ(answer(without_kv), answer(engine));
  small.hbm_bytes = 1000;
  EXPECT_TRUE(Engine::open(small).device() == nullptr);  // auto: the CPU, with a line
  EXPECT_EQ(Engine::open(small).notices().size(), 1u);
  EngineOptions drafting = options();
  drafting.n_draft_max = std::nullopt;
  EXPECT_EQ(Engine::open(drafting).n_draft_max(), 0u);  // none on a device
  drafting.hbm_bytes = 1000;
  EXPECT_EQ(Engine::open(drafting).n_draft_max(), kDraftTokens);
  small.device.kind = DeviceChoice::Kind::kCuda;
  const Error error = error_of(small);
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  EXPECT_NE(error.remedy().find("--hbm"), std::string::npos);
}

/// More rows at a time than the CPU takes, unless they are named or K and V would give way to them;
/// and the CPU's where it has to stand in.
TEST_F(DeviceEngine, ReadsPromptsByLargerChunks) {
  EngineOptions unnamed = options();
  unnamed.chunk_is_named = false;
  Engine on_device = Engine::open(unnamed);
  EXPECT_EQ(on_device.context().chunk_rows, unnamed.n_ctx);
  EXPECT_EQ(Engine::open(options()).context().chunk_rows, options().chunk_rows);
  // Room for all of K and V beside the smaller chunks, and for half of them beside the larger.
  unnamed.hbm_bytes = on_device.device_plan().hbm_bytes - on_device.device_plan().kv_bytes / 2;
  ASSERT_GT(unnamed.hbm_bytes, Engine::open(options()).device_plan().hbm_bytes);
  EXPECT_EQ(Engine::open(unnamed).context().chunk_rows, unnamed.chunk_rows);
  unnamed.hbm_bytes = 0;
  devices_ = gpu_attn::count_devices(testing::watched_device());
  testing::watch() = {};
  testing::watch().refused_pin = 1;
  Engine falling_back = Engine::open(unnamed);
  Engine on_cpu = Engine::open(options(DeviceChoice::Kind::kNone));
  EXPECT_EQ(answer(falling_back), answer(on_cpu));
  EXPECT_EQ(falling_back.device(), nullptr);
  EXPECT_EQ(falling_back.context().chunk_rows, unnamed.chunk_rows);
  EXPECT_EQ(falling_back.walk().max_rows(), unnamed.chunk_rows);
}

/// A budget of everything answers as exact attention does.
TEST_F(DeviceEngine, ChoosesBlocksThere) {
  Engine exact = Engine::open(options());
  EngineOptions selecting = options();
  selecting.method = index::Method::kQuest;
  selecting.selection.budget = {index::Budget::Kind::kShare, 1};
  Engine whole = Engine::open(selecting);
  ASSERT_NE(whole.device(), nullptr);
  EXPECT_TRUE(whole.notices().empty());
  EXPECT_EQ(answer(whole), answer(exact));
  EXPECT_GT(whole.walk().selection_counts().steps, 0u);
  EXPECT_GT(whole.walk().device()->kv_counts().chosen_bytes, 0u);
}

/// Of decoded tokens the CPU attends all of K and V; prompts are the device's.
TEST_F(DeviceEngine, TheCpuAttendsItsShareOfWhatTheDeviceLacks) {
  Engine whole = Engine::open(options());
  EngineOptions sharing = options();
  sharing.hbm_bytes = whole.device_plan().hbm_bytes - whole.device_plan().kv_bytes;
  Engine reading = Engine::open(sharing);
  EXPECT_EQ(reading.device_plan().cpu_share, 0);
  sharing.cpu_share = 1;
  Engine engine = Engine::open(sharing);
  EXPECT_EQ(engine.device_plan().cpu_share, 1);
  EXPECT_EQ(answer(engine), answer(whole));
  answer(reading);
  EXPECT_EQ(reading.walk().device()->kv_counts().cpu_bytes, 0u);
  const DeviceKvCounts& counts = engine.walk().device()->kv_counts();
  EXPECT_GT(counts.cpu_bytes, 0u);
  EXPECT_LT(counts.far_bytes, reading.walk().device()->kv_counts().far_bytes);
  // Memory for it is counted where it may be.
  EXPECT_FALSE(reading.limits().may_share);
  EXPECT_TRUE(engine.limits().may_share);
  const ModelShape& shape = engine.spec().shape;
  EXPECT_GE(buffer_bytes(shape, engine.limits()),
            buffer_bytes(shape, reading.limits()) + DeviceBeside::host_bytes(shape));
  // What a method chooses comes to the device.
  sharing.method = index::Method::kQuest;
  EXPECT_EQ(Engine::open(sharing).device_plan().cpu_share, 0);
  // A placement says how much, unless the user does.
  Placement placement;
  placement.n_ctx = 256;
  placement.chunk_rows = 32;
  placement.streamed.assign(engine.spec().shape.n_layers, kNoPiece);
  placement.resident.assign(engine.spec().shape.n_layers, kWholeLayer);
  placement.cpu_share = 0.25;
  EngineOptions placed = options();
  placed.placement = placement;
  EXPECT_EQ(Engine::open(placed).device_plan().cpu_share, 0);  // unless somebody wants it
  placed.cpu_share = std::nullopt;
  EXPECT_EQ(Engine::open(placed).device_plan().cpu_share, 0.25);
  placed.cpu_share = 0;
  EXPECT_EQ(Engine::open(placed).device_plan().cpu_share, 0);
}

TEST_F(DeviceEngine, AShareOfNoDeviceAndItsMemoryAreSaidToDoNothing) {
  devices_ = {};
  devices_.reason = "no CUDA device: the machine has none";
  EngineOptions sharing = options();
  sharing.cpu_share = 0.4;
  EXPECT_EQ(
      Engine::open(sharing).notices(),
      std::vector<std::string>{"--cpu-share does nothing: no CUDA device: the machine has none"});
  for (const std::optional<double> other : {std::optional<double>(), std::optional(0.0)}) {
    sharing.cpu_share = other;
    EXPECT_TRUE(Engine::open(sharing).notices().empty());
  }
  sharing.hbm_bytes = uint64_t{1} << 30;
  EXPECT_EQ(Engine::open(sharing).notices(),
            std::vector<std::string>{"--hbm does nothing: no CUDA device: the machine has none"});
}

/// Of decoded tokens the CPU multiplies by a share of the weights that pass; prompts are the
/// device's.
TEST_F(DeviceEngine, TheCpuMultipliesByItsShareOfWhatTheDeviceLacks) {
  Engine whole = Engine::open(options());
  const std::vector<TokenId> expected = answer(whole);
  const uint32_t n_layers = whole.spec().shape.n_layers;
  EngineOptions sharing = options();
  sharing.hbm_bytes = whole.device_plan().hbm_bytes - whole.device_plan().kv_bytes - 1;
  const auto opened = [&](std::optional<double> share) {
    sharing.cpu_share = share;
    return Engine::open(sharing);
  };
  Engine reading = opened(0);
  const uint64_t n_passing = reading.device_plan().n_streamed();
  ASSERT_GT(n_passing, 0u);
  EXPECT_TRUE(reading.device_plan().on_cpu.empty());
  EXPECT_TRUE(opened(std::nullopt).device_plan().on_cpu.empty());  // nobody has planned it
  Engine engine = opened(1);
  EXPECT_EQ(engine.device_plan().n_on_cpu(), n_passing);
  EXPECT_EQ(answer(engine), expected);
  EXPECT_EQ(answer(reading), expected);
  EXPECT_GT(engine.walk().device()->cpu_weight_bytes(), 0u);
  EXPECT_EQ(reading.walk().device()->cpu_weight_bytes(), 0u);
  EXPECT_LT(engine.walk().device()->streamed_bytes(), reading.walk().device()->streamed_bytes());
  // It is counted where it may be, and a method takes nothing of it.
  EXPECT_GT(buffer_bytes(engine.spec().shape, engine.limits()),
            buffer_bytes(engine.spec().shape, reading.limits()));
  sharing.method = index::Method::kQuest;
  sharing.selection.budget = {index::Budget::Kind::kShare, 1};
  Engine selecting = opened(1);
  EXPECT_EQ(selecting.device_plan().n_on_cpu(), selecting.device_plan().n_streamed());
  EXPECT_EQ(answer(selecting), expected);
  EXPECT_GT(selecting.walk().device()->cpu_weight_bytes(), 0u);
  // A placement says of which, unless the user wants none.
  Placement placement;
  placement.n_ctx = 256;
  placement.chunk_rows = 32;
  placement.streamed.assign(n_layers, kNoPiece);
  placement.resident.assign(n_layers, kWholeLayer);
  placement.resident.back() = {.attention = true};
  placement.on_cpu.assign(n_layers, kNoPiece);
  placement.on_cpu.back() = {.ffn = true};
  EngineOptions placed = options();
  placed.placement = placement;
  EXPECT_TRUE(Engine::open(placed).device_plan().on_cpu.empty());
  for (const std::optional<double> share : {std::optional<double>(), std::optional(0.5)}) {
    placed.cpu_share = share;
    Engine of_placement = Engine::open(placed);
    EXPECT_EQ(of_placement.device_plan().on_cpu, placement.on_cpu);
    EXPECT_EQ(answer(of_placement), expected);
    EXPECT_GT(of_placement.walk().device()->cpu_weight_bytes(), 0u);
  }
}

/// From then on there is no answer, of this walk or another's.
TEST_F(DeviceEngine, ADeviceThatIsLostInAnAnswerEndsIt) {
  devices_ = gpu_attn::count_devices(testing::watched_device());
  for (const int number : {700, 702, 719}) {
    SCOPED_TRACE(number);
    testing::watch() = {};
    Engine engine = Engine::open(options());
    engine.load({});
    Sequence sequence = engine.cache().make_sequence();
    const auto prompt = testing::random_tokens(8, engine.spec().shape.vocab_size, 7);
    prefill(engine.walk(), sequence, prompt, 8);
    testing::watch().failed_wait = number;
    const std::vector<StepRow> rows{{&sequence, prompt[0], true}};
    const auto step = [&] { engine.walk().step(rows); };
    testing::expect_error(step, ErrorCode::kDeviceLost, "error " + std::to_string(number),
                          "cuda:0");
    testing::watch().failed_wait = 0;
    testing::expect_error(step, ErrorCode::kDeviceLost, "error " + std::to_string(number),
                          "cuda:0");
    EXPECT_EQ(sequence.n_pos(), 8u);
  }
}

TEST_F(DeviceEngine, WhatItCannotDoRunsOnTheCpuOrIsRefused) {
  EngineOptions with_tail = options();
  with_tail.method = index::Method::kRabitqTail;
  EngineOptions sparse = options();
  sparse.method = index::Method::kQuest;
  sparse.sparse_from = kSparseFrom;
  for (EngineOptions* wanted : {&with_tail, &sparse}) {
    Engine engine = Engine::open(*wanted);
    EXPECT_EQ(engine.device(), nullptr);
    ASSERT_EQ(engine.notices().size(), 1u);
    EXPECT_NE(engine.notices()[0].find("the CPU computes"), std::string::npos);
    wanted->device.kind = DeviceChoice::Kind::kCuda;
    EXPECT_EQ(error_of(*wanted).code(), ErrorCode::kUnsupported);
  }
  EngineOptions predicted = options(DeviceChoice::Kind::kVirtual);
  EXPECT_EQ(error_of(predicted).code(), ErrorCode::kUsage);
}

/// Although the plan had rows on the device.
void expect_search_by_cpu(Engine& engine) {
  ASSERT_NE(engine.walk().device(), nullptr);
  EXPECT_EQ(engine.device_plan().index_bytes, 0u);
  EXPECT_LE(engine.device_plan().hbm_bytes, engine.hbm_budget());
  EXPECT_EQ(engine.walk().selection_counts().scanned_on_device_bytes, 0u);
  EXPECT_GT(engine.walk().selection_counts().index_bytes, 0u);
  ASSERT_FALSE(engine.notices().empty());
  EXPECT_NE(engine.notices().back().find("the CPU searches the index: "), std::string::npos);
}

/// Memory that was free when the run was planned is refused, at every place where it is asked for.
TEST_F(DeviceEngine, WhereMemoryIsRefusedAutoRunsOnTheCpuAndANamedOneEndsButForAnIndex) {
  devices_ = gpu_attn::count_devices(testing::watched_device());
  std::vector<uint32_t> n_refused_of_exact;
  for (const auto method :
       {std::optional<index::Method>(), std::optional(index::Method::kRabitq)}) {
    EngineOptions saving = options();
    saving.reads_saved = true;
    saving.method = method;
    saving.selection.budget = {index::Budget::Kind::kShare, 1};
    EngineOptions of_cpu = saving, named = saving;
    of_cpu.device.kind = DeviceChoice::Kind::kNone;
    named.device.kind = DeviceChoice::Kind::kCuda;
    Engine on_cpu = Engine::open(of_cpu);
    const auto expected = answer(on_cpu);
    std::vector<uint32_t> n_refused, n_searched_by_cpu;
    for (uint32_t* refused :
         {&testing::watch().refused_allocation, &testing::watch().refused_pin}) {
      n_refused.push_back(0);
      n_searched_by_cpu.push_back(0);
      for (uint32_t nth = 1;; ++nth) {
        testing::watch() = {};
        *refused = nth;
        Engine engine = Engine::open(saving);
        ASSERT_NE(engine.device(), nullptr);
        EXPECT_EQ(answer(engine), expected);
        if (*refused > 0) break;                             // it was not asked so often
        EXPECT_EQ(testing::watch().n_unpinned_sources, 0u);  // nothing is freed under a device
        testing::watch() = {};
        *refused = nth;
        Engine of_named = Engine::open(named);
        if (engine.device() != nullptr) {  // rows of the index: the host has them anyway
          ++n_searched_by_cpu.back();
          expect_search_by_cpu(engine);
          EXPECT_EQ(answer(of_named), expected);
          expect_search_by_cpu(of_named);
          continue;
        }
        ++n_refused.back();
        EXPECT_EQ(engine.walk().device(), nullptr);
        EXPECT_EQ(engine.fingerprint(), on_cpu.fingerprint());
        ASSERT_EQ(engine.notices().size(), on_cpu.notices().size() + 1);
        EXPECT_NE(engine.notices().back().find("the CPU computes: "), std::string::npos);
        testing::expect_error([&] { of_named.load({}); }, ErrorCode::kOutOfMemory, "cuda:0",
                              "cuda:0");
      }
      EXPECT_GE(n_refused.back(), 2u);
    }
    if (!method) n_refused_of_exact = n_refused;
    EXPECT_EQ(n_refused, n_refused_of_exact);
    // Of an index: its rows, their table and what is found in them; the rows at home, and a buffer.
    EXPECT_EQ(n_searched_by_cpu,
              method ? (std::vector<uint32_t>{3, 2}) : (std::vector<uint32_t>{0, 0}));
  }
}

TEST_F(DeviceEngine, HostMemoryOfEveryCopyIsPinned) {
  devices_ = gpu_attn::count_devices(testing::watched_device());
  testing::watch() = {};
  Engine whole = Engine::open(options());
  answer(whole);
  EngineOptions small = options();
  small.hbm_bytes = whole.device_plan().hbm_bytes - whole.device_plan().kv_bytes - 1;
  Engine streaming = Engine::open(small);
  EXPECT_GT(streaming.device_plan().n_streamed(), 0u);
  answer(streaming);
  EngineOptions choosing = options();
  choosing.method = index::Method::kRabitq;
  Engine searching = Engine::open(choosing);
  EXPECT_GT(searching.device_plan().index_bytes, 0u);
  answer(searching);
  EXPECT_GT(searching.walk().device()->index_counts().row_bytes, 0u);
  EXPECT_GT(testing::watch().n_copies, 0u);
  EXPECT_EQ(testing::watch().n_pageable, 0u);
}

TEST_F(DeviceEngine, SavedContextsOfADeviceAreNotThoseOfTheCpu) {
  EngineOptions saving = options();
  saving.reads_saved = true;
  Engine on_device = Engine::open(saving);
  on_device.load({});
  saving.device.kind = DeviceChoice::Kind::kNone;
  Engine on_cpu = Engine::open(saving);
  on_cpu.load({});
  EXPECT_NE(on_device.fingerprint(), on_cpu.fingerprint());
}

}  // namespace
}  // namespace strata::engine

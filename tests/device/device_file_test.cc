// Steps on a device whose weights come from the model file, once or in every step: the bits of the
// same device with all weights in DRAM, what is read, and what becomes of a step that a disk fails.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "base/error.h"
#include "tests/device/file_model.h"
#include "tests/engine/thrown_error.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine {
namespace {

using testing::DeviceRun;
using testing::DrawnHomes;
using testing::FileModel;
using testing::holding;
using testing::IoScript;
using testing::LoadedModel;
using testing::Logits;
using testing::make_scripted;
using testing::WalkSetting;

constexpr uint32_t kFileSeed = 20261130;

WalkSetting file_setting(uint32_t chunk_rows = kDeviceFewRows) {
  WalkSetting of{
      .kernels = cpu_attn::available_kernels().back(), .chunk_rows = chunk_rows, .n_ctx = 128};
  of.n_sequences = 3;
  return of;
}

DeviceRun run_holding(const auto& member, const WalkSetting& of, std::vector<PieceSet> resident,
                      const DeviceTable& table = gpu_emu::emulated_device()) {
  return DeviceRun(member, of, 0, table, 0, holding(std::move(resident)));
}

/// Chunks and tokens of a text, a fork beside it in the same steps, and a cut.
std::vector<Logits> walked_with_fork(DeviceRun& run, std::span<const int32_t> text) {
  std::vector<Logits> all;
  Sequence first = run.walk().sequence();
  all.push_back(run.walk().feed(first, text.first(50)));
  for (const int32_t token : text.subspan(50, 5))
    all.push_back(run.walk().feed(first, std::span(&token, 1)));
  Sequence second = first.fork();
  for (size_t i = 55; i < 60; ++i) {
    const std::vector<StepRow> rows{{&first, text[i], true}, {&second, text[i + 5], true}};
    all.push_back(run.walk().step(rows));
  }
  const uint32_t n_kept = second.truncate(56);
  all.push_back(run.walk().feed(second, text.subspan(n_kept)));
  return all;
}

void expect_same(const std::vector<Logits>& found, const std::vector<Logits>& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_EQ(testing::first_difference(found[i], wanted[i]), std::nullopt) << i;
}

/// Law L1: of few rows and of chunks that go through the tensor cores.
TEST(DeviceFile, WhereAPieceIsChangesNoBit) {
  uint64_t n_once = 0, n_passing = 0;
  for (const char* name : {"wide", "llama-quantised"}) {
    SCOPED_TRACE(name);
    const makers::RandomTransformer of =
        std::string(name) == "wide" ? testing::wide_llama(6) : makers::zoo_member(name).model;
    const WalkSetting setting = file_setting(std::string(name) == "wide" ? 40 : kDeviceFewRows);
    const LoadedModel in_dram(of);
    const auto text = in_dram.text(70, kFileSeed);
    for (uint32_t draw = 0; draw < 2; ++draw) {
      SCOPED_TRACE(draw);
      const DrawnHomes homes(of.n_layers, kFileSeed + draw);
      n_once += homes.n_streamed(true);
      n_passing += homes.n_streamed(false);
      DeviceRun wanted = run_holding(in_dram, setting, homes.resident);
      const FileModel member(of, homes.streamed);
      DeviceRun found = run_holding(member, setting, homes.resident);
      expect_same(walked_with_fork(found, text), walked_with_fork(wanted, text));
      EXPECT_EQ(found.device().streamed_bytes() > 0, wanted.device().streamed_bytes() > 0);
      EXPECT_EQ(member.model.read_counts().read_bytes > 0, homes.n_streamed(false) > 0);
    }
  }
  EXPECT_GT(n_once, 3u);
  EXPECT_GT(n_passing, 3u);
}

/// A layer's reads are of a MiB at most, and each of these has several.
makers::RandomTransformer large_layers(uint32_t n_layers) {
  makers::RandomTransformer model = testing::wide_llama(n_layers);
  model.d_ff = 2048;
  return model;
}

struct ScriptedModel {
  explicit ScriptedModel(const std::vector<PieceSet>& streamed,
                         std::chrono::milliseconds deadline = kReadDeadline)
      : member(large_layers(static_cast<uint32_t>(streamed.size())), streamed,
               make_scripted(script), deadline) {}
  std::shared_ptr<IoScript> script = std::make_shared<IoScript>();
  FileModel member;
};

/// What the device holds is read once; of tokens the disk reads what passes and comes from there,
/// each once.
TEST(DeviceFile, WhatStaysIsReadOnceAndWhatPassesInEveryStep) {
  const PieceSet ffn{.ffn = true};
  const std::vector<PieceSet> streamed{kWholeLayer, kWholeLayer, ffn, kNoPiece, kWholeLayer, ffn};
  for (const bool is_all_there : {true, false}) {
    SCOPED_TRACE(is_all_there);
    ScriptedModel of(streamed);
    std::vector<PieceSet> resident(6, kWholeLayer);
    if (!is_all_there) resident = {kNoPiece, kWholeLayer, kNoPiece, kNoPiece, ffn, kNoPiece};
    DeviceRun run = run_holding(of.member, file_setting(), resident);
    const auto text = of.member.text(30, kFileSeed);
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(10));
    const uint64_t before = of.script->n_submitted;
    const uint64_t copied = run.device().streamed_bytes();
    constexpr uint32_t kTokens = 4;
    for (uint32_t i = 10; i < 10 + kTokens; ++i)
      run.walk().feed(sequence, std::span(text).subspan(i, 1));
    uint64_t n_reads = 0, copied_bytes = 0;  // of a token
    const WeightSizes sizes = weight_sizes(of.member.file, of.member.model.spec());
    for (uint32_t layer = 0; layer < 6; ++layer) {
      const PieceSet passes = other_pieces(resident[layer]);
      copied_bytes += run.needs().bytes_of(layer, passes);
      const PieceSet read = common_pieces(passes, streamed[layer]);
      if (read.is_any()) n_reads += sizes.streamed_size(layer, read).n_reads;
    }
    EXPECT_EQ(n_reads > 0, !is_all_there);
    EXPECT_EQ(of.script->n_submitted - before, kTokens * n_reads);
    EXPECT_EQ(run.device().streamed_bytes() - copied, kTokens * copied_bytes);
  }
}

/// The emulated device, whose work ends when the host has asked so often whether it has: a step's
/// late, a copy's soon.
const DeviceTable& asked_device() {
  static std::map<DeviceEvent*, int> n_asks;
  static std::vector<DeviceStream*> streams;
  streams.clear();
  static const DeviceTable table = [] {
    DeviceTable asked = gpu_emu::emulated_device();
    asked.create_stream = [](Device* device, DeviceStream** stream) {
      const int error = gpu_emu::emulated_device().create_stream(device, stream);
      streams.push_back(*stream);
      return error;
    };
    asked.record = [](DeviceStream* stream, DeviceEvent* event) {
      constexpr size_t kCopies = 2;  // behind the steps' stream and that of loading
      n_asks[event] = streams.size() > kCopies && stream == streams[kCopies] ? 2 : 100;
      return gpu_emu::emulated_device().record(stream, event);
    };
    asked.query = [](DeviceEvent* event, bool* is_done) {
      *is_done = n_asks[event]-- <= 0;
      return 0;
    };
    return asked;
  }();
  return table;
}

TEST(DeviceFile, WhileTheCardWorksTheNextStepsLayersAreCopied) {
  constexpr uint64_t kLayers = 5;
  ScriptedModel of(std::vector<PieceSet>(kLayers, kWholeLayer));
  DeviceRun run = run_holding(of.member, file_setting(), std::vector<PieceSet>(kLayers, kNoPiece),
                              asked_device());
  const auto text = of.member.text(4, kFileSeed);
  Sequence sequence = run.walk().sequence();
  for (uint32_t step = 1; step <= text.size(); ++step) {
    run.walk().feed(sequence, std::span(text).subspan(step - 1, 1));
    EXPECT_EQ(run.device().streamed_bytes(),
              (step * kLayers + gpu_attn::kStreamSlots) * run.needs().layer_bytes[0]);
  }
}

/// Where a layer is needed, not where there is nothing better to do.
TEST(DeviceFile, OnlyWhoNeedsALayerWaitsForTheDisk) {
  ScriptedModel of(std::vector<PieceSet>(5, kWholeLayer));
  ThreadPool pool(1);
  const Model& model = of.member.model;
  of.script->holds = true;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(model.read_ahead(pool, std::chrono::milliseconds(1)));
  EXPECT_EQ(model.read_counts().wait_seconds, 0);
  of.script->on_wait = [&](std::chrono::microseconds) { of.script->holds = false; };
  (void)model.take_layer(0, pool);
  EXPECT_GT(model.read_counts().wait_seconds, 0);
}

/// The disk fails at some read of a step: that ends, and the next one is whole.
TEST(DeviceFile, AFailedReadEndsTheStepAndTheNextOneIsWhole) {
  const std::vector<PieceSet> streamed(5, kWholeLayer), resident(5, kNoPiece);
  ScriptedModel calm(streamed);
  const auto text = calm.member.text(12, kFileSeed);
  uint32_t n_failed = 0;  // steps
  const auto last = [&](DeviceRun& run, const std::function<void()>& before) {
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(10));
    before();
    const std::vector<StepRow> rows{{&sequence, text[10], true}};
    for (int tries = 0; tries < 2; ++tries) {
      try {
        return run.walk().step(rows);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kIo);
        EXPECT_NE(std::string(error.what()).find("bytes of weights: device error"),
                  std::string::npos);
        EXPECT_EQ(sequence.n_pos(), 10u);
        ++n_failed;
      }
    }
    return Logits{};
  };
  DeviceRun without = run_holding(calm.member, file_setting(), resident);
  const Logits wanted = last(without, [] {});
  EXPECT_EQ(n_failed, 0u);
  for (const int64_t fail_in : {0, 2, 5}) {
    SCOPED_TRACE(fail_in);
    n_failed = 0;
    ScriptedModel of(streamed);
    DeviceRun run = run_holding(of.member, file_setting(), resident);
    EXPECT_TRUE(testing::is_same(last(run, [&] { of.script->fail_in = fail_in; }), wanted));
    EXPECT_EQ(of.script->fail_in, -1);
    EXPECT_EQ(n_failed, 1u);
  }
}

TEST(DeviceFile, AHungDiskEndsTheStepAfterItsDeadlineOrWhenItIsStopped) {
  const std::vector<PieceSet> streamed(5, kWholeLayer);
  ScriptedModel of(streamed, std::chrono::milliseconds(100));
  DeviceRun run = run_holding(of.member, file_setting(), std::vector<PieceSet>(5, kNoPiece));
  const auto text = of.member.text(12, kFileSeed);
  const Logits wanted = run.walk().feed_all(text);
  of.script->hangs = true;
  testing::expect_error([&] { return run.walk().feed_all(text); }, ErrorCode::kIo,
                        "the disk has not answered a read of weights for 0.1 s", ", offset ");
  ScriptedModel other(streamed);
  DeviceRun stopped = run_holding(other.member, file_setting(), std::vector<PieceSet>(5, kNoPiece));
  std::atomic<bool> cancel = false;
  Sequence sequence = stopped.walk().sequence();
  stopped.walk().feed(sequence, std::span(text).first(8));
  other.script->holds = true;
  stopped.walk().walk().set_cancel(&cancel);
  // Not between operations: while a layer is waited for.
  other.script->on_wait = [&](std::chrono::microseconds most) {
    cancel = most > std::chrono::milliseconds(10);
  };
  try {
    stopped.walk().feed(sequence, std::span(text).subspan(8));
    ADD_FAILURE() << "was not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  other.script->on_wait = {};
  other.script->holds = false;
  cancel = false;
  EXPECT_TRUE(testing::is_same(stopped.walk().feed_all(text), wanted));
}

TEST(DeviceFile, AFileCutShortEndsTheStep) {
  ScriptedModel of(std::vector<PieceSet>(5, kWholeLayer));
  DeviceRun run = run_holding(of.member, file_setting(), std::vector<PieceSet>(5, kNoPiece));
  const auto text = of.member.text(12, kFileSeed);
  run.walk().feed_all(text);
  std::filesystem::resize_file(of.member.file.path(), of.member.file.tensors()[3].file_offset);
  for (int i = 0; i < 2; ++i)
    testing::expect_error([&] { return run.walk().feed_all(text); }, ErrorCode::kIo, "",
                          std::string(of.member.file.path()));
}

/// Where K and V may spill a prompt's chunks behind the cut are the CPU's, which reads all layers;
/// the tokens between them are the device's, which reads those that pass.
TEST(DeviceFile, StepsOfTheCpuAndOfTheDeviceTakeTurns) {
  const auto of = testing::wide_llama(5);
  const LoadedModel in_dram(of);
  const auto text = in_dram.text(740, kFileSeed);
  const PieceSet ffn{.ffn = true};
  const std::vector<PieceSet> streamed{kWholeLayer, ffn, kWholeLayer, kNoPiece, kWholeLayer};
  const std::vector<PieceSet> resident{kNoPiece, kNoPiece, kWholeLayer, kNoPiece, ffn};
  const auto logits_of = [&](const auto& member) {
    WalkSetting setting{.kernels = cpu_attn::available_kernels().back(), .chunk_rows = 64};
    setting.n_ctx = 1024;
    const ModelShape& shape = member.model.shape();
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape.head_dim);
    const uint64_t place_bytes = round_up(
        shape.layers[0].n_kv_heads * kExtentBlocks * layout.block_bytes, tiers::kPlaceAlignment);
    auto spill = tiers::testing::make_simulated_spill({}, place_bytes, 4096, 48);
    DeviceRun run(
        member, setting, 0, gpu_emu::emulated_device(), 0,
        [&](const DeviceNeeds& needs, DevicePlan& plan) {
          plan = device_plan_of(needs, resident);
          plan.kv_bytes = kExtentBlocks * testing::n_full_streams(shape) * layout.block_bytes;
        },
        std::move(spill.spill));
    Sequence sequence = run.walk().sequence();
    Logits all = run.walk().feed(sequence, std::span(text).first(200));
    for (uint32_t at = 200; at < 680; at += 66) {  // a chunk of 64 rows, then two tokens
      for (auto& row : run.walk().feed(sequence, std::span(text).subspan(at, 64)))
        all.push_back(std::move(row));
      for (uint32_t i = at + 64; i < at + 66; ++i)
        for (auto& row : run.walk().feed(sequence, std::span(text).subspan(i, 1)))
          all.push_back(std::move(row));
    }
    EXPECT_TRUE(run.device().has_cpu_part(680));
    const bool reads = member.model.weight_plan().n_streamed() > 0;
    EXPECT_EQ(member.model.read_counts().n_abandoned > 0, reads);  // what was read for other steps
    return all;
  };
  const FileModel member(of, streamed);
  EXPECT_EQ(testing::first_difference(logits_of(member), logits_of(in_dram)), std::nullopt);
}

}  // namespace
}  // namespace strata::engine

// From a file to weights in memory: what the file, the disk or the user can break on the way.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/engine.h"
#include "engine/generator.h"
#include "engine/mapped_file.h"
#include "tests/engine/tiny_engine.h"

namespace strata::engine {
namespace {

using testing::draw_weights;
using testing::make_small_model;
using testing::SmallModel;
using testing::TemporaryModel;
using testing::TinyEngine;

EngineOptions options_of(const TemporaryModel& file) {
  EngineOptions options;
  options.model_path = file.path();
  options.n_threads = 2;
  return options;
}

Error error_of(const std::function<void()>& work) {
  try {
    work();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_STRNE(error.what(), "");
    return error;
  }
  return {ErrorCode::kCancelled, "no error"};
}

Error open_error(const SmallModel& model, const std::function<void(EngineOptions&)>& change = {}) {
  const TemporaryModel file(model);
  EngineOptions options = options_of(file);
  if (change) change(options);
  return error_of([&] { (void)Engine::open(options); });
}

TEST(ModelLoad, WeightsArriveAndTheEngineAnswers) {
  SmallModel model = make_small_model();
  draw_weights(model, 11);
  const TemporaryModel file(model);
  Engine engine = Engine::open(options_of(file));
  EXPECT_EQ(engine.context().n_ctx, 64u);
  uint64_t last_done = 0, n_calls = 0, wanted_total = 0;
  for (const auto& tensor : engine.file().tensors()) wanted_total += tensor.bytes;
  engine.load([&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, last_done);
    EXPECT_EQ(total, wanted_total);
    last_done = done;
    return ++n_calls > 0;
  });
  EXPECT_EQ(last_done, wanted_total);
  EXPECT_GE(n_calls, 1u);
  const auto& norm = model.tensor("blk.1.ffn_norm.weight").values;
  const auto loaded = engine.model().layer(1).ffn_norm;
  EXPECT_TRUE(std::equal(norm.begin(), norm.end(), loaded.begin(), loaded.end()));
  EXPECT_EQ(engine.model().output().bytes, engine.model().embedding().bytes);  // tied
  Sequence sequence = engine.cache().make_sequence();
  const StepRow row{&sequence, 3, true};
  engine.walk().step({&row, 1});
  for (const float logit : engine.walk().logits(0)) EXPECT_TRUE(std::isfinite(logit));
}

TEST(ModelLoad, AFileThatShrinksBetweenOpenAndLoadIsAnError) {
  for (const LoadMode mode : {LoadMode::kAuto, LoadMode::kDirect, LoadMode::kMapped}) {
    const TemporaryModel file(make_small_model());
    EngineOptions options = options_of(file);
    options.load = mode;
    Engine engine = Engine::open(options);
    std::filesystem::resize_file(file.path(), std::filesystem::file_size(file.path()) / 2);
    const Error error = error_of([&] { engine.load({}); });
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(error.where().find(file.path()), std::string::npos) << error.where();
    EXPECT_NE(error.where().find("offset "), std::string::npos) << error.where();
  }
}

/// Large enough to be read both ways first: 130 MB of float weights.
TEST(ModelLoad, EveryWayOfReadingBringsTheSameWeights) {
  SmallModel model = make_small_model({.n_layers = 3, .d_model = 256, .d_ff = 56'000});
  draw_weights(model, 21);
  const TemporaryModel file(model);
  EngineOptions options = options_of(file);
  std::vector<std::byte> wanted;
  for (const LoadMode mode : {LoadMode::kMapped, LoadMode::kDirect, LoadMode::kAuto}) {
    options.load = mode;
    Engine engine = Engine::open(options);
    engine.load({});
    const LoadReport& report = engine.model().load_report();
    EXPECT_EQ(report.is_measured, mode == LoadMode::kAuto);
    if (mode == LoadMode::kAuto)
      EXPECT_EQ(report.used == LoadMode::kDirect,
                report.direct_bytes_per_s > report.mapped_bytes_per_s);
    else
      EXPECT_EQ(report.used, mode);
    const auto found = engine.model().weight_memory();
    if (wanted.empty()) wanted.assign(found.begin(), found.end());
    EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), found.begin(), found.end()));
  }
}

/// Takes the file's pages out of the page cache; false where they stay (a file system in memory).
bool forget_pages(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY);
  bool is_gone =
      file >= 0 && ::fsync(file) == 0 && ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0;
  const auto mapped =
      MappedFile::open(file, static_cast<uint64_t>(std::filesystem::file_size(path)));
  is_gone = is_gone && mapped && !mapped->is_cached(std::filesystem::file_size(path) / 2);
  ::close(file);
  return is_gone;
}

TEST(ModelLoad, ASmallModelIsReadPastThePageCacheThatLacksIt) {
  const TemporaryModel file(make_small_model({.n_layers = 12, .d_ff = 8192}));  // 36 MiB
  const auto loaded = [&] {
    Engine engine = Engine::open(options_of(file));
    engine.load({});
    EXPECT_FALSE(engine.model().load_report().is_measured);
    const auto bytes = engine.model().weight_memory();
    return std::pair(engine.model().load_report().used,
                     std::vector<std::byte>(bytes.begin(), bytes.end()));
  };
  const auto [warm, expected] = loaded();
  EXPECT_EQ(warm, LoadMode::kMapped);
  if (!forget_pages(file.path())) GTEST_SKIP() << "the file stays in the page cache";
  const auto [cold, found] = loaded();
  EXPECT_EQ(cold, LoadMode::kDirect);
  EXPECT_TRUE(expected == found);
}

TEST(ModelLoad, LoadingStopsWhereTheCallerSaysSo) {
  for (const LoadMode mode : {LoadMode::kDirect, LoadMode::kMapped}) {
    const TemporaryModel file(make_small_model({.n_layers = 12, .d_ff = 8192}));  // 36 MiB
    EngineOptions options = options_of(file);
    options.load = mode;
    Engine engine = Engine::open(options);
    uint32_t n_calls = 0;
    uint64_t done_bytes = 0;
    const Error error = error_of([&] {
      engine.load([&](uint64_t done, uint64_t total) {
        EXPECT_LT(done, total);
        done_bytes = done;
        return ++n_calls < 2;
      });
    });
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    EXPECT_EQ(exit_code(error.code()), 130);
    EXPECT_EQ(n_calls, 2u);
    EXPECT_GT(done_bytes, 0u);
  }
}

TEST(ModelLoad, AFileThatIsNotThereNamesItsPath) {
  EngineOptions options;
  options.model_path = ::testing::TempDir() + "no_such_model.gguf";
  const Error error = error_of([&] { (void)Engine::open(options); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_NE((error.what() + error.where()).find("no_such_model.gguf"), std::string::npos);
  options.model_path = ::testing::TempDir();  // a folder
  EXPECT_NE(error_of([&] { (void)Engine::open(options); }).code(), ErrorCode::kCancelled);
}

TEST(ModelLoad, AMissingTensorAndAWrongShapeAreBadFiles) {
  SmallModel missing = make_small_model();
  missing.erase_tensor("blk.1.ffn_up.weight");
  const Error of_missing = open_error(missing);
  EXPECT_EQ(of_missing.code(), ErrorCode::kBadFile);
  EXPECT_NE(std::string(of_missing.what()).find("blk.1.ffn_up.weight"), std::string::npos);
  SmallModel wrong = make_small_model();
  wrong.erase_tensor("blk.0.attn_k.weight");
  wrong.add_tensor("blk.0.attn_k.weight", {32, 8});
  const Error of_wrong = open_error(wrong);
  EXPECT_EQ(of_wrong.code(), ErrorCode::kBadFile);
  EXPECT_NE(of_wrong.where().find("blk.0.attn_k.weight"), std::string::npos);
}

TEST(ModelLoad, MoreQueryHeadsPerKvHeadThanATileHoldsAreUnsupported) {
  const auto of_group = [](uint32_t n_heads) {
    return make_small_model({.d_model = 16, .n_heads = n_heads, .n_kv_heads = 1, .d_ff = 8});
  };
  const TemporaryModel largest(of_group(kMaxTileQueries));
  EXPECT_EQ(Engine::open(options_of(largest)).spec().shape.group(0), kMaxTileQueries);
  const Error error = open_error(of_group(kMaxTileQueries + 1));
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_NE(std::string(error.what()).find(std::to_string(kMaxTileQueries)), std::string::npos);
  EXPECT_NE(std::string(error.what()).find(std::to_string(kMaxTileQueries + 1)), std::string::npos);
}

TEST(ModelLoad, WhatCannotFitIsRefusedBeforeWeightsAreRead) {
  const Error budget =
      open_error(make_small_model(), [](EngineOptions& options) { options.kv_dram_bytes = 100; });
  EXPECT_EQ(budget.code(), ErrorCode::kDoesNotFit);
  EXPECT_EQ(exit_code(budget.code()), 3);
  EXPECT_NE(budget.remedy().find("--kv-dram"), std::string::npos);
  const Error context =
      open_error(make_small_model(), [](EngineOptions& options) { options.n_ctx = 65; });
  EXPECT_EQ(context.code(), ErrorCode::kUsage);
  EXPECT_NE(context.remedy().find("-c 64"), std::string::npos);
  const Error isa =
      open_error(make_small_model(), [](EngineOptions& options) { options.cpu_isa = "mmx"; });
  EXPECT_EQ(isa.code(), ErrorCode::kUsage);
  EXPECT_NE(isa.remedy() + isa.what(), "");
}

/// The arena, and the frames that saved contexts are read into, are what the plan has counted.
TEST(ModelLoad, KAndVAndWhatMovesThemStayInTheirBudget) {
  const TemporaryModel file(make_small_model());
  EngineOptions options = options_of(file);
  options.reads_saved = true;
  const uint64_t wanted = Engine::open(options).context().kv.dram_bytes();
  options.n_ctx = 64;
  options.kv_dram_bytes = wanted;
  Engine engine = Engine::open(options);
  engine.load({});
  const KvPlacement& kv = engine.context().kv;
  ASSERT_NE(engine.cache().store().transfers(), nullptr);
  EXPECT_EQ(engine.cache().pool().budget_bytes(), kv.slot_bytes);
  EXPECT_EQ(engine.cache().store().transfers()->n_frames() *
                engine.cache().store().transfers()->frame_bytes(),
            kv.n_frames * kv.place_bytes);
  EXPECT_GT(kv.pack_bytes, 0u);
  EXPECT_LE(kv.dram_bytes(), options.kv_dram_bytes);
  options.kv_dram_bytes = wanted - 1;
  const Error error = error_of([&] { (void)Engine::open(options); });
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  EXPECT_NE(error.remedy().find("--no-cache"), std::string::npos) << error.remedy();
  options.reads_saved = false;
  EXPECT_EQ(Engine::open(options).context().n_ctx, 64u);
}

TEST(ModelLoad, AFolderForTheSpillFileThatCannotBeIsAnErrorWhereTheUserNamedIt) {
  const TemporaryModel file(make_small_model());
  EngineOptions options = options_of(file);
  options.nvme_directory = "/proc/strata";
  const Error error = error_of([&] { (void)Engine::open(options); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_EQ(error.where(), "/proc/strata");
  EXPECT_FALSE(error.remedy().empty());
  options.nvme_is_named = false;
  EXPECT_EQ(Engine::open(options).context().n_ctx, 64u);
  EXPECT_TRUE(Engine::open(options).notices().empty());  // nothing follows from it
  options.kv_dram_bytes = 4096;  // four blocks: the whole context wants eight
  const Engine limited = Engine::open(options);
  EXPECT_LT(limited.context().n_ctx, 64u);
  ASSERT_EQ(limited.notices().size(), 1u);
  EXPECT_NE(limited.notices()[0].find("/proc/strata"), std::string::npos);
  options.n_ctx = 64;
  const Error refused = error_of([&] { (void)Engine::open(options); });
  EXPECT_EQ(refused.code(), ErrorCode::kDoesNotFit);
  EXPECT_NE(std::string(refused.what()).find("/proc/strata"), std::string::npos);
  EXPECT_NE(refused.remedy().find("--nvme"), std::string::npos);
}

TEST(ModelLoad, DamagedWeightsAreNamedAtTheFirstToken) {
  SmallModel model = make_small_model();
  draw_weights(model, 5);
  model.tensor("output_norm.weight").values[3] = std::numeric_limits<float>::quiet_NaN();
  TinyEngine engine(model);
  Sequence sequence = engine.cache().make_sequence();
  const std::vector<TokenId> prompt = {3, 3};
  GenerationRequest request;
  request.prompt = prompt;
  request.vocab_size = engine.model().shape().vocab_size;
  request.n_ctx = 64;
  request.n_ctx_train = 64;
  const Error error =
      error_of([&] { (void)generate(engine.walk(), sequence, engine.tokenizer(), request); });
  EXPECT_EQ(error.code(), ErrorCode::kBadFile);
  EXPECT_NE(error.remedy().find("fetch or convert"), std::string::npos);
}

/// One walk of two sequences: a budget that holds the first one's rows only.
TEST(WalkStep, ThatDoesNotFitLeavesEverySequenceAsItWas) {
  SmallModel model = make_small_model();
  draw_weights(model, 9);
  // Two layers of two KV heads: four blocks per 32 positions; room for three times that.
  TinyEngine engine(model, {.chunk_rows = 64, .kv_bytes = 12 * 1024});
  const auto logits_after = [&](Sequence& sequence, int32_t token) {
    const StepRow row{&sequence, token, true};
    engine.walk().step({&row, 1});
    const auto logits = engine.walk().logits(0);
    return std::vector<float>(logits.begin(), logits.end());
  };
  Sequence first = engine.cache().make_sequence();
  Sequence second = engine.cache().make_sequence();
  (void)logits_after(first, 1);
  (void)logits_after(second, 2);
  const uint32_t n_free = engine.cache().pool().n_free();
  ASSERT_EQ(n_free, 4u);
  std::vector<StepRow> rows(32, {&first, 5, false});
  rows.resize(64, {&second, 6, false});
  const Error error = error_of([&] { engine.walk().step(rows); });
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  EXPECT_EQ(engine.cache().pool().n_free(), n_free);
  EXPECT_EQ(first.tokens(), std::vector<int32_t>{1});
  EXPECT_EQ(second.tokens(), std::vector<int32_t>{2});
  const auto of_first = logits_after(first, 7);
  const auto of_second = logits_after(second, 8);
  first = engine.cache().make_sequence();
  second = engine.cache().make_sequence();
  (void)logits_after(first, 1);
  (void)logits_after(second, 2);
  EXPECT_EQ(logits_after(first, 7), of_first);
  EXPECT_EQ(logits_after(second, 8), of_second);
}

}  // namespace
}  // namespace strata::engine

// No allocation per token: what a decode step may need was reserved before.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/context_size.h"
#include "engine/sampler.h"
#include "tests/allocation/counted_allocations.h"
#include "tests/engine/tiny_engine.h"

namespace strata::engine {
namespace {

using testing::draw_weights;
using testing::make_small_model;
using testing::SmallModel;
using testing::TinyEngine;
using testing::TinyOptions;

constexpr uint32_t kVocabulary = 32;
constexpr uint32_t kContext = 4096;

SmallModel model_of(const std::string& architecture, uint32_t n_layers) {
  SmallModel model = make_small_model({.architecture = architecture,
                                       .n_layers = n_layers,
                                       .vocab_size = kVocabulary,
                                       .n_ctx_train = kContext});
  draw_weights(model, 3);
  return model;
}

uint64_t allocations_of(const std::function<void()>& work) {
  const uint64_t before = strata::testing::n_allocations();
  work();
  return strata::testing::n_allocations() - before;
}

void decode(TinyEngine& engine, Sequence& sequence, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) {
    const StepRow row{&sequence, static_cast<int32_t>(i % kVocabulary), true};
    engine.walk().step({&row, 1});
  }
}

TEST(StepAllocation, TheCounterCounts) {
  std::unique_ptr<int> kept;
  EXPECT_EQ(allocations_of([&] { kept = std::make_unique<int>(1); }), 1u);
  std::vector<std::string> texts;
  EXPECT_GE(allocations_of([&] { texts.assign(3, std::string(100, 'x')); }), 4u);
}

/// 1,100 steps cross borders of blocks, runs, segments and spans; windowed layers let go of blocks.
TEST(StepAllocation, DecodeStepsAllocateNothing) {
  for (const uint32_t n_threads : {1u, 2u}) {
    for (const char* architecture : {"llama", "gemma3"}) {
      TinyEngine engine(model_of(architecture, 6), {.n_ctx = kContext, .n_threads = n_threads});
      Sequence sequence = engine.cache().make_sequence();
      decode(engine, sequence, 2);  // the first step may set up what lives to the end
      EXPECT_EQ(allocations_of([&] { decode(engine, sequence, 1100); }), 0u)
          << architecture << ", " << n_threads << " threads";
      EXPECT_EQ(sequence.n_pos(), 1102u);
    }
  }
}

TEST(StepAllocation, DecodeAfterAPromptAForkAndATruncationAllocatesNothing) {
  TinyEngine engine(model_of("gemma3", 6), {.n_ctx = kContext, .n_threads = 2});
  Sequence sequence = engine.cache().make_sequence();
  const std::vector<int32_t> prompt(1000, 5);
  prefill(engine.walk(), sequence, prompt, 16);
  Sequence fork = sequence.fork();
  sequence.truncate(995);
  EXPECT_EQ(allocations_of([&] {
              decode(engine, sequence, 100);
              decode(engine, fork, 100);
            }),
            0u);
}

TEST(StepAllocation, BatchesOfSequencesAllocateNothing) {
  TinyEngine engine(model_of("llama", 2),
                    {.n_ctx = 512, .n_threads = 2, .kv_bytes = uint64_t{4} << 20});
  std::vector<Sequence> sequences;
  std::vector<StepRow> rows;
  for (uint32_t i = 0; i < 8; ++i) sequences.push_back(engine.cache().make_sequence());
  for (Sequence& sequence : sequences) rows.push_back({&sequence, 7, true});
  engine.walk().step(rows);  // eight rows of logits for the first time
  EXPECT_EQ(allocations_of([&] {
              for (int i = 0; i < 200; ++i) engine.walk().step(rows);
            }),
            0u);
}

TEST(StepAllocation, ChunksWithoutLogitsAllocateNothing) {
  TinyEngine engine(model_of("llama", 2), {.n_ctx = kContext, .chunk_rows = 64, .n_threads = 2});
  Sequence sequence = engine.cache().make_sequence();
  const std::vector<StepRow> rows(64, {&sequence, 7, false});
  engine.walk().step(rows);
  EXPECT_EQ(allocations_of([&] {
              for (int i = 0; i < 40; ++i) engine.walk().step(rows);
            }),
            0u);
}

TEST(StepAllocation, StreamedWeightsAllocateNothing) {
  TinyEngine engine(
      model_of("llama", 6),
      {.n_ctx = 512,
       .n_threads = 2,
       .streamed = {
           kWholeLayer, kNoPiece, {.ffn = true}, kWholeLayer, kNoPiece, {.attention = true}}});
  Sequence sequence = engine.cache().make_sequence();
  decode(engine, sequence, 2);
  EXPECT_EQ(allocations_of([&] { decode(engine, sequence, 50); }), 0u);
  EXPECT_GE(engine.model().read_counts().n_reads, 50u * 4);  // of a layer at least one
}

/// With a trace that is full from the third step on.
TEST(StepAllocation, TracedStepsAllocateNothing) {
  TinyEngine engine(model_of("llama", 2), {.n_ctx = kContext, .n_threads = 2});
  Sequence sequence = engine.cache().make_sequence();
  Trace trace(40);
  engine.walk().set_trace(&trace);
  decode(engine, sequence, 2);
  EXPECT_EQ(allocations_of([&] { decode(engine, sequence, 300); }), 0u);
  EXPECT_EQ(trace.n_held() + trace.n_dropped(), 302u * (2 * 7 + 2 + 1));
  engine.walk().set_trace(nullptr);
  EXPECT_EQ(allocations_of([&] { decode(engine, sequence, 300); }), 0u);
  EXPECT_EQ(trace.n_held() + trace.n_dropped(), 302u * (2 * 7 + 2 + 1));
}

TEST(StepAllocation, SamplingAllocatesNothing) {
  SamplerOptions options;
  options.repeat_penalty = 1.1;
  options.frequency_penalty = 0.1;
  options.logit_bias = {{3, 1.0}};
  Sampler sampler(options, 5000);
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7919 % 5000) / 500;
  for (const uint32_t top_k : {0u, 40u, 2000u}) {
    options.top_k = top_k;
    Sampler drawing(options, 5000);
    EXPECT_EQ(allocations_of([&] {
                for (int i = 0; i < 100; ++i) drawing.accept(drawing.pick(logits));
              }),
              0u)
        << top_k;
  }
}

/// Law L2: the plan's figure for a walk holds, whatever the model.
TEST(StepAllocation, AWalkReservesNoMoreThanThePlanSays) {
  struct Case {
    testing::SmallModelOptions model;
    uint32_t chunk_rows, n_threads;
  };
  const std::vector<Case> cases = {
      {{}, 1, 1},
      {{}, 512, 3},
      {{.n_heads = 8, .n_kv_heads = 1, .head_dim = 64, .d_ff = 8}, 100, 2},
      {{.d_model = 256, .n_heads = 2, .n_kv_heads = 2, .head_dim = 128, .d_ff = 1000}, 300, 1},
      {{.architecture = "gemma3", .n_layers = 6, .d_ff = 640, .vocab_size = 9000}, 128, 2}};
  for (const Case& of : cases) {
    TinyEngine engine(make_small_model(of.model),
                      {.chunk_rows = of.chunk_rows, .n_threads = of.n_threads});
    const uint64_t planned = walk_buffer_bytes(engine.model().shape(), of.chunk_rows, of.n_threads);
    EXPECT_LE(engine.walk().buffer_bytes(), planned);
    // And the figure is no blank cheque: what it allows for rounding and no more.
    EXPECT_LE(planned, engine.walk().buffer_bytes() + (uint64_t{5} << 20));
    const WeightSizes sizes = weight_sizes(engine.file(), engine.model().spec());
    EXPECT_EQ(plan_weights(sizes, 0).total_bytes(), engine.model().weight_bytes());
  }
}

}  // namespace
}  // namespace strata::engine

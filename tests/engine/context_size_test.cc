#include "engine/context_size.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>

#include "engine/byte_text.h"
#include "engine/kv_cache.h"
#include "tests/engine/mebibyte.h"

namespace strata::engine {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

/// Two layers, four KV heads of 64: 1 KiB of f16 K and V per position, head and layer pair.
ModelShape shape_of(uint32_t n_ctx_train) {
  ModelShape shape{.architecture = "llama",
                   .n_layers = 2,
                   .d_model = 256,
                   .head_dim = 64,
                   .vocab_size = 1000,
                   .n_ctx_train = n_ctx_train,
                   .layers = {}};
  shape.layers.assign(2, {.n_heads = 4, .n_kv_heads = 4, .d_ff = 512});
  return shape;
}

/// Bytes of f16 K and V per position of shape_of(): 2 layers, 4 heads, K and V of 64 f16.
constexpr uint64_t kPositionBytes = 2 * 4 * 2 * 64 * 2;

ContextRequest request_of(uint64_t n_ctx) {
  return {.n_ctx = n_ctx, .weight_bytes = kGiB, .available_bytes = 4 * kGiB};
}

/// The error that a request gives.
Error refused(const ModelShape& shape, const ContextRequest& request) {
  try {
    const ContextPlan plan = plan_context(shape, request);
    ADD_FAILURE() << "accepted with n_ctx " << plan.n_ctx;
  } catch (const Error& error) {
    return error;
  }
  return {ErrorCode::kIo, "accepted"};
}

bool says(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) ADD_FAILURE() << "'" << text << "' lacks '" << part << "'";
  return found;
}

TEST(ContextSize, WithoutARequestItIsTheModelsOwn) {
  const ContextPlan plan = plan_context(shape_of(8192), request_of(0));
  EXPECT_EQ(plan.n_ctx, 8192u);
  EXPECT_EQ(plan.chunk_rows, 512u);
  EXPECT_EQ(plan.kv.slot_bytes, 8192 * kPositionBytes);
}

TEST(ContextSize, WithoutARequestItIsWhatHalfOfTheFreeMemoryHolds) {
  ContextRequest request = request_of(0);
  const ModelShape shape = shape_of(1 << 30);
  const ContextPlan plan = plan_context(shape, request);
  const uint64_t free_bytes = 3 * kGiB - walk_buffer_bytes(shape, 512, 1);
  EXPECT_LE(plan.kv.slot_bytes, free_bytes / 2);
  // Not a block less than it could.
  EXPECT_GT(plan.kv.slot_bytes + 32 * kPositionBytes, free_bytes / 2);
  EXPECT_EQ(plan.n_ctx % kBlockPositions, 0u);
}

TEST(ContextSize, WithoutARequestTheKvBudgetLimitsIt) {
  ContextRequest request = request_of(0);
  request.kv_dram_bytes = 100 * kMiB;
  const ContextPlan plan = plan_context(shape_of(1 << 30), request);
  EXPECT_EQ(plan.n_ctx, 100 * kMiB / kPositionBytes);
  EXPECT_LE(plan.kv.slot_bytes, request.kv_dram_bytes);
}

TEST(ContextSize, ABudgetAboveTheMemoryPromisesNoMoreThanTheMemory) {
  ContextRequest request = request_of(0);
  request.kv_dram_bytes = 100 * kGiB;
  const ContextPlan plan = plan_context(shape_of(1 << 30), request);
  EXPECT_LE(plan.kv.slot_bytes + request.weight_bytes, request.available_bytes);
  EXPECT_GT(plan.kv.slot_bytes, kGiB);
}

TEST(ContextSize, AShortContextHasShortChunks) {
  const ContextPlan plan = plan_context(shape_of(8192), request_of(100));
  EXPECT_EQ(plan.n_ctx, 100u);
  EXPECT_EQ(plan.chunk_rows, 100u);
  EXPECT_EQ(plan.kv.slot_bytes, 128 * kPositionBytes);  // whole blocks
}

TEST(ContextSize, BeyondTheTrainedContextIsRefusedWithThreeWaysOut) {
  const Error error = refused(shape_of(8192), request_of(20000));
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_EQ(error.where(), "--ctx-size");
  says(error.what(), "20000");
  says(error.what(), "8192");
  says(error.remedy(), "-c 8192");
  says(error.remedy(), "--rope-factor 3");
  says(error.remedy(), "--allow-untrained");
  ContextRequest allowed = request_of(20000);
  allowed.allow_untrained = true;
  EXPECT_EQ(plan_context(shape_of(8192), allowed).n_ctx, 20000u);
}

TEST(ContextSize, AContextAboveTheBudgetIsRefusedWithEveryChangeThatFits) {
  ContextRequest request = request_of(8192);
  request.kv_dram_bytes = 10 * kMiB;
  const Error error = refused(shape_of(8192), request);
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  says(error.what(), "8192 tokens");
  says(error.what(), bytes_text(8192 * kPositionBytes));
  says(error.what(), "--kv-dram allows 10.0 MiB");
  says(error.remedy(), "-c 5120");
  says(error.remedy(), "--kv-dram 16MiB");
  // Each of them does fit.
  ContextRequest smaller = request;
  smaller.n_ctx = 5120;
  EXPECT_EQ(plan_context(shape_of(8192), smaller).n_ctx, 5120u);
  ContextRequest larger = request;
  larger.kv_dram_bytes = 16 * kMiB;
  EXPECT_EQ(plan_context(shape_of(8192), larger).n_ctx, 8192u);
  // q8_0 is proposed only where it suffices: 34 bytes for 32 values, not 64.
  says(error.remedy(), "-ctk q8_0 -ctv q8_0");
  ContextRequest quantised = request;
  quantised.k_codec = quantised.v_codec = KvCodec::kQ8_0;
  EXPECT_EQ(plan_context(shape_of(8192), quantised).n_ctx, 8192u);
  request.kv_dram_bytes = 5 * kMiB;
  EXPECT_EQ(refused(shape_of(8192), request).remedy().find("q8_0"), std::string::npos);
}

TEST(ContextSize, AContextAboveTheMemoryIsRefusedWithoutProposingABudget) {
  const ModelShape shape = shape_of(1 << 30);
  const Error error = refused(shape, request_of(1 << 24));
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  says(error.what(), bytes_text(uint64_t{1 << 24} * kPositionBytes));
  EXPECT_EQ(error.remedy().find("--kv-dram"), std::string::npos) << error.remedy();
  const size_t at = error.remedy().find("-c ");
  ASSERT_NE(at, std::string::npos);
  const uint64_t proposed = std::stoull(error.remedy().substr(at + 3));
  EXPECT_EQ(plan_context(shape, request_of(proposed)).n_ctx, proposed);
  EXPECT_EQ(refused(shape, request_of(proposed + 33)).code(), ErrorCode::kDoesNotFit);
}

TEST(ContextSize, WeightsAboveTheMemoryAreRefusedWithBothNumbers) {
  ContextRequest request = request_of(0);
  request.weight_bytes = 5 * kGiB;
  const Error error = refused(shape_of(8192), request);
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  says(error.what(), "5.0 GiB");
  says(error.what(), "4.0 GiB");
  EXPECT_EQ(error.remedy().find("--weights-dram"), std::string::npos) << error.remedy();
}

TEST(ContextSize, WeightsThatCouldBeStreamedAreRefusedWithABudgetThatWorks) {
  ContextRequest request = request_of(0);
  request.weight_bytes = 5 * kGiB;
  request.weight_bytes_min = kGiB;
  const Error error = refused(shape_of(8192), request);
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  says(error.remedy(), "stream weights from the file with --weights-dram 2");
  request.weight_bytes = 2 * kGiB;
  EXPECT_GT(plan_context(shape_of(8192), request).n_ctx, 0u);
  request.weight_bytes = 5 * kGiB;
  request.weight_bytes_min = 4 * kGiB;  // leaves nothing for K and V
  EXPECT_EQ(refused(shape_of(8192), request).remedy().find("--weights-dram"), std::string::npos);
}

TEST(ContextSize, ABudgetBelowABlockOfEachStreamIsRefused) {
  ContextRequest request = request_of(0);
  request.kv_dram_bytes = 1024;
  const Error error = refused(shape_of(8192), request);
  EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  says(error.what(), "--kv-dram allows 1.0 KiB");
  says(error.remedy(), "--kv-dram 64KiB");
}

TEST(ContextSize, Q8ForHeadsThatAreNoMultipleOf32IsRefused) {
  ModelShape shape = shape_of(8192);
  shape.head_dim = 40;
  ContextRequest request = request_of(0);
  request.v_codec = KvCodec::kQ8_0;
  EXPECT_EQ(refused(shape, request).code(), ErrorCode::kUnsupported);
  request.v_codec = KvCodec::kF16;
  EXPECT_EQ(plan_context(shape, request).n_ctx, 8192u);
  // And it is no remedy.
  request.n_ctx = 8192;
  request.kv_dram_bytes = kMiB;
  EXPECT_EQ(refused(shape, request).remedy().find("q8_0"), std::string::npos);
}

TEST(ContextSize, WindowedLayersNeedTheirWindowAndAChunkOnly) {
  ModelShape shape = shape_of(1 << 20);
  shape.layers[1].kind = LayerKind::kWindow;
  shape.layers[1].window = 512;
  const ContextPlan plan = plan_context(shape, request_of(100000));
  const uint64_t full = 100000 / 32 * 32 * kPositionBytes / 2;
  const uint64_t windowed = (512 + 512 + 32) * kPositionBytes / 2;
  EXPECT_EQ(plan.kv.slot_bytes, full + windowed);
}

/// Shapes of published models at a chunk of 512: what a process needs beside weights and KV must
/// leave room for tokenizer and code below 200 MB.
TEST(ContextSize, BuffersStayInTheirShareWhateverTheModelAndTheBatch) {
  struct Published {
    const char* name;
    uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size;
  };
  for (const Published& of : {Published{"135M", 30, 576, 9, 3, 64, 1536, 49152},
                              Published{"270M", 18, 640, 4, 1, 256, 2048, 262144},
                              Published{"8B", 32, 4096, 32, 8, 128, 14336, 128256},
                              Published{"27B", 62, 5376, 32, 16, 128, 21504, 262144},
                              Published{"70B", 80, 8192, 64, 8, 128, 28672, 128256}}) {
    ModelShape shape{.architecture = "llama",
                     .n_layers = of.n_layers,
                     .d_model = of.d_model,
                     .head_dim = of.head_dim,
                     .vocab_size = of.vocab_size,
                     .n_ctx_train = 8192,
                     .layers = {}};
    shape.layers.assign(of.n_layers,
                        {.n_heads = of.n_heads, .n_kv_heads = of.n_kv_heads, .d_ff = of.d_ff});
    for (const uint32_t chunk_rows : {1u, 512u, 8192u}) {
      ContextRequest request = request_of(8192);
      request.available_bytes = 1000 * kGiB;
      request.n_threads = 16;
      request.chunk_rows = chunk_rows;
      const ContextPlan plan = plan_context(shape, request);
      EXPECT_LE(plan.chunk_rows, chunk_rows);
      EXPECT_LE(walk_buffer_bytes(shape, plan.chunk_rows, request.n_threads), kWalkBytesMax)
          << of.name << ", chunks of " << plan.chunk_rows;
      request.has_device = true;  // which touches fewer buffers of the walk
      const ContextPlan beside = plan_context(shape, request);
      EXPECT_GE(beside.chunk_rows, std::min(chunk_rows, 512u)) << of.name;
      ContextRequest planned = request;
      planned.chunk_rows = beside.chunk_rows;
      // As much again for what is pinned, and what the driver takes.
      EXPECT_LE(buffer_bytes(shape, planned), 2 * kWalkBytesMax + (uint64_t{128} << 20))
          << of.name << ", chunks of " << beside.chunk_rows << " on a device";
      if (chunk_rows == 1) {
        EXPECT_EQ(plan.chunk_rows, 1u);
      } else {
        EXPECT_GE(plan.chunk_rows, 128u) << of.name;
      }
    }
  }
}

TEST(ContextSize, RandomRequestsFitOrAreRefusedWithARemedy) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const auto size = [&] { return random() >> (random() % 64); };
  for (int i = 0; i < 5000; ++i) {
    ModelShape shape = shape_of(static_cast<uint32_t>(1 + random() % (1 << 30)));
    if (random() % 2) shape.layers[1].window = static_cast<uint32_t>(1 + random() % 5000);
    ContextRequest request{.n_ctx = random() % 3 ? size() % (uint64_t{1} << 31) : 0,
                           .kv_dram_bytes = random() % 2 ? size() % (uint64_t{1} << 46) : 0,
                           .chunk_rows = static_cast<uint32_t>(1 + random() % 8192),
                           .allow_untrained = random() % 2 == 0,
                           .n_threads = static_cast<uint32_t>(1 + random() % 64),
                           .weight_bytes = size() % (uint64_t{1} << 40),
                           .available_bytes = size() % (uint64_t{1} << 40)};
    try {
      const ContextPlan plan = plan_context(shape, request);
      const uint64_t buffers = walk_buffer_bytes(shape, plan.chunk_rows, request.n_threads);
      ASSERT_LE(plan.kv.slot_bytes + request.weight_bytes + buffers, request.available_bytes);
      ASSERT_GE(plan.n_ctx, 1u);
      ASSERT_GE(plan.chunk_rows, 1u);
      ASSERT_LE(plan.chunk_rows, plan.n_ctx);
      ASSERT_TRUE(request.n_ctx == 0 || plan.n_ctx == request.n_ctx);
      ASSERT_TRUE(request.kv_dram_bytes == 0 || plan.kv.slot_bytes <= request.kv_dram_bytes);
      ASSERT_GE(plan.kv.slot_bytes, kv_bytes_for_context(shape, request.k_codec, request.v_codec,
                                                         plan.n_ctx, plan.chunk_rows));
    } catch (const Error& error) {
      ASSERT_FALSE(error.remedy().empty()) << error.what();
      ASSERT_FALSE(error.where().empty()) << error.what();
    }
  }
}

std::string prompt_remedy(uint64_t n_prompt, uint64_t n_ctx, uint64_t n_ctx_train) {
  try {
    check_prompt_fits(n_prompt, n_ctx, n_ctx_train);
    return "fits";
  } catch (const ContextLengthError& error) {
    EXPECT_EQ(error.code(), ErrorCode::kContextLengthExceeded);
    EXPECT_EQ(exit_code(error.code()), 3);
    EXPECT_EQ(error_code_name(error.code()), "context_length_exceeded");
    EXPECT_EQ(error.n_prompt_tokens(), n_prompt);
    EXPECT_EQ(error.n_ctx(), n_ctx);
    says(error.what(), "context_length_exceeded");
    says(error.what(), "exceeds the available context size");
    says(error.what(), std::to_string(n_prompt));
    says(error.what(), std::to_string(n_ctx));
    return error.remedy();
  }
}

TEST(ContextSize, APromptNeedsRoomForOneTokenOfAnswer) {
  EXPECT_EQ(prompt_remedy(99, 100, 8192), "fits");
  EXPECT_EQ(prompt_remedy(100, 100, 8192), "raise the context to at least -c 128");
  EXPECT_EQ(prompt_remedy(8190, 100, 8192), "raise the context to at least -c 8192");
  EXPECT_EQ(prompt_remedy(8190, 100, 8191), "raise the context to -c 8191");
  EXPECT_EQ(prompt_remedy(8192, 100, 8192),
            "shorten the prompt to fewer than 8192 tokens and raise the context to -c 8192");
  EXPECT_EQ(prompt_remedy(8192, 8192, 8192), "shorten the prompt to fewer than 8192 tokens");
  EXPECT_EQ(prompt_remedy(30000, 20000, 8192), "shorten the prompt to fewer than 20000 tokens");
}

}  // namespace
}  // namespace strata::engine

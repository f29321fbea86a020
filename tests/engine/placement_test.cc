// An engine that is told where everything lives: it reserves that, answers the same, and refuses
// what cannot be.
#include "engine/placement.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/context_size.h"
#include "engine/dram_budget.h"
#include "engine/engine.h"
#include "engine/generator.h"
#include "engine/prompt_lookup.h"
#include "tests/engine/mebibyte.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"
#include "tests/engine/tiny_engine.h"
#include "tests/sanitizer.h"

namespace strata::engine {
namespace {

constexpr uint32_t kLayers = 6, kPlacedContext = 4096;

class PlacementTest : public ::testing::Test {
 protected:
  explicit PlacementTest(const std::string& architecture = "llama") {
    testing::SmallModelOptions options;
    options.architecture = architecture;
    options.n_layers = kLayers;
    options.head_dim = 32;
    options.vocab_size = testing::kLetterVocabulary;
    options.n_ctx_train = 1 << 14;
    testing::SmallModel model = testing::make_small_model(options);
    testing::set_letters(model);
    testing::draw_weights(model, 3);
    path_ = folder_.write("model.gguf", model.bytes());
  }
  EngineOptions options() const {
    EngineOptions options;
    options.model_path = path_;
    options.n_ctx = kPlacedContext;
    options.n_threads = 1;
    options.nvme_directory = folder_.path("spill");
    return options;
  }
  Engine opened() const { return Engine::open(options()); }
  /// Layers streamed whole, by either piece and not at all, and of K and V little more than the
  /// least in DRAM.
  Placement spread(const Engine& engine) const {
    Placement placement;
    placement.n_ctx = kPlacedContext;
    placement.chunk_rows = 128;
    constexpr PieceSet kKinds[] = {kNoPiece, kWholeLayer, {.attention = true}, {.ffn = true}};
    for (uint32_t i = 0; i < kLayers; ++i) placement.streamed.push_back(kKinds[i % 4]);
    placement.kv_dram_bytes = least(engine, placement) + kMiB;
    return placement;
  }
  static uint64_t least(const Engine& engine, const Placement& placement) {
    ContextRequest request;
    request.chunk_rows = placement.chunk_rows;
    request.k_codec = placement.k_codec;
    request.v_codec = placement.v_codec;
    return smallest_spilling_dram(engine.spec().shape, kv_context(request, placement.n_ctx));
  }
  static std::vector<TokenId> answer(Engine& engine) {
    engine.load({});
    Sequence sequence = engine.cache().make_sequence();
    std::vector<TokenId> prompt;
    for (uint32_t i = 0; i < 3000; ++i) prompt.push_back(letter_of(i));
    GenerationRequest request;
    request.prompt = prompt;
    request.vocab_size = engine.spec().shape.vocab_size;
    request.n_ctx = kPlacedContext;
    request.n_predict = 24;
    request.chunk_rows = engine.context().chunk_rows;
    request.sampler.temperature = 1.5;  // many likely tokens each: a wrong bit soon shows
    request.sampler.seed = 7;
    request.ignore_eos = true;
    return generate(engine.walk(), sequence, engine.tokenizer(), request).tokens;
  }
  static TokenId letter_of(uint32_t i) {
    return testing::kLetterA + static_cast<TokenId>(i * i / 7 % 26);
  }
  testing::TestFolder folder_;
  std::string path_;
};

TEST_F(PlacementTest, DraftsComeByThemselvesWhereMemoryHoldsThem) {
  EngineOptions given = options();
  given.n_draft_max = std::nullopt;
  const Engine whole = Engine::open(given);
  EXPECT_EQ(whole.n_draft_max(), kDraftTokens);
  // Nothing goes to disk to make room for them.
  ContextRequest held = whole.limits();
  held.chunk_rows = whole.context().chunk_rows;
  EngineOptions tight = given;
  tight.dram_bytes = kProcessBytes + whole.weight_plan().total_bytes() +
                     whole.context().kv.dram_bytes() + buffer_bytes(whole.spec().shape, held);
  EXPECT_EQ(Engine::open(tight).n_draft_max(), kDraftTokens);
  tight.dram_bytes -= 1;
  EXPECT_EQ(Engine::open(tight).n_draft_max(), 0u);
  held.n_draft_max = 0;
  tight.dram_bytes = kProcessBytes + whole.weight_plan().total_bytes() +
                     whole.context().kv.dram_bytes() + buffer_bytes(whole.spec().shape, held);
  EXPECT_FALSE(Engine::open(tight).reads_disk());
  tight.dram_bytes -= 1;
  EXPECT_TRUE(Engine::open(tight).reads_disk());
  // Nor does a context that nobody chose become shorter.
  tight.n_ctx = 0;
  tight.nvme_directory.clear();
  for (const bool may_draft : {false, true}) {
    tight.n_draft_max = may_draft ? std::nullopt : std::optional(0u);
    const Engine chosen = Engine::open(tight);
    if (!may_draft) held.n_ctx = chosen.context().n_ctx;
    EXPECT_EQ(chosen.context().n_ctx, held.n_ctx);
    EXPECT_LT(chosen.context().n_ctx, chosen.spec().shape.n_ctx_train);
    EXPECT_EQ(chosen.n_draft_max(), 0u);
  }
  given.placement = spread(whole);
  const Engine spilling = Engine::open(given);
  EXPECT_EQ(spilling.n_draft_max(), kDraftTokens);

  ContextRequest request = spilling.limits();
  request.n_ctx = kPlacedContext;
  request.chunk_rows = given.placement->chunk_rows;
  const uint64_t with_drafts = buffer_bytes(spilling.spec().shape, request);
  request.n_draft_max = 0;
  const uint64_t without = buffer_bytes(spilling.spec().shape, request);
  EXPECT_EQ(with_drafts - without,
            kDraftTokens * testing::kLetterVocabulary * 4 + PromptLookup::bytes(kPlacedContext));
  given.dram_bytes = kProcessBytes + spilling.weight_plan().total_bytes() +
                     given.placement->kv_dram_bytes + with_drafts;
  EXPECT_EQ(Engine::open(given).n_draft_max(), kDraftTokens);
  given.dram_bytes -= with_drafts - without;
  EXPECT_EQ(Engine::open(given).n_draft_max(), 0u);
  given.n_draft_max = kDraftTokens;  // who names a number gets it or nothing
  testing::expect_error([&] { return Engine::open(given); }, ErrorCode::kDoesNotFit, "buffers");
  given.dram_bytes = 0;
  given.n_draft_max = 5;
  EXPECT_EQ(Engine::open(given).n_draft_max(), 5u);
  given.n_draft_max = 0;
  EXPECT_EQ(Engine::open(given).n_draft_max(), 0u);
}

TEST_F(PlacementTest, IsWhatIsReserved) {
  Engine engine = opened();
  const Placement placement = spread(engine);
  engine.place(placement);
  EXPECT_EQ(engine.weight_plan().streamed, placement.streamed);
  EXPECT_EQ(engine.context().n_ctx, kPlacedContext);
  EXPECT_EQ(engine.context().chunk_rows, 128u);
  EXPECT_TRUE(engine.context().kv.is_spilling());
  EXPECT_EQ(engine.context().kv.dram_bytes(), placement.kv_dram_bytes);

  EngineOptions given = options();
  given.n_ctx = 64;  // a placement's own counts
  given.placement = placement;
  given.placement->k_codec = KvCodec::kQ8_0;
  given.placement->kv_dram_bytes = 0;
  const Engine whole = Engine::open(given);
  EXPECT_EQ(whole.context().n_ctx, kPlacedContext);
  EXPECT_EQ(whole.options().k_codec, KvCodec::kQ8_0);
  EXPECT_FALSE(whole.context().kv.is_spilling());
}

TEST_F(PlacementTest, ChangesNoBitOfAnAnswer) {
  Engine by_hand = opened();
  ASSERT_FALSE(by_hand.context().kv.is_spilling());
  const std::vector<TokenId> expected = answer(by_hand);
  for (const uint32_t chunk : {32u, 128u, 1024u})
    for (const bool spills : {false, true}) {
      if (sanitizer::kAny && chunk != 128) continue;
      SCOPED_TRACE(::testing::Message() << chunk << ' ' << spills);
      Engine engine = opened();
      Placement placement = spread(engine);
      placement.chunk_rows = chunk;
      placement.kv_dram_bytes = spills ? least(engine, placement) + kMiB / 4 : 0;
      engine.place(placement);
      EXPECT_EQ(answer(engine), expected);
      EXPECT_EQ(engine.cache().store().transfer_counts().written_bytes > 0, spills);
      EXPECT_GT(engine.model().read_counts().read_bytes, 0u);
    }
}

TEST_F(PlacementTest, WhatCannotRunIsRefusedByItsField) {
  Engine engine = opened();
  struct Case {
    std::function<void(Placement&)> change;
    ErrorCode code;
    const char* message;
    const char* where;
  };
  const Case cases[] = {
      {[](Placement& p) { p.streamed.pop_back(); }, ErrorCode::kUsage, "of 5 layers", "layers"},
      {[](Placement& p) { p.streamed.clear(); }, ErrorCode::kUsage, "of 0 layers", "layers"},
      {[](Placement& p) { p.n_ctx = 0; }, ErrorCode::kUsage, "found 0", "n_ctx"},
      {[](Placement& p) { p.n_ctx = 1 << 15; }, ErrorCode::kUsage, "trained for", "n_ctx"},
      {[](Placement& p) { p.n_ctx = ~0u; }, ErrorCode::kUsage, "found 4294967295", "n_ctx"},
      {[](Placement& p) { p.chunk_rows = 0; }, ErrorCode::kDoesNotFit, "found 0", "chunk_rows"},
      {[](Placement& p) { p.chunk_rows = ~0u; }, ErrorCode::kDoesNotFit, "rows", "chunk_rows"},
      {[](Placement& p) { p.kv_dram_bytes = 1; }, ErrorCode::kDoesNotFit, "a step needs",
       "kv_dram_bytes"},
      {[](Placement& p) { p.kv_dram_bytes = ~uint64_t{0}; }, ErrorCode::kDoesNotFit, "free",
       "kv_dram_bytes"},
      {[](Placement& p) { p.resident.assign(kLayers, kWholeLayer); }, ErrorCode::kUsage,
       "of a device", "device"},
  };
  for (const Case& of : cases) {
    Placement placement = spread(engine);
    of.change(placement);
    testing::expect_error([&] { engine.place(placement); }, of.code, of.message, of.where);
    EXPECT_EQ(engine.weight_plan().n_streamed(), 0u);  // nothing has changed
    EXPECT_FALSE(engine.context().kv.is_spilling());
  }
}

TEST_F(PlacementTest, BudgetsStayLimits) {
  const Placement placement = spread(opened());
  struct Case {
    std::function<void(EngineOptions&)> change;
    const char* message;
  };
  const Case cases[] = {
      {[](EngineOptions& o) { o.dram_bytes = 60 * kMiB; }, "--dram leaves them"},
      {[](EngineOptions& o) { o.weights_dram_bytes = 40'000; }, "--weights-dram allows"},
      {[&](EngineOptions& o) { o.kv_dram_bytes = placement.kv_dram_bytes - 1; }, "--kv-dram"},
      {[](EngineOptions& o) { o.nvme_budget_bytes = kMiB; }, "the spill file may have"},
      {[](EngineOptions& o) { o.nvme_directory.clear(); }, "there is no spill file"},
  };
  for (const Case& of : cases) {
    EngineOptions given = options();
    given.placement = placement;
    of.change(given);
    testing::expect_error([&] { Engine::open(given); }, ErrorCode::kDoesNotFit, of.message);
  }
}

TEST_F(PlacementTest, ABudgetThatIsTooSmallIsRefusedWithTheSmallestThatWouldDo) {
  const Engine opened_engine = opened();
  const Placement placement = spread(opened_engine);
  const ModelShape& shape = opened_engine.spec().shape;
  const WeightSizes sizes = weight_sizes(opened_engine.file(), opened_engine.spec());
  ContextRequest request = opened_engine.limits();
  request.n_ctx = placement.n_ctx;
  request.chunk_rows = placement.chunk_rows;
  const uint64_t wanted = weight_plan_of(sizes, placement.streamed).total_bytes() +
                          buffer_bytes(shape, request) + placement.kv_dram_bytes;
  const auto refusal = [&](bool is_budgeted, uint64_t available, uint64_t free_bytes) {
    request.is_budgeted = is_budgeted;
    request.available_bytes = available;
    try {
      (void)place_memory(sizes, shape, shape, request, 0, free_bytes, placement);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
      return std::string(error.what()) + " [" + error.where() + "] " + error.remedy();
    }
    return std::string();
  };
  EXPECT_EQ(refusal(true, wanted, wanted), "");
  const std::string budget = refusal(true, wanted - 1, wanted);
  EXPECT_NE(budget.find("--dram leaves them"), std::string::npos) << budget;
  EXPECT_NE(budget.find("] use --dram " + size_argument(wanted + kProcessBytes) + ", or plan anew"),
            std::string::npos)
      << budget;
  // A larger budget would not do where the machine has no more free: both numbers stand there.
  for (const bool is_budgeted : {true, false}) {
    const std::string little = refusal(is_budgeted, wanted - 1, wanted - 1);
    EXPECT_NE(little.find("this machine has free"), std::string::npos) << little;
    EXPECT_NE(little.find("] free memory (" + bytes_text(wanted + kProcessBytes) + " are wanted, " +
                          bytes_text(wanted - 1) + " are free)"),
              std::string::npos)
        << little;
    EXPECT_EQ(little.find("use --dram"), std::string::npos) << little;
  }
  EXPECT_NE(refusal(true, kMiB, 2 * kMiB).find("[--dram] free memory ("), std::string::npos);
}

TEST(PlacementOnDevice, IsWhatIsReservedThere) {
  DeviceNeeds needs;
  needs.buffer_bytes = 1000;
  needs.head_bytes = 500;
  needs.layer_bytes = {256, 512, 256};
  needs.kv_bytes = 10 * 64;
  needs.block_bytes = 64;
  Placement placement;
  placement.resident = {kWholeLayer, kNoPiece, kWholeLayer};
  placement.kv_hbm_bytes = 3 * 64 + 5;
  const DevicePlan plan = place_on_device(needs, 4000, placement);
  EXPECT_EQ(plan.resident, placement.resident);
  EXPECT_EQ(plan.slot_bytes, 512u);
  EXPECT_EQ(plan.kv_bytes, 3u * 64);
  EXPECT_EQ(plan.hbm_bytes, 1000u + 500 + 2 * 512 + 2 * 256 + 3 * 64);
  placement.kv_hbm_bytes = 4000 - (plan.hbm_bytes - plan.kv_bytes);
  EXPECT_EQ(place_on_device(needs, 4000, placement).kv_bytes, needs.kv_bytes);
  ++placement.kv_hbm_bytes;
  testing::expect_error([&] { place_on_device(needs, 4000, placement); }, ErrorCode::kDoesNotFit,
                        "for copies of K and V", "kv_hbm_bytes");
  testing::expect_error([&] { place_on_device(needs, 3000, placement); }, ErrorCode::kDoesNotFit,
                        "of the device's memory", "layers");
  placement.resident.pop_back();
  testing::expect_error([&] { place_on_device(needs, 4000, placement); }, ErrorCode::kUsage,
                        "of 2 layers", "layers");
}

}  // namespace
}  // namespace strata::engine

// Every allocation failure of the engine: loading, tokenising, reading and answering from memory,
// from disk and with chosen blocks, templates, grammars, plans.
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/checked_math.h"
#include "cpu_attn/kernels.h"
#include "engine/engine.h"
#include "engine/generator.h"
#include "engine/grammar/answer_constraint.h"
#include "engine/template/chat_template.h"
#include "tests/allocation/refused_memory.h"
#include "tests/engine/letter_requests.h"
#include "tests/tiers/fresh_folder.h"

namespace strata::engine {
namespace {

using strata::testing::expect_survives_refusals;
using strata::testing::Work;
using testing::make_small_model;
using testing::SmallModel;
using testing::TemporaryModel;
using testing::TestFolder;

constexpr uint32_t kContext = 2048;
constexpr uint32_t kPrompt = 800;  // three whole extents

SmallModel model_of(const std::string& architecture) {
  SmallModel model = make_small_model({.architecture = architecture,
                                       .n_layers = 6,
                                       .d_ff = 256,
                                       .vocab_size = testing::kLetterVocabulary,
                                       .n_ctx_train = kContext});
  testing::draw_weights(model, 7);
  testing::set_letters(model);
  return model;
}

EngineOptions options_of(const TemporaryModel& model) {
  EngineOptions options;
  options.model_path = model.path();
  options.n_ctx = kContext;
  options.chunk_rows = 64;
  options.n_threads = 1;  // beside other tests, two would wait for each other
  options.io = tiers::IoChoice::kThreads;
  return options;
}

std::string answer_of(Engine& engine, uint32_t n_prompt) {
  Sequence sequence = engine.cache().make_sequence();
  std::mt19937 random(5);
  const auto prompt = testing::drawn_tokens(random, n_prompt);
  GenerationRequest request = testing::endless_request(prompt, 20, kContext);
  request.chunk_rows = 64;
  request.attention = engine.attention();
  return generate(engine.walk(), sequence, engine.tokenizer(), request).text;
}

/// Slots and frames that are free, and places of the spill file.
std::string free_of(Engine& engine) {
  const tiers::BlockStore& store = engine.cache().store();
  std::string text = std::to_string(store.pool().n_free()) + " slots";
  if (store.transfers() != nullptr)
    text += ", " + std::to_string(store.transfers()->n_free()) + " frames";
  if (store.block_transfers() != nullptr)
    text += ", " + std::to_string(store.block_transfers()->n_free()) + " block frames";
  if (store.places() != nullptr)
    text += ", " + std::to_string(store.places()->used_bytes()) + " bytes used";
  return text;
}

/// Once nothing is on its way any more.
std::string left_in(Engine& engine) {
  tiers::BlockStore& store = engine.cache().store();
  while (store.transfers() != nullptr && store.wait_for_transfer()) continue;
  return free_of(engine);
}

void expect_answers(const EngineOptions& options, const std::string& name) {
  Engine engine = Engine::open(options);
  engine.load({});
  expect_survives_refusals({.name = name,
                            .run = [&] { return answer_of(engine, 100); },
                            .left = [&] { return left_in(engine); }});
}

uint64_t weight_bytes(const EngineOptions& options) {
  Engine engine = Engine::open(options);
  engine.load({});
  return engine.model().weight_bytes();
}

/// A walk whose K and V do not fit into memory: of 420 positions there is room.
class SpillingWalk {
 public:
  explicit SpillingWalk(const SmallModel& model, std::optional<index::Method> method = {})
      : loaded_(model),
        selectors_(method
                       ? std::make_unique<index::SelectorSource>(
                             *method, index_shape(shape(), KvCodec::kF16, KvCodec::kF16, kContext),
                             cpu_attn::choose_kernels(""))
                       : nullptr),
        cache_(shape(), options(), spill()),
        pool_(1),
        walk_(loaded_.model(), cache_, cpu_attn::choose_kernels(""), pool_, kChunk) {
    if (method) walk_.select_by({.budget = {index::Budget::Kind::kTokens, 256}}, kContext);
  }

  /// Of a prompt that is read exactly, and tokens that may be selected.
  std::string logits() {
    Sequence sequence = cache_.make_sequence();
    prefill(walk_, sequence, std::vector<int32_t>(kPrompt, 5), kChunk);
    std::string text;
    for (int32_t token = 3; token < 8; ++token) {
      const StepRow row{&sequence, token, true};
      walk_.step({&row, 1}, selectors_ ? Attention::kSelected : Attention::kExact);
      text += std::to_string(walk_.logits(0)[7]) + " ";
    }
    return text;
  }
  std::string left() {
    tiers::BlockStore& store = cache_.store();
    while (store.wait_for_transfer()) continue;
    return std::to_string(store.pool().n_free()) + " slots, " +
           std::to_string(store.transfers()->n_free()) + " frames, " +
           std::to_string(store.block_transfers()->n_free()) + " block frames, " +
           std::to_string(store.places()->used_bytes()) + " bytes of the file used";
  }
  bool has_spilled() const { return cache_.store().counts().extents_read > 0; }

 private:
  static constexpr uint32_t kChunk = 64;
  const ModelShape& shape() const { return loaded_.model().shape(); }
  KvCacheOptions options() const {
    KvCacheOptions kv;
    kv.chunk_rows = kChunk;
    kv.n_ctx = kContext;
    kv.budget_bytes = kv_bytes_for_context(shape(), kv.k_codec, kv.v_codec, 420, kChunk);
    kv.selectors = selectors_.get();
    return kv;
  }
  std::unique_ptr<tiers::Spill> spill() const {
    const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape().head_dim);
    const uint64_t place_bytes =
        round_up(uint64_t{shape().layers[0].n_kv_heads} * kExtentBlocks * layout.block_bytes,
                 tiers::kPlaceAlignment);
    std::vector<std::string> notices;
    return tiers::open_spill({.directory = disk_.path(),
                              .budget_bytes = 200 * place_bytes,
                              .place_bytes = place_bytes,
                              .n_frames = 24,
                              .block_bytes = layout.block_bytes,
                              .n_block_frames = 32,
                              .io = tiers::IoChoice::kThreads},
                             notices);
  }

  const tiers::FreshFolder disk_;
  testing::TinyEngine loaded_;
  std::unique_ptr<index::SelectorSource> selectors_;
  KvCache cache_;
  ThreadPool pool_;
  Walk walk_;
};

void expect_spills(SpillingWalk& walk, const std::string& name, uint64_t n) {
  expect_survives_refusals(
      {.name = name, .run = [&] { return walk.logits(); }, .left = [&] { return walk.left(); }}, n);
  EXPECT_TRUE(walk.has_spilled());
}

TEST(FailingAllocations, OfLoading) {
  for (const char* architecture : {"llama", "gemma3"}) {
    const TemporaryModel model(model_of(architecture));
    const TestFolder disk;
    for (const bool is_streamed : {false, true}) {
      EngineOptions options = options_of(model);
      options.n_threads = 2;  // weights are packed by all of them
      options.reads_saved = is_streamed;
      if (is_streamed) options.weights_dram_bytes = weight_bytes(options) * 9 / 10;
      expect_survives_refusals(
          {.name = std::string("loading ") + architecture + (is_streamed ? ", streamed" : ""),
           .run =
               [&] {
                 Engine engine = Engine::open(options);
                 engine.load({});
                 return std::to_string(engine.model().weight_bytes());
               }},
          40);
    }
  }
}

TEST(FailingAllocations, OfTokenising) {
  const TemporaryModel model(model_of("llama"));
  Engine engine = Engine::open(options_of(model));
  const std::string text = "the quick brown fox \xC3\xA9 <s> jumps over the lazy dog";
  expect_survives_refusals({.name = "tokenising", .run = [&] {
                              std::string ids;
                              for (const TokenId id : engine.tokenizer().encode(text, {}))
                                ids += std::to_string(id) + " ";
                              return ids;
                            }});
}

TEST(FailingAllocations, OfAnAnswerFromMemory) {
  for (const char* architecture : {"llama", "gemma3"}) {
    const TemporaryModel model(model_of(architecture));
    expect_answers(options_of(model), std::string("an answer from memory, ") + architecture);
  }
}

TEST(FailingAllocations, OfAnAnswerWhoseWeightsAreStreamed) {
  const TemporaryModel model(model_of("llama"));
  EngineOptions options = options_of(model);
  options.weights_dram_bytes = weight_bytes(options) * 9 / 10;
  expect_answers(options, "an answer of streamed weights");
}

TEST(FailingAllocations, OfAnAnswerWhoseKvIsSpilled) {
  SpillingWalk walk(model_of("llama"));
  expect_spills(walk, "an answer with a spill file", 40);
}

TEST(FailingAllocations, OfAnAnswerThatChoosesBlocks) {
  SpillingWalk walk(model_of("llama"), index::Method::kQuest);
  expect_spills(walk, "an answer that chooses blocks", 40);
}

TEST(FailingAllocations, OfATemplate) {
  const std::string source =
      "{% for m in messages %}<{{ m.role }}>{{ m.content | trim | upper }}{% endfor %}"
      "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}"
      "{{ ns.n }}{{ messages | tojson }}";
  expect_survives_refusals(
      {.name = "a template",
       .run =
           [&] {
             return ChatTemplate::parse(source).render({{"system", " S "}, {"user", "hi"}}, {});
           }},
      200);
}

TEST(FailingAllocations, OfAGrammar) {
  const TemporaryModel model(model_of("llama"));
  Engine engine = Engine::open(options_of(model));
  const auto schema = nlohmann::ordered_json::parse(
      R"({"type":"object","properties":{"a":{"type":"array","items":{"enum":["b","c"]}},
          "d":{"type":"integer"}},"required":["a"],"additionalProperties":false})");
  expect_survives_refusals({.name = "a grammar",
                            .run =
                                [&] {
                                  const auto table = std::make_shared<TokenTable>(
                                      engine.tokenizer(), testing::kLetterVocabulary);
                                  AnswerConstraint constraint(table, compile_json_schema(schema));
                                  return std::to_string(constraint.allowed().size());
                                }},
                           200);
}

}  // namespace
}  // namespace strata::engine

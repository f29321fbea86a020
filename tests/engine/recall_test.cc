#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include "base/error.h"
#include "engine/generator.h"
#include "engine/prompt_tokens.h"
#include "tests/engine/recall_fixture.h"
#include "tests/sanitizer.h"

namespace strata::engine {
namespace {

using makers::RecallModel;
using makers::RecallOptions;
using makers::RecallQuestion;
using makers::RecallTask;
using testing::RecallRun;
using testing::RecallSetup;
using testing::Words;

constexpr uint64_t kRecallSeed = 7;
constexpr uint32_t kKeys = 11;  // at depths 0, 0.1 .. 1.0
constexpr uint32_t kAnswer = 5;

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const KernelTable* table : cpu_attn::available_kernels()) names.emplace_back(table->name);
  return names;
}

/// The code of the error that `act` throws.
template <class Act>
std::optional<ErrorCode> refusal(const Act& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}

/// Reads a text with the task's passages, n_tokens with its begin token, and asks every question.
void expect_answers(const RecallModel& model, const RecallTask& task, uint32_t n_tokens,
                    const RecallSetup& setup = {}) {
  SCOPED_TRACE(setup_text(setup) + ", " + std::to_string(n_tokens) + " tokens");
  const auto text = make_recall_text(model, n_tokens - 1, task.passages, kRecallSeed);
  RecallRun run(model, n_tokens, setup);
  run.read(text.words);
  for (const RecallQuestion& question : task.questions)
    EXPECT_EQ(run.ask(question.ask, question.answer.size()), question.answer)
        << model.text(question.ask) << " at word " << text.passage_begin[question.passages[0]];
}

void expect_five_words_at_every_depth(uint32_t n_tokens, const RecallSetup& setup,
                                      const RecallOptions& options = makers::recall_variant()) {
  const RecallModel model = RecallModel::make(options);
  expect_answers(model, make_recall_task(model, kKeys, kAnswer, kRecallSeed), n_tokens, setup);
}

TEST(Recall, FiveWordsAreRightAtEveryDepthOf512Tokens) {
  for (const std::string& isa : isas())
    for (const uint32_t n_threads : {1u, 2u})
      for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
        expect_five_words_at_every_depth(512, {isa, n_threads, codec});
}

TEST(Recall, FiveWordsAreRightAtEveryDepthOfFullLength4096) {
  for (const std::string& isa : isas()) {
    expect_five_words_at_every_depth(4096, {isa, 1, KvCodec::kF16});
    expect_five_words_at_every_depth(4096, {isa, 2, KvCodec::kQ8_0});
    if (isa == "scalar") continue;  // seconds each
    expect_five_words_at_every_depth(4096, {isa, 1, KvCodec::kQ8_0});
    expect_five_words_at_every_depth(4096, {isa, 2, KvCodec::kF16});
  }
}

TEST(Recall, FiveWordsAreRightAtEveryDepthOf32KTokens) {
  const RecallOptions options{.n_kv_heads = 1};  // half the work
  for (const std::string& isa : isas()) {
    if (isa == "scalar") continue;  // minutes
    expect_five_words_at_every_depth(32768, {isa, 1, KvCodec::kF16}, options);
    expect_five_words_at_every_depth(32768, {isa, 2, KvCodec::kQ8_0}, options);
  }
}

TEST(Recall, FiveWordsAreRightAtEveryDepthOf32KTokensOnDisk) {
  const RecallOptions options{.n_kv_heads = 1};
  const testing::TestFolder folder;
  RecallSetup setup{.n_threads = 2, .chunk_rows = 256, .dram_positions = 1600};  // 5 %
  expect_five_words_at_every_depth(32768, setup, options);
  setup.spill_directory = folder.path();
  for (const auto io : {tiers::IoChoice::kAuto, tiers::IoChoice::kThreads}) {
    setup.io = io;
    expect_five_words_at_every_depth(32768, setup, options);
  }
}

TEST(Recall, EveryOneOfManyKeysIsAnswered) {
  const RecallModel model = RecallModel::make(makers::recall_variant());
  expect_answers(model, make_recall_task(model, 80, 1, kRecallSeed), 4096);
}

TEST(Recall, AKeyOfTwoWordsIsToldFromKeysThatShareOne) {
  const RecallModel model = RecallModel::make(makers::key_value_variant());
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    expect_answers(model, make_key_value_task(model, 12, kRecallSeed), 4096, {"", 2, codec});
}

TEST(Recall, ChainsOfHopsAreFollowedThroughEveryLayer) {
  const RecallModel model = RecallModel::make(makers::multi_hop_variant());
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    expect_answers(model, make_chain_task(model, 4, kAnswer, kRecallSeed), 4096, {"", 2, codec});
}

TEST(Recall, ChainsOfHopsAreFollowedThrough32KTokens) {
  const RecallModel model = RecallModel::make(makers::multi_hop_variant());
  expect_answers(model, make_chain_task(model, 4, kAnswer, kRecallSeed), 32768);
}

TEST(Recall, EverySizeOfModelAnswers) {
  for (const RecallOptions& options : {
           RecallOptions{.vocab_size = 293, .n_kv_heads = 1, .seed = 2},
           RecallOptions{.n_kv_heads = 3, .head_dim = 96, .seed = 3},
           RecallOptions{.vocab_size = 2048, .n_kv_heads = 4, .group = 3, .head_dim = 128},
           RecallOptions{.n_layers = 4, .n_kv_heads = 1, .group = 2, .asks_by_alias = true},
           RecallOptions{.n_layers = 5, .n_kv_heads = 2, .seed = 4},
           RecallOptions{.n_layers = 2, .n_kv_heads = 8, .group = 5, .asks_by_alias = true},
           RecallOptions{.n_kv_heads = 1, .group = 3, .head_dim = 256, .key_words = 2},
       }) {
    const RecallModel model = RecallModel::make(options);
    const bool is_plain = options.n_layers == 2 && !options.asks_by_alias;
    SCOPED_TRACE(std::to_string(options.n_layers) + " layers, " +
                 std::to_string(options.n_kv_heads) + " KV heads, group " +
                 std::to_string(options.group) + ", head_dim " + std::to_string(options.head_dim));
    expect_answers(model,
                   is_plain ? make_recall_task(model, 1, 3, kRecallSeed)
                            : make_chain_task(model, 1, 1, kRecallSeed),
                   400);
  }
}

/// The control: what a test of lost blocks relies on.
TEST(Recall, ABlockLostInAnyLayerAndKvHeadIsAnAnswerLost) {
  const RecallModel model = RecallModel::make(makers::multi_hop_variant());
  const RecallTask task = make_chain_task(model, 4, kAnswer, kRecallSeed);
  const auto text = make_recall_text(model, 4095, task.passages, kRecallSeed);
  RecallRun run(model, 4096);
  run.read(text.words);
  std::vector<std::vector<uint32_t>> n_lost(model.options().n_layers,
                                            std::vector<uint32_t>(model.options().n_kv_heads));
  for (const RecallQuestion& question : task.questions) {
    for (uint32_t layer = 0; layer < model.options().n_layers; ++layer) {
      // Layer 0 finds the key itself; a hop finds the second word of its passage.
      const uint32_t found = layer == 0 ? text.passage_begin[question.passages[0]]
                                        : text.passage_begin[question.passages[layer - 1]] + 1;
      // With the first block the first token goes too: near misses answer, layer 0's perhaps
      // rightly.
      if (found + 1 < kBlockPositions) continue;
      for (uint32_t kv_head = 0; kv_head < model.options().n_kv_heads; ++kv_head) {
        ++n_lost[layer][kv_head];
        run.without_block(layer, kv_head, found, [&] {
          EXPECT_EQ(run.ask(question.ask, 1), Words{model.n_words()})
              << "layer " << layer << ", KV head " << kv_head << ", word " << found;
        });
      }
    }
    EXPECT_EQ(run.ask(question.ask, kAnswer), question.answer) << "all blocks are back";
  }
  for (const std::vector<uint32_t>& of_layer : n_lost)
    for (const uint32_t n : of_layer) EXPECT_GE(n, 2u);
}

TEST(Recall, ABlockLostElsewhereChangesNoAnswer) {
  const RecallModel model = RecallModel::make(makers::recall_variant());
  const RecallTask task = make_recall_task(model, kKeys, kAnswer, kRecallSeed);
  const auto text = make_recall_text(model, 4095, task.passages, kRecallSeed);
  RecallRun run(model, 4096);
  run.read(text.words);
  for (uint32_t key = 0; key < kKeys; ++key) {
    const uint32_t found = text.passage_begin[key] + 1;
    for (uint32_t kv_head = 0; kv_head < model.options().n_kv_heads; ++kv_head) {
      run.without_block(1, kv_head, found, [&] {
        for (uint32_t asked = 0; asked < kKeys; ++asked) {
          const RecallQuestion& question = task.questions[asked];
          const Words answer = run.ask(question.ask, kAnswer);
          EXPECT_EQ(answer == question.answer, asked != key)
              << "lost " << key << " asked " << asked;
        }
      });
    }
  }
}

/// Finer than the greedy answer: 1% of the attention in a wrong place shows.
TEST(Recall, TheAnswersLogitIsThatOfAWholeCode) {
  for (const RecallOptions& options : {makers::recall_variant(), makers::multi_hop_variant()}) {
    const RecallModel model = RecallModel::make(options);
    const RecallTask task = make_chain_task(model, 2, 1, kRecallSeed);
    const auto n_words = static_cast<uint32_t>(sanitizer::rounds(1023, 255));
    const auto text = make_recall_text(model, n_words, task.passages, kRecallSeed);
    // A code passes `n_layers` values, each rounded to f16 (q8_0: its scale is), and norms whose
    // weights take every slot for full: each empty one is 1 / kOneShare of the square.
    const double n_slots = 2.0 + options.n_layers;
    const double share = options.n_layers * (0x1p-11 + n_slots / (2 * makers::kOneShare));
    for (const std::string& isa : isas())
      for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0}) {
        RecallRun run(model, 1024, {isa, 2, codec});
        run.read(text.words);
        for (const RecallQuestion& question : task.questions)
          EXPECT_NEAR(run.logit_after(question.ask, question.answer[0]), model.answer_logit(),
                      model.answer_logit() * share)
              << isa << " " << kv_codec_name(codec);
      }
  }
}

TEST(Recall, AKeyThatTheTextLacksIsUnknown) {
  for (const RecallOptions& options : {makers::recall_variant(), makers::multi_hop_variant()}) {
    const RecallModel model = RecallModel::make(options);
    const RecallTask task = make_chain_task(model, 2, 1, kRecallSeed);
    auto text = make_recall_text(model, 1000, task.passages, kRecallSeed);
    // The first chain's passages give way to a word that nothing asks for.
    for (uint32_t i = 0; i < task.questions[1].passages[0]; ++i)
      std::fill_n(text.words.begin() + text.passage_begin[i], task.passages[i].words.size(),
                  makers::RecallCode::twin(task.passages[0].words[0]));
    RecallRun run(model, 1001);
    run.read(text.words);
    EXPECT_EQ(run.ask(task.questions[0].ask, 1), Words{model.n_words()});
    EXPECT_EQ(run.ask(task.questions[1].ask, 1), task.questions[1].answer);
  }
}

TEST(Recall, TextAndTokensMapOneToOne) {
  const RecallModel model = RecallModel::make(makers::recall_variant());
  const auto tokenizer = Tokenizer::make(read_tokenizer_spec(testing::RecallFile(model).open()));
  Words words(model.n_words());
  std::iota(words.begin(), words.end(), 0u);
  const std::string text = model.text(words);
  const std::vector<TokenId> tokens = encode_text_prompt(*tokenizer, text, true);
  ASSERT_EQ(tokens.size(), words.size() + 1);
  EXPECT_EQ(tokens[0], tokenizer->spec().bos);
  for (const uint32_t word : words) ASSERT_EQ(tokens[word + 1], model.token(word));
  EXPECT_EQ(tokenizer->decode(tokens), " " + text);
  const std::string other = "Any text\n 1 2, w1 and w2";  // no words: bytes
  EXPECT_EQ(tokenizer->decode(encode_text_prompt(*tokenizer, other, true)), " " + other);
}

TEST(Recall, TextGoesInAndTheAnswersTextComesOut) {
  const RecallModel model = RecallModel::make(makers::recall_variant());
  const RecallTask task = make_recall_task(model, kKeys, kAnswer, kRecallSeed);
  const auto text = make_recall_text(model, 500, task.passages, kRecallSeed);
  RecallRun run(model, 600);
  const auto tokenizer = Tokenizer::make(read_tokenizer_spec(run.file()));
  for (const RecallQuestion& question : task.questions) {
    const auto prompt = encode_text_prompt(
        *tokenizer, model.text(text.words) + " " + model.text(question.ask), true);
    GenerationRequest request;
    request.prompt = prompt;
    request.vocab_size = model.options().vocab_size;
    request.n_ctx = 600;
    request.n_predict = kAnswer;
    request.sampler.temperature = 0;
    Sequence sequence = run.cache().make_sequence();
    EXPECT_EQ(generate(run.walk(), sequence, *tokenizer, request).text,
              " " + model.text(question.answer));
  }
}

TEST(Recall, DifferentWordsDifferInADigit) {
  for (const uint32_t n_slices : {1u, 2u, 4u}) {
    const makers::RecallCode code(1000, 32, n_slices, kRecallSeed);
    const auto whole = static_cast<float>(code.dims());
    std::vector<std::vector<float>> codes;
    for (uint32_t word = 0; word < 1000; ++word) codes.push_back(code.of(word));
    for (uint32_t a = 0; a < codes.size(); ++a)
      for (uint32_t b = 0; b < codes.size(); ++b) {
        const float product =
            std::inner_product(codes[a].begin(), codes[a].end(), codes[b].begin(), 0.0f);
        const float most = a == b ? whole : whole - whole / static_cast<float>(code.n_digits());
        ASSERT_LE(product, most) << a << " " << b;
      }
    for (uint32_t word = 0; word < codes.size(); ++word)
      for (uint32_t d = 0; d < code.dims(); ++d) {
        ASSERT_EQ(codes[word ^ 1][d], codes[word][d] * code.twin_signs()[d]);
        ASSERT_EQ(codes[word ^ 2][d], codes[word][d] * code.alias_signs()[d]);
      }
  }
}

TEST(Recall, OnlyDistanceZeroBringsThePhasesTogether) {
  for (const RecallOptions& options : {RecallOptions{.head_dim = 64}, RecallOptions{.head_dim = 72},
                                       RecallOptions{.head_dim = 128}}) {
    const auto phases = RecallModel::make(options).phases();
    EXPECT_GE(phases.size(), 15u);
    EXPECT_LE(makers::phase_peak(phases, makers::kRecallContext), makers::kPhasePeakMax)
        << "head_dim " << options.head_dim;
  }
}

TEST(Recall, SizesThatCannotWorkAreRefused) {
  for (const RecallOptions& options : {
           RecallOptions{.vocab_size = 100},
           RecallOptions{.n_layers = 1},
           RecallOptions{.n_kv_heads = 9},
           RecallOptions{.group = 17},
           RecallOptions{.head_dim = 32},
           RecallOptions{.head_dim = 66},
           RecallOptions{.key_words = 2},
           RecallOptions{.key_words = 3},
           RecallOptions{.n_layers = 3, .group = 2, .key_words = 2},
           RecallOptions{.asks_by_alias = true},
           RecallOptions{.vocab_size = 2048, .n_kv_heads = 1, .head_dim = 64, .key_words = 2},
       }) {
    EXPECT_EQ(refusal([&] { RecallModel::make(options); }), ErrorCode::kUsage);
  }
}

TEST(Recall, PassagesThatDoNotFitAreRefused) {
  const RecallModel model = RecallModel::make({.vocab_size = 293});  // eight fours of words
  EXPECT_EQ(refusal([&] { make_recall_task(model, 2, kAnswer, kRecallSeed); }), ErrorCode::kUsage);
  const RecallTask task = make_recall_task(model, 1, kAnswer, kRecallSeed);
  EXPECT_EQ(refusal([&] { make_recall_text(model, 5, task.passages, kRecallSeed); }),
            ErrorCode::kUsage);
  EXPECT_EQ(make_recall_text(model, 6, task.passages, kRecallSeed).words, task.passages[0].words);
  const RecallTask all = make_recall_task(model, 4, 1, kRecallSeed);
  EXPECT_EQ(refusal([&] { make_recall_text(model, 9, all.passages, kRecallSeed); }),
            ErrorCode::kUsage);
}

}  // namespace
}  // namespace strata::engine

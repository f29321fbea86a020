// Guessing ahead changes no answer: with drafts and without, greedy and drawn, whatever ends it.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/answer_batch.h"
#include "engine/grammar/answer_constraint.h"
#include "engine/grammar/json_grammar.h"
#include "engine/grammar/token_table.h"
#include "engine/kv_placement.h"
#include "tests/engine/letter_requests.h"
#include "tests/engine/small_vocabulary.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine {
namespace {

using testing::drawn_model;
using testing::endless_request;
using testing::kEnd;
using testing::kLetterVocabulary;
using testing::letter;
using testing::letters;
using testing::LoadedMember;
using testing::make_chain_model;
using testing::request_of;
using testing::TinyEngine;
using testing::Tokens;
using testing::WalkSetting;
using testing::ZooWalk;

/// What a caller hears and finds, token by token.
struct HeardDraft {
  Tokens tokens;
  std::string streamed;
  std::vector<double> logprobs;
  FinishReason reason = FinishReason::kStop;
  bool context_full = false;
  std::vector<int32_t> held;  // by the sequence
  bool operator==(const HeardDraft&) const = default;
};

struct Drafted {
  HeardDraft heard;
  DraftCounts counts;
  uint64_t n_steps = 0;
  uint64_t n_timed = 0;  // of them, those without a draft
};

Drafted answer(Walk& walk, const Tokenizer& tokenizer, GenerationRequest request,
               uint32_t n_draft_max, std::function<bool(const HeardDraft&)> goes_on = {}) {
  Drafted of;
  GenerationEvents events;
  events.on_text = [&](std::string_view text) {
    of.heard.streamed += text;
    return !goes_on || goes_on(of.heard);
  };
  events.on_scores = [&](const TokenScores& scores) {
    of.heard.logprobs.push_back(scores.token.logprob);
  };
  request.n_logprobs = 0;
  request.n_draft_max = n_draft_max;
  Sequence sequence = walk.cache().make_sequence();
  const Generation result = generate(walk, sequence, tokenizer, request, events);
  EXPECT_EQ(result.text, of.heard.streamed);
  of.heard.tokens = result.tokens;
  of.heard.reason = result.finish_reason;
  of.heard.context_full = result.context_full;
  of.heard.held = sequence.tokens();
  of.counts = result.drafts;
  of.n_steps = result.times.n_decode_steps;
  of.n_timed = result.times.lone_steps.size();
  // Every step brings those of its draft that came and, where none of these ended it, one more.
  EXPECT_LE(result.times.n_decode_tokens, of.n_steps + of.counts.accepted);
  return of;
}

/// The same with drafts and without; gives the one with.
Drafted expect_same(TinyEngine& engine, const GenerationRequest& request) {
  const Drafted plain = answer(engine.walk(), engine.tokenizer(), request, 0);
  Drafted drafted = answer(engine.walk(), engine.tokenizer(), request, kDraftTokens);
  EXPECT_EQ(plain.heard, drafted.heard);
  EXPECT_EQ(plain.counts.proposed, 0u);
  EXPECT_EQ(plain.n_timed, plain.n_steps);
  EXPECT_LE(drafted.counts.accepted, drafted.counts.proposed);
  return drafted;
}

/// a b c ... z a b c ...: what a prompt of two rounds foretells.
testing::SmallModel round_model() {
  std::vector<std::pair<TokenId, TokenId>> next = {{letter('z'), letter('a')}};
  for (char c = 'a'; c < 'z'; ++c) next.emplace_back(letter(c), letter(static_cast<char>(c + 1)));
  return make_chain_model(next, 256);
}

const std::string kAlphabet = "abcdefghijklmnopqrstuvwxyz";

TEST(AnswerDraft, AQuotationTakesFewSteps) {
  TinyEngine engine(round_model(), {.n_ctx = 256, .chunk_rows = 32});
  const Tokens prompt = letters(kAlphabet + "abc");
  GenerationRequest request = request_of(prompt, 256);
  request.n_predict = 101;
  const Drafted of = expect_same(engine, request);
  EXPECT_EQ(of.counts.accepted, of.counts.proposed);
  EXPECT_EQ(of.n_timed, 1u);  // the last token, behind which none may come
  // 1 + 5 + 9 + 17 + ... tokens: drafts of 4, 8 and then 16.
  EXPECT_EQ(of.heard.tokens.size(), 101u);
  EXPECT_EQ(of.n_steps, 8u);
}

TEST(AnswerDraft, WhateverEndsItInsideADraft) {
  TinyEngine engine(round_model(), {.n_ctx = 256, .chunk_rows = 32});
  const Tokens prompt = letters(kAlphabet + "abc");
  for (uint64_t n = 0; n < 30; ++n) {
    SCOPED_TRACE(n);
    GenerationRequest request = request_of(prompt, 256);
    request.n_predict = n;
    expect_same(engine, request);
    request.n_predict = UINT64_MAX;
    request.n_ctx = prompt.size() + 1 + n;
    EXPECT_TRUE(expect_same(engine, request).heard.context_full);
  }
  for (const char* stop : {"g", "opq", "z", "za", "abcdefghijklmnopqrstuvwxyzab"}) {
    SCOPED_TRACE(stop);
    GenerationRequest request = request_of(prompt, 256);
    request.stop = {stop};
    const Drafted of = expect_same(engine, request);
    EXPECT_EQ(of.heard.reason, FinishReason::kStop);
    EXPECT_GT(of.counts.accepted, 0u);
  }
}

TEST(AnswerDraft, AnEndTokenEndsItAlthoughADraftWentOn) {
  std::vector<std::pair<TokenId, TokenId>> next = {{letter('q'), kEnd}};
  for (char c = 'a'; c < 'q'; ++c) next.emplace_back(letter(c), letter(static_cast<char>(c + 1)));
  TinyEngine engine(make_chain_model(next, 256), {.n_ctx = 256, .chunk_rows = 32});
  const Tokens goes_on = letters("abcdefghijklmnopqrstab");
  const Drafted past = expect_same(engine, request_of(goes_on, 256));
  EXPECT_EQ(past.heard.streamed, "cdefghijklmnopq");
  EXPECT_LT(past.counts.accepted, past.counts.proposed);
  // Where the end stood in the prompt, nothing behind it is guessed.
  Tokens ends = letters("abcdefghijklmnopq");
  ends.push_back(kEnd);
  for (const TokenId token : letters("abc")) ends.push_back(token);
  const Drafted before = expect_same(engine, request_of(ends, 256));
  EXPECT_EQ(before.counts.accepted, before.counts.proposed);
  EXPECT_GT(before.counts.accepted, 0u);
}

TEST(AnswerDraft, ACallbackCancelsInsideADraftAndTheSequenceGoesOn) {
  TinyEngine engine(round_model(), {.n_ctx = 256, .chunk_rows = 32});
  const Tokens prompt = letters(kAlphabet + "abc");
  for (size_t n = 1; n < 30; ++n) {
    const auto until = [n](const HeardDraft& heard) { return heard.streamed.size() < n; };
    const auto request = request_of(prompt, 256);
    const Drafted plain = answer(engine.walk(), engine.tokenizer(), request, 0, until);
    const Drafted drafted = answer(engine.walk(), engine.tokenizer(), request, kDraftTokens, until);
    EXPECT_EQ(plain.heard, drafted.heard);
    EXPECT_EQ(drafted.heard.reason, FinishReason::kCancelled);
  }
}

TEST(AnswerDraft, EverySeedAndEveryRuleOfTheSamplerDrawsTheSame) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const char* architecture : {"llama", "gemma3"}) {
    TinyEngine engine(drawn_model(architecture, 3), {.n_ctx = 256, .chunk_rows = 32});
    DraftCounts counts;
    for (int round = 0; round < 25; ++round) {
      const Tokens prompt = testing::drawn_tokens(random, 1 + testing::below(random, 120));
      GenerationRequest request = endless_request(prompt, testing::below(random, 120), 256);
      request.sampler.temperature = std::array{0.0, 0.3, 0.8, 1.5}[random() % 4];
      request.sampler.seed = random();
      if (random() % 3 == 0) request.sampler.top_k = 1 + testing::below(random, 5);
      if (random() % 3 == 0) request.sampler.min_p = 0.2;
      if (random() % 3 == 0) request.sampler.repeat_penalty = 1.2;
      if (random() % 3 == 0) request.sampler.frequency_penalty = 0.3;
      request.ignore_eos = random() % 2 == 0;
      const Drafted of = expect_same(engine, request);
      counts.proposed += of.counts.proposed;
      counts.accepted += of.counts.accepted;
    }
    EXPECT_GT(counts.accepted, 0u);
    EXPECT_GT(counts.proposed, counts.accepted);
  }
}

TEST(AnswerDraft, SelectedAnswersGuessNothing) {
  TinyEngine engine(round_model(), {.n_ctx = 256, .chunk_rows = 32});
  const Tokens prompt = letters(kAlphabet + "abc");
  GenerationRequest request = request_of(prompt, 256);
  Sequence sequence = engine.cache().make_sequence();
  request.attention = Attention::kSelected;
  request.n_draft_max = kDraftTokens;
  Answer selected(sequence, engine.tokenizer(), request, {});
  AnswerBatch batch(engine.walk());
  Answer* const answers[] = {&selected};
  while (selected.is_reading()) batch.step(answers);
  std::vector<StepRow> rows;
  EXPECT_EQ(selected.append_rows(8, rows), 1u);
  EXPECT_EQ(rows.size(), 1u);
}

uint32_t below(std::mt19937_64& random, uint32_t n) { return static_cast<uint32_t>(random() % n); }

GenerationRequest drawn_request(std::span<const TokenId> prompt, const LoadedMember& member,
                                const WalkSetting& setting, std::mt19937_64& random) {
  GenerationRequest request;
  request.prompt = prompt;
  request.vocab_size = member.member.model.vocab_size;
  request.n_ctx = request.n_ctx_train = setting.n_ctx;
  request.chunk_rows = setting.chunk_rows;
  request.sampler.temperature = random() % 2 == 0 ? 0 : 0.5;
  request.sampler.seed = random();
  request.ignore_eos = true;
  return request;
}

/// Members of the zoo have no vocabulary of their own.
std::unique_ptr<Tokenizer> numbered_tokenizer(const LoadedMember& member) {
  TokenizerSpec spec = testing::make_spm_spec({}, false);
  while (spec.tokens.size() < member.member.model.vocab_size)
    testing::add_token(spec, "t" + std::to_string(spec.tokens.size()), TokenKind::kNormal);
  return Tokenizer::make(spec);
}

/// A text that repeats itself here and there.
Tokens quoting_text(uint32_t n, uint32_t vocab_size, std::mt19937_64& random) {
  Tokens text = testing::random_tokens(8, vocab_size, static_cast<uint32_t>(random()));
  while (text.size() < n) {
    size_t from = random() % text.size();
    for (uint64_t left = 1 + random() % 12; left > 0; --left) text.push_back(text[from++]);
    text.push_back(static_cast<TokenId>(random() % vocab_size));
  }
  text.resize(n);
  return text;
}

TEST(AnswerDraft, EveryMemberOfTheZooAnswersTheSame) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  DraftCounts counts;
  for (const makers::ZooMember* listed : testing::walked_members(random)) {
    SCOPED_TRACE(listed->model.name);
    const LoadedMember member(listed->model.name);
    const auto tokenizer = numbered_tokenizer(member);
    WalkSetting setting;
    setting.kernels = cpu_attn::available_kernels().back();
    setting.chunk_rows = 24;
    setting.n_ctx = 256;
    ZooWalk walk(member.model, setting);
    for (int round = 0; round < 2; ++round) {
      const Tokens prompt = quoting_text(20 + below(random, 60), listed->model.vocab_size, random);
      GenerationRequest request = drawn_request(prompt, member, setting, random);
      request.n_predict = 32;
      const Drafted plain = answer(walk.walk(), *tokenizer, request, 0);
      const Drafted drafted = answer(walk.walk(), *tokenizer, request, kDraftTokens);
      EXPECT_EQ(plain.heard, drafted.heard);
      counts.proposed += drafted.counts.proposed;
      counts.accepted += drafted.counts.accepted;
    }
  }
  EXPECT_GT(counts.accepted, 0u);
  EXPECT_GT(counts.proposed, counts.accepted);
}

/// Answers that cross the ends of extents; half of them draw what no draft foresees.
TEST(AnswerDraft, NothingThatDoesNotComeIsWrittenToTheSpillFile) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const LoadedMember member("llama3");
  const auto tokenizer = numbered_tokenizer(member);
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.chunk_rows = 64;
  setting.n_ctx = 2048;
  WalkSetting spilling = setting;
  spilling.kv_dram_bytes = kv_bytes_for_context(member.model.shape(), setting.k_codec,
                                                setting.v_codec, 640, setting.chunk_rows);
  const uint64_t place = place_bytes(member.model.shape(), {.n_ctx = 2048, .chunk_rows = 64});
  ZooWalk whole(member.model, setting);
  DraftCounts counts;
  for (const double temperature : {0.0, 0.5}) {
    const Tokens prompt =
        quoting_text(700 + below(random, 64), member.member.model.vocab_size, random);
    GenerationRequest request = drawn_request(prompt, member, setting, random);
    request.sampler.temperature = temperature;
    request.n_predict = 330;
    const Drafted plain = answer(whole.walk(), *tokenizer, request, 0);
    uint64_t n_written = 0;
    for (const uint32_t n_draft_max : {0u, kDraftTokens}) {
      auto spill = tiers::testing::make_simulated_spill({.seed = random()}, place, 512, 48);
      ZooWalk away(member.model, spilling, std::move(spill.spill));
      const Drafted drafted = answer(away.walk(), *tokenizer, request, n_draft_max);
      EXPECT_EQ(plain.heard, drafted.heard);
      while (away.cache().store().wait_for_transfer()) continue;  // what is written counts then
      const tiers::StoreCounts& store = away.cache().store().counts();
      EXPECT_GT(store.extents_read, 0u);
      if (n_draft_max == 0) n_written = store.extents_written;
      EXPECT_EQ(store.extents_written, n_written);
      counts.proposed += drafted.counts.proposed;
      counts.accepted += drafted.counts.accepted;
    }
  }
  EXPECT_GT(counts.accepted, 0u);
  EXPECT_GT(counts.proposed, counts.accepted);
}

TEST(AnswerDraft, AnswersBoundToASchemaAreTheSame) {
  TinyEngine engine(drawn_model(), {.n_ctx = 256, .chunk_rows = 32});
  const auto table = std::make_shared<const TokenTable>(engine.tokenizer(), kLetterVocabulary);
  const auto schema = nlohmann::ordered_json::parse(R"({"enum":[true,false,null]})");
  const Tokens prompt = letters("truefalsenulltruefalsenull");
  DraftCounts counts;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    GenerationRequest request = request_of(prompt, 256);
    request.sampler.temperature = seed == 0 ? 0 : 1.5;
    request.sampler.seed = seed;
    const auto bound = [&] {
      request.constraint = std::make_shared<AnswerConstraint>(table, compile_json_schema(schema));
      return request;
    };
    const Drafted plain = answer(engine.walk(), engine.tokenizer(), bound(), 0);
    const Drafted drafted = answer(engine.walk(), engine.tokenizer(), bound(), kDraftTokens);
    EXPECT_EQ(plain.heard, drafted.heard);
    EXPECT_TRUE(std::set<std::string>({"true", "false", "null"}).contains(drafted.heard.streamed))
        << drafted.heard.streamed;
    counts.accepted += drafted.counts.accepted;
  }
  EXPECT_GT(counts.accepted, 0u);
}

/// A draft that finds no room is dropped; the answer ends where it would have without.
TEST(AnswerDraft, TakesNoRoomThatTheAnswerNeeds) {
  const auto until_full = [](uint32_t n_draft_max) {
    TinyEngine engine(round_model(),
                      {.n_ctx = 256, .chunk_rows = 32, .kv_bytes = 4 * 2 * 2 * 1024});
    const Tokens prompt = letters(kAlphabet + "ab");
    GenerationRequest request = request_of(prompt, 256);
    request.n_draft_max = n_draft_max;
    std::string streamed;
    GenerationEvents events;
    events.on_text = [&](std::string_view text) { return streamed += text, true; };
    Sequence sequence = engine.cache().make_sequence();
    EXPECT_THROW(generate(engine.walk(), sequence, engine.tokenizer(), request, events), Error);
    EXPECT_EQ(sequence.n_pos() % kBlockPositions, 0u);  // it used all there was
    return streamed;
  };
  const std::string plain = until_full(0);
  EXPECT_GT(plain.size(), 40u);
  EXPECT_EQ(until_full(kDraftTokens), plain);
}

/// Others give nothing up for a draft: room is asked for where the answer itself finds none.
TEST(AnswerDraft, IsDroppedBeforeRoomIsAskedFor) {
  const auto said_before_asking = [](uint32_t n_draft_max) {
    TinyEngine engine(round_model(),
                      {.n_ctx = 256, .chunk_rows = 32, .kv_bytes = 4 * 2 * 2 * 1024});
    const Tokens prompt = letters(kAlphabet + "ab");
    GenerationRequest request = request_of(prompt, 256);
    request.n_draft_max = n_draft_max;
    Sequence sequence = engine.cache().make_sequence();
    Answer answer(sequence, engine.tokenizer(), request, {});
    std::optional<size_t> n_said;
    AnswerBatch batch(engine.walk(), {.make_room = [&] {
                        if (!n_said) n_said = answer.tokens().size();
                        return false;
                      }});
    Answer* const answers[] = {&answer};
    while (!answer.has_ended()) batch.step(answers);
    EXPECT_TRUE(answer.failure());
    EXPECT_EQ(answer.tokens().size(), n_said);
    return n_said.value_or(0);
  };
  const size_t plain = said_before_asking(0);
  EXPECT_GT(plain, 40u);
  EXPECT_EQ(said_before_asking(kDraftTokens), plain);
}

}  // namespace
}  // namespace strata::engine

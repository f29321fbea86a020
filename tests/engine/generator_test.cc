#include "engine/generator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/context_size.h"
#include "tests/engine/letter_requests.h"

namespace strata::engine {
namespace {

using testing::drawn_model;
using testing::endless_request;
using testing::kByteA9;
using testing::kByteC3;
using testing::kEnd;
using testing::letter;
using testing::letters;
using testing::make_chain_model;
using testing::request_of;
using testing::SmallModel;
using testing::TinyEngine;
using testing::Tokens;

/// a b c ... y z and then the end.
SmallModel alphabet_model() {
  std::vector<std::pair<TokenId, TokenId>> next = {{letter('z'), kEnd}};
  for (char c = 'a'; c < 'z'; ++c) next.emplace_back(letter(c), letter(static_cast<char>(c + 1)));
  return make_chain_model(next);
}

Generation run(TinyEngine& engine, Sequence& sequence, const GenerationRequest& request,
               const GenerationEvents& events = {}) {
  return generate(engine.walk(), sequence, engine.tokenizer(), request, events);
}

TEST(Generator, AnEndTokenStopsAndIsNotPartOfTheAnswer) {
  TinyEngine engine(alphabet_model());
  Sequence sequence = engine.cache().make_sequence();
  const Tokens prompt = letters("v");
  const Generation answer = run(engine, sequence, request_of(prompt));
  EXPECT_EQ(answer.text, "wxyz");
  EXPECT_EQ(answer.tokens, letters("wxyz"));
  EXPECT_EQ(answer.finish_reason, FinishReason::kStop);
  EXPECT_EQ(answer.usage.prompt_tokens, 1u);
  EXPECT_EQ(answer.usage.cached_tokens, 0u);
  EXPECT_EQ(answer.usage.completion_tokens, 4u);
  EXPECT_EQ(answer.times.n_decode_steps, 4u);
  EXPECT_EQ(sequence.tokens(), letters("vwxyz"));
}

TEST(Generator, IgnoringTheEndNeverChoosesIt) {
  TinyEngine engine(alphabet_model());
  Sequence sequence = engine.cache().make_sequence();
  const Tokens prompt = letters("y");
  GenerationRequest request = request_of(prompt);
  request.ignore_eos = true;
  request.n_predict = 4;
  const Generation answer = run(engine, sequence, request);
  EXPECT_EQ(answer.tokens.size(), 4u);
  EXPECT_EQ(answer.tokens[0], letter('z'));
  for (const TokenId token : answer.tokens) EXPECT_NE(token, kEnd);
  EXPECT_EQ(answer.finish_reason, FinishReason::kLength);
}

TEST(Generator, ALimitOfTokensEndsWithLength) {
  TinyEngine engine(alphabet_model());
  const Tokens prompt = letters("abc");
  for (const uint64_t n : {0u, 1u, 5u}) {
    Sequence sequence = engine.cache().make_sequence();
    GenerationRequest request = request_of(prompt);
    request.n_predict = n;
    const Generation answer = run(engine, sequence, request);
    EXPECT_EQ(answer.text, std::string("defgh").substr(0, n));
    EXPECT_EQ(answer.finish_reason, FinishReason::kLength);
    EXPECT_FALSE(answer.context_full);
    EXPECT_EQ(sequence.n_pos(), 3 + (n == 0 ? 0 : n - 1));
  }
}

TEST(Generator, AFullContextEndsWithLengthAndSaysSo) {
  TinyEngine engine(alphabet_model());
  const Tokens prompt = letters("abc");
  Sequence sequence = engine.cache().make_sequence();
  const Generation answer = run(engine, sequence, request_of(prompt, 10));
  EXPECT_EQ(answer.text, "defghij");  // 3 + 7 = 10
  EXPECT_EQ(answer.finish_reason, FinishReason::kLength);
  EXPECT_TRUE(answer.context_full);
  GenerationRequest exactly = request_of(prompt, 10);
  exactly.n_predict = 7;
  Sequence other = engine.cache().make_sequence();
  EXPECT_FALSE(run(engine, other, exactly).context_full);
}

TEST(Generator, StopTextsEndTheAnswerAcrossTokenBorders) {
  TinyEngine engine(alphabet_model());
  const Tokens prompt = letters("a");
  const auto answer_to = [&](std::vector<std::string> stops) {
    Sequence sequence = engine.cache().make_sequence();
    GenerationRequest request = request_of(prompt);
    request.stop = std::move(stops);
    std::string streamed;
    GenerationEvents events;
    events.on_text = [&](std::string_view text) { return streamed += text, true; };
    Generation answer = run(engine, sequence, request, events);
    EXPECT_EQ(streamed, answer.text);
    return answer;
  };
  const Generation across = answer_to({"efg"});
  EXPECT_EQ(across.text, "bcd");
  EXPECT_EQ(across.tokens, letters("bcdefg"));  // what the model said is not hidden
  EXPECT_EQ(across.finish_reason, FinishReason::kStop);
  EXPECT_EQ(across.stop_text, "efg");
  EXPECT_EQ(answer_to({"xyz!", "k", "jkl"}).text, "bcdefghij");  // the first to end wins
  EXPECT_EQ(answer_to({"b"}).text, "");
  // A stop text that begins and does not come: nothing is lost.
  EXPECT_EQ(answer_to({"yz?", "zz"}).text, "bcdefghijklmnopqrstuvwxyz");
}

TEST(Generator, HeldBackTextComesOutAtTheEnd) {
  TinyEngine engine(alphabet_model());
  const Tokens prompt = letters("a");
  Sequence sequence = engine.cache().make_sequence();
  GenerationRequest request = request_of(prompt);
  request.n_predict = 3;
  request.stop = {"cde"};
  const Generation answer = run(engine, sequence, request);
  EXPECT_EQ(answer.text, "bcd");
  EXPECT_EQ(answer.finish_reason, FinishReason::kLength);
}

TEST(Generator, TextComesInWholeCodePoints) {
  TinyEngine engine(make_chain_model({{letter('a'), kByteC3},
                                      {kByteC3, kByteA9},
                                      {kByteA9, letter('b')},
                                      {letter('b'), kByteC3}}));
  const Tokens prompt = letters("a");
  Sequence sequence = engine.cache().make_sequence();
  GenerationRequest request = request_of(prompt);
  request.n_predict = 4;
  std::vector<std::string> pieces;
  GenerationEvents events;
  events.on_text = [&](std::string_view text) { return pieces.emplace_back(text), true; };
  const Generation answer = run(engine, sequence, request, events);
  // The last byte never becomes a letter: it is shown as what it is, a broken one.
  EXPECT_EQ(pieces, (std::vector<std::string>{"\xC3\xA9", "b", "\xEF\xBF\xBD"}));
  EXPECT_EQ(answer.tokens, (Tokens{kByteC3, kByteA9, letter('b'), kByteC3}));
}

TEST(Generator, ACallbackOrTheFlagCancelsDecoding) {
  TinyEngine engine(alphabet_model());
  const Tokens prompt = letters("a");
  GenerationRequest request = request_of(prompt);
  request.stop = {"ef"};  // holds the e back
  Sequence first = engine.cache().make_sequence();
  std::vector<std::string> heard;
  GenerationEvents events;
  events.on_text = [&](std::string_view text) {
    heard.emplace_back(text);
    return text != "d";
  };
  const Generation by_callback = run(engine, first, request, events);
  EXPECT_EQ(by_callback.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(by_callback.text, "bcd");
  EXPECT_EQ(heard, (std::vector<std::string>{"b", "c", "d"}));

  Sequence second = engine.cache().make_sequence();
  std::atomic<bool> cancel = false;
  events.cancel = &cancel;
  heard.clear();
  events.on_text = [&](std::string_view text) {
    heard.emplace_back(text);
    if (text == "d") cancel = true;
    return true;
  };
  const Generation by_flag = run(engine, second, request, events);
  EXPECT_EQ(by_flag.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(by_flag.text, "bcd");
  EXPECT_EQ(second.tokens(), letters("abc"));
}

TEST(Generator, NoTextIsSaidAfterACallbackCancelled) {
  TinyEngine engine(make_chain_model({{letter('a'), letter('b')}, {letter('b'), kByteC3}}));
  const Tokens prompt = letters("a");
  Sequence sequence = engine.cache().make_sequence();
  GenerationRequest request = request_of(prompt);
  request.stop = {"bx"};
  uint32_t n_calls = 0;
  GenerationEvents events;
  events.on_text = [&](std::string_view) { return ++n_calls, false; };
  const Generation answer = run(engine, sequence, request, events);
  EXPECT_EQ(answer.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(n_calls, 1u);
}

TEST(Generator, CancelledWhilePrefillingItKeepsTheChunksThatWereRead) {
  TinyEngine engine(drawn_model());
  const Tokens prompt = letters("abcdefghijklmnopqrstuvwxyzabcdefghijklmn");  // 40: 16, 16, 8
  Sequence whole = engine.cache().make_sequence();
  GenerationRequest request = endless_request(prompt, 5);
  const Generation wanted = run(engine, whole, request);

  for (const uint64_t stop_at : {16u, 32u, 40u}) {
    Sequence sequence = engine.cache().make_sequence();
    GenerationEvents events;
    std::vector<uint64_t> done_at;
    events.on_prefill = [&](uint64_t done, uint64_t total) {
      EXPECT_EQ(total, 40u);
      done_at.push_back(done);
      return done < stop_at;
    };
    const Generation cancelled = run(engine, sequence, request, events);
    EXPECT_EQ(cancelled.finish_reason, FinishReason::kCancelled) << stop_at;
    EXPECT_EQ(cancelled.text, "");
    EXPECT_TRUE(cancelled.tokens.empty());
    EXPECT_EQ(sequence.n_pos(), stop_at);
    EXPECT_EQ(done_at.back(), stop_at);
    // Asked again, it goes on from there to the same answer.
    const Generation again = run(engine, sequence, request);
    EXPECT_EQ(again.usage.cached_tokens, std::min<uint64_t>(stop_at, 39));
    EXPECT_EQ(again.usage.recomputed_tokens, stop_at == 40 ? 1u : 0u);
    EXPECT_EQ(again.tokens, wanted.tokens);
  }
  std::atomic<bool> cancel = true;
  Sequence sequence = engine.cache().make_sequence();
  GenerationEvents events;
  events.cancel = &cancel;
  EXPECT_EQ(run(engine, sequence, request, events).finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(sequence.n_pos(), 0u);
}

TEST(Generator, ACommonPrefixIsReadOnceAndTheAnswerIsTheSame) {
  TinyEngine engine(drawn_model());
  Sequence sequence = engine.cache().make_sequence();
  const Tokens first = letters("thequickbrownfoxjumps");
  GenerationRequest request = endless_request(first, 6);
  const Generation answer = run(engine, sequence, request);
  ASSERT_EQ(sequence.n_pos(), first.size() + 5);

  // The next turn: the first prompt, the answer, and more.
  Tokens next = first;
  next.insert(next.end(), answer.tokens.begin(), answer.tokens.end());
  for (const TokenId token : letters("overthelazydog")) next.push_back(token);
  GenerationRequest more = endless_request(next, 6);
  const Generation reused = run(engine, sequence, more);
  EXPECT_EQ(reused.usage.prompt_tokens, next.size());
  EXPECT_EQ(reused.usage.cached_tokens, first.size() + 5);
  EXPECT_EQ(reused.usage.recomputed_tokens, 0u);

  // A prompt that leaves the other after ten tokens.
  const Tokens branch = letters("thequickbrpurplecow");
  GenerationRequest branched = endless_request(branch, 6);
  const Generation of_branch = run(engine, sequence, branched);
  EXPECT_EQ(of_branch.usage.cached_tokens, 10u);
  EXPECT_EQ(of_branch.usage.recomputed_tokens, 0u);

  // The same prompt again: its last token is read for its logits, and counted.
  const Generation same = run(engine, sequence, branched);
  EXPECT_EQ(same.usage.cached_tokens, branch.size() - 1);
  EXPECT_EQ(same.usage.recomputed_tokens, 1u);
  EXPECT_EQ(same.tokens, of_branch.tokens);

  const std::vector<std::pair<Tokens, Tokens>> turns = {{next, reused.tokens},
                                                        {branch, of_branch.tokens}};
  for (const auto& [tokens, wanted] : turns) {
    Sequence fresh = engine.cache().make_sequence();
    GenerationRequest anew = endless_request(tokens, 6);
    const Generation found = run(engine, fresh, anew);
    EXPECT_EQ(found.usage.cached_tokens, 0u);
    EXPECT_EQ(found.tokens, wanted);
  }
}

TEST(Generator, BehindALostWindowTheWholePromptIsReadAgainAndCounted) {
  // Windows of 16 in five of six layers; chunks of 16: 31 positions are held.
  TinyEngine engine(drawn_model("gemma3", 6), {.n_ctx = 256, .chunk_rows = 16});
  Sequence sequence = engine.cache().make_sequence();
  Tokens prompt;
  for (int i = 0; i < 200; ++i) prompt.push_back(letter(static_cast<char>('a' + i * i % 26)));
  GenerationRequest request = endless_request(prompt, 4, 256);
  const Generation first = run(engine, sequence, request);
  EXPECT_EQ(first.usage.recomputed_tokens, 0u);

  // Cut back by a few tokens: the window is still there.
  Tokens near(prompt.begin(), prompt.begin() + 195);
  near.push_back(letter('q'));
  const Generation of_near = run(engine, sequence, request_of(near, 256));
  EXPECT_EQ(of_near.usage.cached_tokens, 195u);
  EXPECT_EQ(of_near.usage.recomputed_tokens, 0u);

  // Cut back by half: 100 tokens were held once and are read again.
  Tokens far(prompt.begin(), prompt.begin() + 100);
  far.push_back(letter('b'));
  GenerationRequest cut = endless_request(far, 4, 256);
  const Generation of_far = run(engine, sequence, cut);
  EXPECT_EQ(of_far.usage.prompt_tokens, 101u);
  EXPECT_EQ(of_far.usage.cached_tokens, 0u);
  EXPECT_EQ(of_far.usage.recomputed_tokens, 100u);

  Sequence fresh = engine.cache().make_sequence();
  EXPECT_EQ(run(engine, fresh, cut).tokens, of_far.tokens);
}

TEST(Generator, AForkBehindAWindowIsCountedLikeItsOrigin) {
  TinyEngine engine(drawn_model("gemma3", 6), {.n_ctx = 256, .chunk_rows = 16});
  Sequence origin = engine.cache().make_sequence();
  Tokens prompt;
  for (int i = 0; i < 120; ++i) prompt.push_back(letter(static_cast<char>('a' + i * 7 % 26)));
  GenerationRequest request = endless_request(prompt, 3, 256);
  const Generation first = run(engine, origin, request);
  Sequence fork = origin.fork();
  Tokens other(prompt.begin(), prompt.begin() + 60);
  other.push_back(letter('z'));
  GenerationRequest cut = endless_request(other, 3, 256);
  const Generation of_fork = run(engine, fork, cut);
  EXPECT_EQ(of_fork.usage.recomputed_tokens, 60u);
  // The origin is as it was.
  const Generation again = run(engine, origin, request);
  EXPECT_EQ(again.usage.cached_tokens, 119u);
  EXPECT_EQ(again.tokens, first.tokens);
}

TEST(Generator, AnOverLongPromptIsRefusedBeforeAnyWork) {
  TinyEngine engine(alphabet_model());
  Sequence sequence = engine.cache().make_sequence();
  const Tokens held = letters("abc");
  GenerationRequest small = request_of(held);
  small.n_predict = 1;
  (void)run(engine, sequence, small);
  const Tokens prompt(64, letter('x'));
  const uint32_t n_free = engine.cache().pool().n_free();
  GenerationEvents events;
  events.on_prefill = [](uint64_t, uint64_t) { return ADD_FAILURE() << "it reads", true; };
  try {
    (void)run(engine, sequence, request_of(prompt), events);
    FAIL() << "fits";
  } catch (const ContextLengthError& error) {
    EXPECT_EQ(error.n_prompt_tokens(), 64u);
    EXPECT_EQ(error.n_ctx(), 64u);
    EXPECT_NE(std::string(error.what()).find("context_length_exceeded"), std::string::npos);
    EXPECT_FALSE(error.remedy().empty());
  }
  EXPECT_EQ(sequence.tokens(), held);
  EXPECT_EQ(engine.cache().pool().n_free(), n_free);
}

TEST(Generator, AWrongSamplerOptionIsRefusedBeforeAnyWork) {
  TinyEngine engine(alphabet_model());
  Sequence sequence = engine.cache().make_sequence();
  const Tokens prompt = letters("abc");
  GenerationRequest request = request_of(prompt);
  request.sampler.top_p = 2;
  EXPECT_THROW((void)run(engine, sequence, request), Error);
  request = request_of(prompt);
  request.stop = {""};
  EXPECT_THROW((void)run(engine, sequence, request), Error);
  EXPECT_EQ(sequence.n_pos(), 0u);
}

TEST(Generator, AStepThatDoesNotFitLeavesWhatWasReadBefore) {
  // Two layers of two KV heads: four blocks per 32 positions. Eight blocks hold 64 positions.
  TinyEngine engine(drawn_model(), {.n_ctx = 256, .kv_bytes = 8 * 1024});
  ASSERT_EQ(engine.cache().pool().n_slots(), 8u);
  Sequence sequence = engine.cache().make_sequence();
  const Tokens prompt(80, letter('e'));
  GenerationRequest request = request_of(prompt, 256);
  try {
    (void)run(engine, sequence, request);
    FAIL() << "fits";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
    EXPECT_FALSE(error.remedy().empty());
  }
  EXPECT_EQ(sequence.tokens(), Tokens(64, letter('e')));
  const Tokens shorter(50, letter('e'));
  GenerationRequest fits = endless_request(shorter, 3, 256);
  const Generation answer = run(engine, sequence, fits);
  EXPECT_EQ(answer.usage.cached_tokens, 49u);
  sequence = engine.cache().make_sequence();
  EXPECT_EQ(run(engine, sequence, fits).tokens, answer.tokens);
}

TEST(Generator, AnExceptionOfACallbackLeavesASequenceThatGoesOn) {
  TinyEngine engine(drawn_model());
  const Tokens prompt = letters("hello");
  GenerationRequest request = endless_request(prompt, 8);
  Sequence plain = engine.cache().make_sequence();
  const Generation wanted = run(engine, plain, request);
  Sequence sequence = engine.cache().make_sequence();
  GenerationEvents events;
  uint32_t n_calls = 0;
  events.on_text = [&](std::string_view) -> bool {
    if (++n_calls == 3) throw std::runtime_error("the terminal is gone");
    return true;
  };
  EXPECT_THROW((void)run(engine, sequence, request, events), std::runtime_error);
  EXPECT_EQ(sequence.tokens().front(), letter('h'));
  EXPECT_EQ(run(engine, sequence, request).tokens, wanted.tokens);
}

TEST(Generator, PenaltiesSeeThePrompt) {
  TinyEngine engine(make_chain_model({{letter('a'), letter('b')}}));
  const Tokens prompt = letters("ba");
  Sequence sequence = engine.cache().make_sequence();
  GenerationRequest request = request_of(prompt);
  request.n_predict = 1;
  EXPECT_EQ(run(engine, sequence, request).tokens, letters("b"));
  request.sampler.presence_penalty = 50;
  Sequence other = engine.cache().make_sequence();
  const Generation penalised = run(engine, other, request);
  EXPECT_NE(penalised.tokens, letters("b"));
}

TEST(Generator, OneSeedGivesOneAnswerAndTimesAreConsistent) {
  TinyEngine engine(drawn_model());
  const Tokens prompt = letters("seed");
  GenerationRequest request = request_of(prompt);
  request.sampler.temperature = 1.5;
  request.sampler.seed = 12345;
  request.ignore_eos = true;
  request.n_predict = 20;
  Sequence first = engine.cache().make_sequence();
  Sequence second = engine.cache().make_sequence();
  const Generation one = run(engine, first, request);
  EXPECT_EQ(one.tokens, run(engine, second, request).tokens);
  EXPECT_EQ(one.times.n_decode_steps, 19u);
  EXPECT_GE(one.times.ttft_ms, one.times.prefill_ms);
  EXPECT_EQ(one.times.tpot_ms(), one.times.decode_ms / 19);
  EXPECT_EQ(GenerationTimes().tpot_ms(), 0);
  EXPECT_EQ(GenerationTimes().decode_tokens_per_s(), 0);
  EXPECT_EQ(GenerationTimes().prefill_tokens_per_s({}), 0);
}

}  // namespace
}  // namespace strata::engine

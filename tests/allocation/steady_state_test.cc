// Neither a decoded token nor what an answer makes of it allocates, locks or faults a page in,
// wherever weights, K and V are, once a text as long has been there before: arenas are committed as
// they are first used.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/checked_math.h"
#include "base/host_memory.h"
#include "engine/context_size.h"
#include "engine/generator.h"
#include "engine/kv_placement.h"
#include "index/method.h"
#include "tests/allocation/counted_allocations.h"
#include "tests/allocation/counted_locks.h"
#include "tests/engine/letter_requests.h"
#include "tests/engine/tiny_engine.h"
#include "tests/tiers/fresh_folder.h"
#include "tiers/spill.h"

namespace strata::engine {
namespace {

constexpr uint32_t kContext = 2048;
constexpr uint32_t kChunk = 16;
constexpr uint32_t kPrompt = 1000;
// Behind it no extent closes and no segment of codes is trained (1,024, 1,280), which allocate.
constexpr uint32_t kPromptOfCodes = 1050;
constexpr uint32_t kTokens = 200;  // across borders of blocks
constexpr uint32_t kTimes = 3;     // that are counted

struct Costs {
  uint64_t allocations = 0, locks = 0, page_faults = 0;
};

Costs costs_now() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {strata::testing::n_allocations(), strata::testing::n_locks(),
          static_cast<uint64_t>(usage.ru_minflt + usage.ru_majflt)};
}

template <class Work>
Costs costs_of(const Work& work) {
  const Costs before = costs_now();
  work();
  const Costs after = costs_now();
  return {after.allocations - before.allocations, after.locks - before.locks,
          after.page_faults - before.page_faults};
}

/// Of kTokens decoded behind a prompt, once this was done before. Page faults are the fewest of
/// three times: a token's own come every time, while those of a kernel that moves pages (it joins
/// small ones into huge ones, or makes room) come when it does.
Costs decode_costs(Walk& walk, KvCache& cache, Attention attention = Attention::kExact,
                   uint32_t n_prompt = kPrompt) {
  Costs costs;
  uint64_t fewest_faults = UINT64_MAX;
  for (uint32_t time = 0; time <= kTimes; ++time) {
    Sequence sequence = cache.make_sequence();
    prefill(walk, sequence, std::vector<int32_t>(n_prompt, 5), kChunk);
    const Costs once = costs_of([&] {
      for (uint32_t i = 0; i < kTokens; ++i) {
        const StepRow row{&sequence, static_cast<int32_t>(i % 32), true};
        walk.step({&row, 1}, attention);
      }
    });
    if (time == 0) continue;
    costs.allocations += once.allocations;
    costs.locks += once.locks;
    fewest_faults = std::min(fewest_faults, once.page_faults);
  }
  costs.page_faults = fewest_faults;
  return costs;
}

testing::SmallModel model(uint32_t head_dim = 8) {
  testing::SmallModel small = testing::make_small_model(
      {.n_layers = 6, .head_dim = head_dim, .vocab_size = 32, .n_ctx_train = kContext});
  testing::draw_weights(small, 3);
  return small;
}

void expect_nothing(const Costs& costs) {
  EXPECT_EQ(costs.allocations, 0u);
  EXPECT_EQ(costs.locks, 0u);
  EXPECT_EQ(costs.page_faults, 0u);
}

TEST(SteadyState, TheCountersCount) {
  const Costs costs = costs_of([] {
    std::mutex mutex;
    for (int i = 0; i < 3; ++i) const std::lock_guard lock(mutex);
    const HostMemory fresh = HostMemory::reserve(64 << 10);
    fresh.data()[0] = std::byte{1};
  });
  EXPECT_EQ(costs.locks, 3u);
  EXPECT_GE(costs.page_faults, 1u);
}

/// One thread: workers that find nothing to do for long sleep, and are woken under a lock.
TEST(SteadyState, OfATokenFromMemory) {
  testing::TinyEngine engine(model(), {.n_ctx = kContext});
  expect_nothing(decode_costs(engine.walk(), engine.cache()));
}

/// Locks are left out: a worker that sleeps is woken under one.
TEST(SteadyState, OfATokenOfTwoThreads) {
  testing::TinyEngine engine(model(), {.n_ctx = kContext, .n_threads = 2});
  const Costs costs = decode_costs(engine.walk(), engine.cache());
  EXPECT_EQ(costs.allocations, 0u);
  EXPECT_EQ(costs.page_faults, 0u);
}

TEST(SteadyState, OfATokenWhoseWeightsAreStreamed) {
  testing::TinyEngine engine(
      model(),
      {.n_ctx = kContext,
       .streamed = {
           kWholeLayer, kNoPiece, {.ffn = true}, kWholeLayer, kNoPiece, {.attention = true}}});
  const Costs costs = decode_costs(engine.walk(), engine.cache());
  EXPECT_EQ(costs.allocations, 0u);
  EXPECT_EQ(costs.page_faults, 0u);
  // Threads that read hand their work over under one; a ring needs none.
  if (engine.model().read_counts().back_end != "threads") {
    EXPECT_EQ(costs.locks, 0u);
  }
}

TEST(SteadyState, OfATokenWhoseKvIsSpilled) {
  const testing::TinyEngine loaded(model());
  const ModelShape& shape = loaded.model().shape();
  const tiers::FreshFolder folder;
  KvCacheOptions kv;
  kv.chunk_rows = kChunk;
  kv.n_ctx = kContext;
  kv.budget_bytes = kv_bytes_for_context(shape, kv.k_codec, kv.v_codec, 420, kChunk);
  const auto layout = KvLayout::make(kv.k_codec, kv.v_codec, shape.head_dim);
  const uint64_t place_bytes =
      round_up(uint64_t{shape.layers[0].n_kv_heads} * kExtentBlocks * layout.block_bytes,
               tiers::kPlaceAlignment);
  std::vector<std::string> notices;
  KvCache cache(shape, kv,
                tiers::open_spill({.directory = folder.path(),
                                   .budget_bytes = 200 * place_bytes,
                                   .place_bytes = place_bytes,
                                   .n_frames = 24},
                                  notices));
  ThreadPool pool(1);
  Walk walk(loaded.model(), cache, cpu_attn::choose_kernels(""), pool, kChunk);
  const Costs costs = decode_costs(walk, cache);
  EXPECT_GT(cache.store().counts().extents_read, kTokens);
  EXPECT_EQ(costs.page_faults, 0u);
  if (cache.store().transfers()->io().name() != "threads") {
    EXPECT_EQ(costs.locks, 0u);
  }
  // An extent closes every 256 positions, and its record is allocated: none does in these tokens.
  EXPECT_EQ(costs.allocations, 0u);
}

constexpr uint64_t kAnswerTokens = 64;
constexpr uint64_t kFirstBytes = 8;  // of an answer, behind which its tokens are counted

struct AnswerCosts {
  Costs costs;
  Generation answer;
};

/// Of a whole answer behind its first letters, as the caller hears them, once the same was answered
/// before; page faults as in decode_costs().
AnswerCosts answer_costs(testing::TinyEngine& engine, const GenerationRequest& request) {
  AnswerCosts of;
  uint64_t fewest_faults = UINT64_MAX;
  for (uint32_t time = 0; time <= kTimes; ++time) {
    Sequence sequence = engine.cache().make_sequence();
    uint64_t n_bytes = 0;
    Costs first, last;
    GenerationEvents events;
    events.on_text = [&](std::string_view text) {
      n_bytes += text.size();
      last = costs_now();
      if (n_bytes <= kFirstBytes) first = last;
      return true;
    };
    of.answer = generate(engine.walk(), sequence, engine.tokenizer(), request, events);
    EXPECT_EQ(of.answer.tokens.size(), kAnswerTokens);
    EXPECT_GT(n_bytes, kFirstBytes);
    if (time == 0) continue;
    of.costs.allocations += last.allocations - first.allocations;
    of.costs.locks += last.locks - first.locks;
    fewest_faults = std::min(fewest_faults, last.page_faults - first.page_faults);
  }
  of.costs.page_faults = fewest_faults;
  return of;
}

/// A request and the prompt that it spans.
struct AskedAnswer {
  testing::Tokens prompt;
  GenerationRequest request;
};

AskedAnswer asked(const std::string& prompt, uint32_t n_draft_max) {
  AskedAnswer of{testing::letters(prompt), {}};
  of.request = testing::endless_request(of.prompt, kAnswerTokens, 256);
  of.request.n_draft_max = n_draft_max;
  return of;
}

const std::string kAlphabet = "abcdefghijklmnopqrstuvwxyz";
constexpr testing::TinyOptions kAnswering = {.n_ctx = 256};

/// a b c ... z a b c ...
testing::SmallModel round_model() {
  std::vector<std::pair<TokenId, TokenId>> next = {{testing::letter('z'), testing::letter('a')}};
  for (char c = 'a'; c < 'z'; ++c)
    next.emplace_back(testing::letter(c), testing::letter(static_cast<char>(c + 1)));
  return testing::make_chain_model(next, 256);
}

TEST(SteadyState, OfAnAnswer) {
  testing::TinyEngine engine(testing::drawn_model(), kAnswering);
  const AskedAnswer of = asked(kAlphabet + "abc", 0);
  expect_nothing(answer_costs(engine, of.request).costs);
  // Of two threads without locks: a worker that sleeps is woken under one.
  testing::TinyEngine of_two(testing::drawn_model(), {.n_ctx = 256, .n_threads = 2});
  const Costs costs = answer_costs(of_two, of.request).costs;
  EXPECT_EQ(costs.allocations, 0u);
  EXPECT_EQ(costs.page_faults, 0u);
}

/// Drawn, with all that a sampler can be asked for.
TEST(SteadyState, OfAnAnswerThatIsDrawn) {
  testing::TinyEngine engine(testing::drawn_model(), kAnswering);
  AskedAnswer of = asked(kAlphabet + "abc", 0);
  of.request.sampler = {
      .top_k = 20, .repeat_penalty = 1.1, .presence_penalty = 0.1, .seed = 5, .logit_bias = {}};
  expect_nothing(answer_costs(engine, of.request).costs);
}

TEST(SteadyState, OfAnAnswerWhoseDraftsCome) {
  testing::TinyEngine engine(round_model(), kAnswering);
  const AskedAnswer of = asked("ab", kDraftTokens);  // drafts begin with the second round
  const AnswerCosts answered = answer_costs(engine, of.request);
  EXPECT_GT(answered.answer.drafts.accepted, 24u);
  expect_nothing(answered.costs);
}

TEST(SteadyState, OfAnAnswerWhoseDraftsDoNotCome) {
  testing::TinyEngine engine(testing::drawn_model(), kAnswering);
  AskedAnswer of = asked(kAlphabet + kAlphabet + kAlphabet, kDraftTokens);
  of.request.sampler = {.temperature = 1, .top_k = 0, .seed = 5, .logit_bias = {}};
  const AnswerCosts answered = answer_costs(engine, of.request);
  EXPECT_GT(answered.answer.drafts.proposed, answered.answer.drafts.accepted);
  expect_nothing(answered.costs);
}

/// One holds back every letter of a round, longer than what a string keeps within itself; so is
/// a letter.
TEST(SteadyState, OfAnAnswerWithStopTexts) {
  testing::SmallModel model = round_model();
  testing::set_letters(model, std::string(40, 'q'));
  testing::TinyEngine engine(model, kAnswering);
  for (const uint32_t n_draft_max : {0u, kDraftTokens}) {
    AskedAnswer of = asked(kAlphabet + "abc", n_draft_max);
    of.request.stop = {"yzb", "zz", "rstuvwxyzabcdefghijklmnoppp"};
    expect_nothing(answer_costs(engine, of.request).costs);
  }
}

class SteadyStateOf : public ::testing::TestWithParam<index::Method> {};

TEST_P(SteadyStateOf, ATokenThatChoosesBlocks) {
  const testing::TinyEngine loaded(model(16));  // codes of pq are of 16 parts
  const Model& of = loaded.model();
  KvCacheOptions kv;
  const index::SelectorSource selectors(GetParam(),
                                        index_shape(of.shape(), kv.k_codec, kv.v_codec, kContext),
                                        cpu_attn::choose_kernels(""));
  kv.chunk_rows = kChunk;
  kv.n_ctx = kContext;
  kv.budget_bytes = kv_bytes_for_context(of.shape(), kv.k_codec, kv.v_codec, kContext, kChunk);
  kv.selectors = &selectors;
  KvCache cache(of.shape(), kv);
  ThreadPool pool(1);
  Walk walk(of, cache, cpu_attn::choose_kernels(""), pool, kChunk);
  walk.select_by({.budget = {index::Budget::Kind::kTokens, 512}}, kContext);
  // The keys that pq keeps of closed blocks lie where those of the segment before did.
  expect_nothing(decode_costs(walk, cache, Attention::kSelected, kPromptOfCodes));
}

INSTANTIATE_TEST_SUITE_P(Methods, SteadyStateOf,
                         ::testing::Values(index::Method::kQuest, index::Method::kPq,
                                           index::Method::kRabitq),
                         [](const auto& of) {
                           return of.param == index::Method::kQuest ? "quest"
                                  : of.param == index::Method::kPq  ? "pq"
                                                                    : "rabitq";
                         });

}  // namespace
}  // namespace strata::engine

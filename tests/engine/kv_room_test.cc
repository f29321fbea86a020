#include "engine/kv_room.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <vector>

#include "tests/engine/letter_requests.h"
#include "tests/sanitizer.h"

namespace strata::engine {
namespace {

using testing::below;
using testing::drawn_model;
using testing::letter;
using testing::SmallModel;
using testing::TinyEngine;
using testing::Tokens;

constexpr uint32_t kRoomContext = 256;
constexpr uint32_t kRoomChunk = 16;

void grow(TinyEngine& engine, Sequence& sequence, uint64_t n_positions) {
  if (n_positions <= sequence.n_pos()) return;
  prefill(engine.walk(), sequence, Tokens(n_positions - sequence.n_pos(), letter('r')), kRoomChunk);
}

/// Sequences and forks of drawn lengths; where the answer is yes, all of them reach their goals in
/// pieces of drawn lengths, and others stay as they are.
void expect_that_yes_is_kept(const SmallModel& model, uint64_t kv_bytes, uint32_t n_rounds) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  TinyEngine engine(model, {.n_ctx = kRoomContext, .chunk_rows = kRoomChunk, .kv_bytes = kv_bytes});
  uint32_t n_yes = 0, n_no = 0;
  const auto goes_on = [&](uint32_t round) {
    return round < n_rounds || ((n_yes == 0 || n_no == 0) && round < 100 * n_rounds);
  };
  for (uint32_t round = 0; goes_on(round); ++round) {
    std::deque<Sequence> sequences;
    std::vector<SequenceGoal> goals;
    for (uint32_t i = 0, n = 1 + below(random, 4); i < n; ++i) {
      if (i > 0 && below(random, 2) == 0)
        sequences.push_back(sequences[below(random, i)].fork());
      else
        sequences.push_back(engine.cache().make_sequence());
      try {
        grow(engine, sequences.back(),
             sequences.back().n_pos() + below(random, 2) * below(random, 40));
      } catch (const Error&) {
        break;  // what is there is enough to try
      }
      if (below(random, 3) == 0) continue;  // one that only stays
      goals.push_back({&sequences.back(), sequences.back().n_pos() + below(random, 100)});
    }
    if (!can_hold(engine.cache(), goals)) {
      ++n_no;
      continue;
    }
    ++n_yes;
    EXPECT_TRUE(could_hold(engine.cache(), goals));
    std::vector<Sequence*> to_grow;
    for (const SequenceGoal& goal : goals)
      for (Sequence& sequence : sequences)
        if (&sequence == goal.sequence) to_grow.push_back(&sequence);
    for (bool is_any = true; is_any;) {
      is_any = false;
      for (size_t i = 0; i < goals.size(); ++i) {
        if (to_grow[i]->n_pos() >= goals[i].n_positions) continue;
        is_any = true;
        const uint64_t end = std::min<uint64_t>(
            goals[i].n_positions, to_grow[i]->n_pos() + 1 + below(random, kRoomChunk));
        ASSERT_NO_THROW(grow(engine, *to_grow[i], end));
      }
    }
  }
  EXPECT_GT(n_yes, 0u);
  EXPECT_GT(n_no, 0u);
}

TEST(KvRoom, WhatItPromisesIsThereInEveryOrder) {
  expect_that_yes_is_kept(drawn_model(), 24 * 1024,
                          static_cast<uint32_t>(sanitizer::rounds(200, 20)));
}

TEST(KvRoom, AlsoWhereLayersHaveWindows) {
  expect_that_yes_is_kept(drawn_model("gemma3", 6), 64 * 1024,
                          static_cast<uint32_t>(sanitizer::rounds(100, 10)));
}

TEST(KvRoom, SharedBlocksCountOnce) {
  // Two layers of two KV heads: four blocks per 32 positions. 32 blocks hold eight of 32.
  TinyEngine engine(drawn_model(),
                    {.n_ctx = kRoomContext, .chunk_rows = kRoomChunk, .kv_bytes = 32 * 1024});
  Sequence one = engine.cache().make_sequence();
  grow(engine, one, 160);
  const Sequence apart = engine.cache().make_sequence();
  EXPECT_TRUE(could_hold(engine.cache(), std::vector<SequenceGoal>{{&one, 192}, {&apart, 64}}));
  EXPECT_FALSE(could_hold(engine.cache(), std::vector<SequenceGoal>{{&one, 192}, {&apart, 96}}));
  const Sequence fork = one.fork();
  EXPECT_TRUE(can_hold(engine.cache(), std::vector<SequenceGoal>{{&one, 192}, {&fork, 224}}));
  EXPECT_FALSE(can_hold(engine.cache(), std::vector<SequenceGoal>{{&one, 192}, {&fork, 256}}));
  // What others hold is not there now, and would be without them.
  Sequence other = engine.cache().make_sequence();
  grow(engine, other, 90);
  EXPECT_FALSE(can_hold(engine.cache(), std::vector<SequenceGoal>{{&one, 192}}));
  EXPECT_TRUE(could_hold(engine.cache(), std::vector<SequenceGoal>{{&one, 192}}));
}

}  // namespace
}  // namespace strata::engine

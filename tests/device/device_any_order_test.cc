// Steps of all kinds beside a device where K and V spill, in an order by chance, by the emulator.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/device/spill_run.h"

namespace strata::engine {
namespace {

using testing::chosen_setting;
using testing::first_difference;
using testing::kManyTexts;
using testing::LoadedMember;
using testing::Logits;
using testing::SpillRun;
using testing::WalkSetting;

/// Steps of several texts, exact and selected, forks, cuts and ends in an order by chance, in a run
/// that has everything in DRAM and in one that does not.
TEST(DeviceChosenSpill, AnyOrderOfStepsChangesNoBit) {
  constexpr uint32_t kMostTexts = 2, kMostPositions = 1000, kBegun = 400;
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const LoadedMember member("llama3");
  const auto tokens = member.text(kMostPositions, static_cast<uint32_t>(seed));
  WalkSetting setting = chosen_setting();
  setting.chunk_rows = 32;
  SpillRun whole(member, setting, 2, 0, {}, kManyTexts);
  SpillRun away(member, setting, 2, 310, {.seed = seed}, kManyTexts, kMostTexts);
  std::vector<std::pair<Sequence, Sequence>> texts;  // of the one run and of the other
  const auto feed = [&](std::pair<Sequence, Sequence>& text, uint32_t n, Attention attention) {
    const auto next = std::span(tokens).subspan(text.first.n_pos(), n);
    const Logits expected = whole.walk().feed(text.first, next, 0, attention);
    EXPECT_EQ(first_difference(away.walk().feed(text.second, next, 0, attention), expected),
              std::nullopt)
        << n << " rows up to " << text.first.n_pos();
  };
  const auto begin = [&](uint32_t n) {
    texts.emplace_back(whole.walk().sequence(), away.walk().sequence());
    feed(texts.back(), n, Attention::kExact);
  };
  for (uint32_t i = 0; i < 60 && !HasFailure(); ++i) {
    const uint64_t choice = random() % 16;
    if (texts.empty() || (choice == 0 && texts.size() < kMostTexts)) {
      begin(kBegun);
      continue;
    }
    const uint64_t at = random() % texts.size();
    const uint32_t n_pos = texts[at].first.n_pos();
    if (choice == 1 && texts.size() < kMostTexts) {
      texts.emplace_back(texts[at].first.fork(), texts[at].second.fork());
    } else if (choice == 2) {
      const auto end = static_cast<uint32_t>(random() % (n_pos + 1));
      EXPECT_EQ(texts[at].first.truncate(end), texts[at].second.truncate(end));
    } else if (choice == 3 || n_pos + 64 > kMostPositions) {
      std::swap(texts[at], texts.back());
      texts.pop_back();
    } else if (random() % 2 == 0 && n_pos > 100) {
      feed(texts[at], 1 + static_cast<uint32_t>(random() % 12), Attention::kSelected);
    } else {
      feed(texts[at], 1 + static_cast<uint32_t>(random() % 64), Attention::kExact);
    }
  }
  texts.clear();
  begin(kMostPositions - 20);
  for (uint32_t i = 0; i < 4; ++i) feed(texts.back(), 3, Attention::kSelected);
  EXPECT_GT(away.store().blocks_read, 0u);
}

}  // namespace
}  // namespace strata::engine

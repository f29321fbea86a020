// Steps on the virtual device, whose kernels have the emulator's effects: every copy and kernel of
// the engine is ordered by events, whatever the timing, and touches what is there. The device gives
// the first hazard as its answer, so a run to the end has none; the bits are those of the emulator
// alone.
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "tests/device/spill_run.h"
#include "tests/device/virtual_run.h"

namespace strata::engine {
namespace {

using testing::DeviceRun;
using testing::hazards_of;
using testing::HostWork;
using testing::least_hbm;
using testing::LoadedMember;
using testing::Logits;
using testing::VirtualTable;
using testing::WalkSetting;

constexpr uint32_t kOrderSeed = 20261126;

WalkSetting order_setting(uint32_t chunk_rows = kDeviceFewRows) {
  WalkSetting of{
      .kernels = cpu_attn::available_kernels().back(), .chunk_rows = chunk_rows, .n_ctx = 128};
  of.n_sequences = 3;
  return of;
}

/// A text in chunks and token by token, a fork that goes on, and one that is cut.
std::vector<Logits> walked(DeviceRun& run, std::span<const int32_t> text) {
  std::vector<Logits> all;
  Sequence first = run.walk().sequence();
  all.push_back(run.walk().feed(first, text.first(40)));
  for (const int32_t token : text.subspan(40, 34))
    all.push_back(run.walk().feed(first, std::span(&token, 1)));
  Sequence second = first.fork();
  all.push_back(run.walk().feed(first, text.subspan(74)));
  all.push_back(run.walk().feed(second, text.subspan(74)));
  const uint32_t n_kept = second.truncate(70);
  all.push_back(run.walk().feed(second, text.subspan(n_kept)));
  return all;
}

uint64_t without_kv(const DevicePlan& plan) { return plan.hbm_bytes - plan.kv_bytes; }

/// With all of HBM, with the least, and with room for some of K and V.
TEST(DeviceOrder, EveryCopyAndKernelIsOrderedWhereverBytesLie) {
  for (const char* name : {"gemma3", "llama-quantised"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(90, kOrderSeed);
    DeviceRun emulated(member, order_setting());
    const std::vector<Logits> expected = walked(emulated, text);
    const DevicePlan& plan = emulated.plan();
    for (const uint64_t hbm_bytes :
         {uint64_t{0}, least_hbm(emulated.needs()), plan.hbm_bytes - plan.kv_bytes / 3 * 2}) {
      SCOPED_TRACE(hbm_bytes);
      VirtualTable device;
      DeviceRun run(member, order_setting(), hbm_bytes, device.table());
      std::vector<Logits> found;
      try {
        found = walked(run, text);
      } catch (const Error& error) {
        ADD_FAILURE() << error.what() << "\n" << hazards_of(run);
        continue;
      }
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(testing::is_same(found[i], expected[i])) << i;
      EXPECT_EQ(hazards_of(run), "");
      EXPECT_GT(planner::virtual_device(run.opened()).clock().n_events(), 1000u);
    }
  }
}

/// A row that wants logits ends a part of few rows; those of a chunk do not.
TEST(DeviceOrder, AlsoOfChunksThatGoThroughTheTensorCores) {
  const testing::LoadedModel loaded(
      testing::wide_llama(makers::zoo_member("llama3").model.n_layers));
  const auto text = loaded.text(100, kOrderSeed);
  const auto read = [&](DeviceRun& run) {
    Sequence sequence = run.walk().sequence();
    Logits last;
    for (uint32_t done = 0, n = 0; done < text.size(); done += n) {
      n = std::min(40u, static_cast<uint32_t>(text.size()) - done);
      std::vector<StepRow> rows;
      for (const int32_t token : std::span(text).subspan(done, n))
        rows.push_back({&sequence, token, false});
      rows.back().wants_logits = true;
      last.push_back(run.walk().step(rows).front());
    }
    return last;
  };
  for (const bool is_least : {false, true}) {
    DeviceRun emulated(loaded, order_setting(40));
    VirtualTable device;
    DeviceRun run(loaded, order_setting(40), is_least ? least_hbm(emulated.needs()) : 0,
                  device.table());
    EXPECT_TRUE(testing::is_same(read(run), read(emulated)));
    EXPECT_EQ(device.n_prefills(), 3 * loaded.model.shape().n_layers);
    EXPECT_EQ(hazards_of(run), "");
  }
}

/// Blocks that are chosen go where others were, between kernels that read both.
TEST(DeviceOrder, AlsoOfChosenBlocksThatTakeOthersPlaces) {
  const LoadedMember member("llama3");
  const auto text = member.text(330, kOrderSeed);
  WalkSetting of = order_setting();
  of.n_ctx = 352;
  of.method = index::Method::kQuest;
  of.rule.budget = {index::Budget::Kind::kTokens, 128};
  of.rule.n_window_blocks = 1;
  const auto selected = [&](DeviceRun& run) {
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(310));
    Logits all =
        run.walk().feed(sequence, std::span(text).subspan(310, 5), 0, Attention::kSelected);
    for (uint32_t i = 315; i < 330; ++i)
      all.push_back(run.walk()
                        .feed(sequence, std::span(text).subspan(i, 1), 0, Attention::kSelected)
                        .front());
    return all;
  };
  Logits expected;
  uint64_t step_bytes = 0, hbm_without_kv = 0;  // chosen by a step, of which 16 do
  {
    VirtualTable device;
    DeviceRun whole(member, of, 0, device.table());
    expected = selected(whole);
    step_bytes = whole.device().kv_counts().chosen_bytes / 16;
    hbm_without_kv = whole.plan().hbm_bytes - whole.plan().kv_bytes;
  }
  VirtualTable device;
  DeviceRun run(member, of, hbm_without_kv + 2 * step_bytes, device.table());
  try {
    EXPECT_EQ(testing::first_difference(selected(run), expected).value_or(""), "");
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
  EXPECT_EQ(hazards_of(run), "");
  EXPECT_GT(run.device().kv_counts().missed_bytes, 0u);
}

/// Most of a text of which DRAM holds less than a layer lacks: what a wave has brought stays until
/// it is copied, and the next one takes its slots.
TEST(DeviceOrder, AlsoOfChosenBlocksThatAreReadBackInWaves) {
  constexpr uint32_t kExact = 1536, kChosen = 4, kTexts = 8;
  const LoadedMember member("llama3");
  const auto text = member.text(kExact + kChosen, kOrderSeed);
  WalkSetting of = testing::spill_setting();
  of.chunk_rows = 32;
  of.method = index::Method::kQuest;
  of.rule.budget = {index::Budget::Kind::kShare, 0.9};
  const auto selected = [&](testing::SpillRun& run) {
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(kExact));
    Logits all;
    for (uint32_t i = kExact; i < text.size(); ++i)
      all.push_back(run.walk()
                        .feed(sequence, std::span(text).subspan(i, 1), 0, Attention::kSelected)
                        .front());
    return all;
  };
  Logits expected;
  {
    VirtualTable device;
    testing::SpillRun whole(member, of, 3, 0, {}, kTexts, 1, device.table());
    expected = selected(whole);
  }
  VirtualTable device;
  testing::SpillRun run(member, of, 3, 320, {}, kTexts, 1, device.table());
  try {
    EXPECT_EQ(testing::first_difference(selected(run), expected).value_or(""), "");
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
  EXPECT_EQ(hazards_of(*run.run), "");
  EXPECT_GT(run.store().blocks_read, 0u);
}

/// Where the CPU attends beside the device: with weights that stay and that pass, of texts of which
/// all or the end is its part.
TEST(DeviceOrder, AlsoOfAttentionOnBothSides) {
  for (const char* name : {"gemma3", "llama-quantised"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(90, kOrderSeed);
    const DeviceRun whole(member, order_setting());
    for (const uint64_t hbm_bytes : {least_hbm(whole.needs()), without_kv(whole.plan())}) {
      SCOPED_TRACE(hbm_bytes);
      DeviceRun emulated(member, order_setting(), hbm_bytes, gpu_emu::emulated_device(), 1);
      const std::vector<Logits> expected = walked(emulated, text);
      VirtualTable device;
      DeviceRun run(member, order_setting(), hbm_bytes, device.table(), 1);
      std::vector<Logits> found;
      try {
        found = walked(run, text);
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
      ASSERT_EQ(found.size(), expected.size()) << hazards_of(run);
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(testing::is_same(found[i], expected[i])) << i;
      EXPECT_EQ(hazards_of(run), "");
      EXPECT_GT(run.device().kv_counts().cpu_bytes, 0u);
    }
  }
}

/// Where the CPU multiplies beside the device: of rows and of chunks, between which what passes
/// differs; with all that passes in chunks, a part of it, and with a piece of each layer.
TEST(DeviceOrder, AlsoOfProductsOnBothSides) {
  const testing::LoadedModel member(testing::wide_llama(5));
  const auto text = member.text(90, kOrderSeed);
  const auto chunks_and_tokens = [&](DeviceRun& run) {
    Sequence sequence = run.walk().sequence();
    Logits logits;
    for (const auto& [first, end] : {std::pair{0u, 40u}, {40, 41}, {41, 42}, {42, 70}, {70, 90}}) {
      std::vector<StepRow> rows;
      for (const int32_t token : std::span(text).subspan(first, end - first))
        rows.push_back({&sequence, token, first + rows.size() + 1 == end});
      for (auto& row : run.walk().step(rows)) logits.push_back(std::move(row));
      for (const int32_t token : std::span(text).first(3))
        for (auto& row : run.walk().feed(sequence, std::span(&token, 1)))
          logits.push_back(std::move(row));
    }
    return logits;
  };
  for (const double share : {1.0, 0.4, 0.0}) {  // 0: the FFN of each layer, whose attention passes
    SCOPED_TRACE(share);
    const auto change = [&](const DeviceNeeds& needs, DevicePlan& plan) {
      plan = device_plan_of(needs, std::vector<PieceSet>(5, kNoPiece));
      plan.on_cpu = share > 0 ? share_products(plan.resident, share)
                              : std::vector<PieceSet>(5, PieceSet{.ffn = true});
    };
    DeviceRun emulated(member, order_setting(40), 0, gpu_emu::emulated_device(), 0, change);
    VirtualTable device;
    DeviceRun run(member, order_setting(40), 0, device.table(), 0, change);
    try {
      EXPECT_TRUE(testing::is_same(chunks_and_tokens(run), chunks_and_tokens(emulated)));
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
    EXPECT_EQ(hazards_of(run), "");
    EXPECT_GT(run.device().cpu_weight_bytes(), 0u);
  }
}

/// Work of the host behind the wait for the queries, where the CPU attends: what takes no longer
/// than the card's own part, which it reads across the link, costs a token nothing.
TEST(DeviceOrder, TheCpuAttendsWhileTheCardDoes) {
  const LoadedMember member("llama3");
  const auto text = member.text(530, kOrderSeed);  // three segments: two across the link
  WalkSetting of = order_setting();
  of.n_ctx = 560;
  VirtualTable device;
  HostWork work(device, 30e9);
  const DeviceRun whole(member, of);
  DeviceRun run(member, of, without_kv(whole.plan()), device.table(), 0.5);
  work.is_on(run.opened());
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(520));
  const auto token_us = [&](double us) {
    work.set_us(us);
    return work.timed_us(
        [&] { run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos(), 1)); });
  };
  constexpr double kShort = 8, kLong = 1000;  // us a layer
  const double n_layers = member.model.shape().n_layers;
  const double idle = token_us(0);
  EXPECT_LT(token_us(kShort) - idle, 0.1 * n_layers * kShort);
  EXPECT_GT(token_us(kLong) - idle, 0.9 * n_layers * kLong);
  EXPECT_NEAR(token_us(0), idle, 0.02 * idle);
  EXPECT_EQ(hazards_of(run), "");
}

/// Work of the host behind each wait for rows that it multiplies, of every second layer: as long as
/// the others cross the link meanwhile, a token takes no longer.
TEST(DeviceOrder, TheCpuMultipliesWhileTheLinkBringsLayers) {
  makers::RandomTransformer model = makers::zoo_member("llama3").model;
  model.n_layers = 8;
  model.d_ff = 4096;
  const testing::LoadedModel member(model);
  const auto text = member.text(24, kOrderSeed);
  VirtualTable device(0.05);   // a token's time is the link's
  HostWork work(device, 1e9);  // leaves DRAM to the link
  const auto halved = [](const DeviceNeeds& needs, DevicePlan& plan) {
    plan = device_plan_of(needs, std::vector<PieceSet>(8, kNoPiece));
    plan.on_cpu = share_products(plan.resident, 0.5);
  };
  DeviceRun run(member, order_setting(), 0, device.table(), 0, halved);
  work.is_on(run.opened());
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(8));
  const auto token_us = [&](double us) {
    work.set_us(us);
    const auto feed_one = [&] {
      run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos(), 1));
    };
    feed_one();  // begins with what was copied beside another one's work
    return work.timed_us(feed_one);
  };
  constexpr double kProducts = 4 * 3;  // of a token
  const double idle = token_us(0);
  EXPECT_EQ(work.n_waits(), kProducts);
  const double layer_us = idle / 4;  // of the link
  EXPECT_LT(token_us(layer_us / 6) - idle, 0.1 * kProducts * layer_us / 6);
  EXPECT_GT(token_us(layer_us) - idle, 0.5 * kProducts * layer_us);
  EXPECT_NEAR(token_us(0), idle, 0.02 * idle);
  EXPECT_EQ(hazards_of(run), "");
}

/// The judge of the waits: a host that does not wait for the queries attends by what was there
/// before.
TEST(DeviceOrder, AHostThatDoesNotAwaitTheQueriesAnswersOtherwise) {
  const LoadedMember member("llama3");
  const auto text = member.text(20, kOrderSeed);
  const DeviceRun whole(member, order_setting());
  const uint64_t hbm_bytes = without_kv(whole.plan());
  DeviceRun emulated(member, order_setting(), hbm_bytes, gpu_emu::emulated_device(), 1);
  VirtualTable device;
  device.table().wait_event = [](DeviceEvent*) { return 0; };
  DeviceRun run(member, order_setting(), hbm_bytes, device.table(), 1);
  const Logits expected = emulated.walk().feed_all(text);
  try {
    EXPECT_FALSE(testing::is_same(run.walk().feed_all(text), expected));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeviceLost);
  }
}

/// The judge itself: a device that leaves every wait of a stream out is found.
TEST(DeviceOrder, AStreamThatDoesNotAwaitItsWeightsIsFound) {
  const LoadedMember member("llama3");
  const auto text = member.text(20, kOrderSeed);
  DeviceRun emulated(member, order_setting());
  VirtualTable device;
  device.table().await = [](DeviceStream*, DeviceEvent*) { return 0; };
  try {
    DeviceRun run(member, order_setting(), least_hbm(emulated.needs()), device.table());
    run.walk().feed_all(text);
    ADD_FAILURE() << "no hazard was found";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDeviceLost);
    EXPECT_NE(std::string(error.what()).find("no event orders"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace strata::engine

// Selected steps whose index the device searches, by the emulator: choices are those of the host's
// search of the same rows, whatever becomes of texts meanwhile.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "tests/device/device_run.h"
#include "tests/device/search_run.h"
#include "tests/device/spill_run.h"
#include "tests/device/virtual_run.h"
#include "tests/device/watched_device.h"
#include "tests/engine/cached_run.h"
#include "tests/engine/thrown_error.h"
#include "tests/engine/zoo_distance.h"

namespace strata::engine {
namespace {

using testing::answer_all;
using testing::answer_from;
using testing::DeviceRun;
using testing::first_difference;
using testing::hazards_of;
using testing::host_run;
using testing::kSearchAnswer;
using testing::kSearchAsked;
using testing::kSearchRead;
using testing::kSearchSeed;
using testing::kSearchTokens;
using testing::let_host_search;
using testing::LoadedMember;
using testing::Logits;
using testing::scan_as_host;
using testing::search_setting;
using testing::VirtualTable;
using testing::WalkSetting;

uint64_t n_scans = 0;  // by this device
const DeviceTable& device_scanning_as_host() {
  static const DeviceTable made = [] {
    DeviceTable table = gpu_emu::emulated_device();
    table.kernels.scan_codes = [](DeviceStream*, const DeviceScanArgs& args) {
      ++n_scans;
      return scan_as_host(args);
    };
    return table;
  }();
  return made;
}

DeviceRun card_run(const LoadedMember& member, const WalkSetting& setting) {
  return DeviceRun(member, setting, 0, device_scanning_as_host());
}

/// The same choices, then the same bits. Layers that do not ask the index are not searched.
TEST(DeviceSearch, ChoosesWhatTheHostsSearchChooses) {
  for (const auto& [name, has_modes] :
       {std::pair{"llama3", false}, {"llama3", true}, {"gemma3", false}, {"llama-yarn", true}}) {
    SCOPED_TRACE(std::string(name) + (has_modes ? " with layers that do not ask" : ""));
    const LoadedMember member(name);
    const auto text = member.text(kSearchTokens, kSearchSeed);
    WalkSetting setting = search_setting();
    using Mode = index::LayerMode;
    if (has_modes) setting.rule.layers = {Mode::kDense, Mode::kIndex, Mode::kReuse};
    DeviceRun card = card_run(member, setting), host = host_run(member, setting);
    EXPECT_GT(card.plan().index_bytes, 0u);
    const Logits expected = answer_all(host.walk(), text);
    n_scans = 0;
    EXPECT_EQ(first_difference(answer_all(card.walk(), text), expected), std::nullopt);
    uint64_t n_asking = 0;
    for (uint32_t layer = 0; layer < member.model.shape().n_layers; ++layer)
      n_asking += member.model.shape().layers[layer].window == 0 &&
                  setting.rule.mode_of(layer) == Mode::kIndex;
    EXPECT_EQ(n_scans, n_asking * (div_up(kSearchAsked, kDeviceFewRows) + kSearchAnswer));
    const SelectionCounts of_card = card.walk().walk().selection_counts();
    const SelectionCounts of_host = host.walk().walk().selection_counts();
    EXPECT_EQ(of_card.attended_blocks, of_host.attended_blocks);
    EXPECT_LT(of_card.attended_blocks, of_card.blocks);
    EXPECT_EQ(of_card.index_bytes, of_host.index_bytes);
    EXPECT_EQ(of_card.scanned_on_device_bytes, of_card.index_bytes);
    EXPECT_EQ(of_host.scanned_on_device_bytes, 0u);
    // DRAM is not read for it.
    EXPECT_EQ(card.walk().walk().counts().read_bytes + of_card.index_bytes,
              host.walk().walk().counts().read_bytes);
    EXPECT_GT(card.device().index_counts().row_bytes, 0u);
    EXPECT_EQ(host.device().index_counts().to_device_bytes(), 0u);
  }
}

/// Law L6. Tables of so few blocks are one split, whoever cuts them.
TEST(DeviceSearch, ABudgetOfEverythingIsExactAttention) {
  for (const char* name : {"llama3", "gemma3", "llama-quantised"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(200, kSearchSeed);
    WalkSetting whole = search_setting({index::Budget::Kind::kShare, 1});
    whole.n_ctx = 256;
    DeviceRun run = DeviceRun(member, whole);
    const auto walked = [&](Attention attention) {
      Sequence sequence = run.walk().sequence();
      run.walk().feed(sequence, std::span(text).first(150));
      Logits logits = run.walk().feed(sequence, std::span(text).subspan(150, 40), 0, attention);
      for (uint32_t i = 190; i < 200; ++i)
        logits.push_back(
            run.walk().feed(sequence, std::span(text).subspan(i, 1), 0, attention).front());
      return logits;
    };
    EXPECT_EQ(first_difference(walked(Attention::kSelected), walked(Attention::kExact)),
              std::nullopt);
    EXPECT_GT(run.walk().walk().selection_counts().scanned_on_device_bytes, 0u);
  }
}

/// To the byte, beside what a token chooses; the rest of K and V is read across the link in either
/// case.
TEST(DeviceSearch, WhereRowsHaveNoRoomTheHostSearches) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSearchTokens, kSearchSeed);
  WalkSetting setting = search_setting();
  setting.n_ctx = 32768;  // K and V of which are larger than the rows
  DeviceRun host = host_run(member, setting);
  const Logits expected = answer_all(host.walk(), text);
  const DeviceRun whole = card_run(member, setting);
  const uint64_t chosen = whole.needs().kv_bytes_chosen;
  EXPECT_GT(chosen, 0u);
  EXPECT_LT(chosen, whole.plan().kv_bytes / 8);
  const uint64_t least = whole.plan().hbm_bytes - whole.plan().kv_bytes + chosen;
  for (const bool has_room : {false, true}) {
    SCOPED_TRACE(has_room);
    DeviceRun run(member, setting, least - (has_room ? 0u : 1u), device_scanning_as_host());
    EXPECT_EQ(run.plan().index_bytes, has_room ? whole.plan().index_bytes : 0u);
    EXPECT_GE(run.plan().kv_bytes, chosen);
    EXPECT_EQ(run.plan().kv_bytes > chosen, !has_room);
    EXPECT_LT(run.plan().kv_bytes, whole.plan().kv_bytes);
    EXPECT_EQ(run.plan().n_streamed(), 0u);
    EXPECT_EQ(first_difference(answer_all(run.walk(), text), expected), std::nullopt);
    EXPECT_EQ(run.walk().walk().selection_counts().scanned_on_device_bytes > 0, has_room);
  }
}

/// A text that is cut and goes on with other tokens, a fork that does, and the first one again.
TEST(DeviceSearch, RowsOfATextThatWasCutAreNotThoseOfBefore) {
  const LoadedMember member("llama3");
  const WalkSetting setting = search_setting();
  DeviceRun run = card_run(member, setting);
  const auto first = member.text(kSearchTokens, kSearchSeed);
  // Other tokens from the second block on: of the index nearly all is other.
  auto second = member.text(kSearchTokens, kSearchSeed + 1);
  std::copy_n(first.begin(), 40, second.begin());
  const auto fresh = [&](std::span<const int32_t> text) {
    DeviceRun host = host_run(member, setting);
    return answer_all(host.walk(), text);
  };
  const Logits of_first = fresh(first), of_second = fresh(second);
  EXPECT_NE(first_difference(of_first, of_second), std::nullopt);
  testing::ZooWalk& walk = run.walk();
  Sequence sequence = walk.sequence();
  const auto read_from = [&](Sequence& of, std::span<const int32_t> text) {
    walk.feed(of, text.subspan(of.n_pos(), kSearchRead - of.n_pos()));
    return answer_from(walk, of, text);
  };
  EXPECT_EQ(first_difference(read_from(sequence, first), of_first), std::nullopt);
  sequence.truncate(40);
  EXPECT_EQ(first_difference(read_from(sequence, second), of_second), std::nullopt);
  Sequence fork = sequence.fork();
  fork.truncate(40);
  EXPECT_EQ(first_difference(read_from(fork, first), of_first), std::nullopt);
  sequence.truncate(kSearchRead);
  EXPECT_EQ(first_difference(answer_from(walk, sequence, second), of_second), std::nullopt);
}

std::atomic<bool> ends_its_step = false;  // by this device, as it is asked for the second time

/// Rows were copied and scanned for a layer, then the step ends: it is taken again as if it had not
/// been.
TEST(DeviceSearch, AStepThatIsCancelledIsTakenAgain) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSearchTokens, kSearchSeed);
  static uint32_t n_asked = 0;
  DeviceTable stopping = gpu_emu::emulated_device();
  stopping.kernels.scan_codes = [](DeviceStream*, const DeviceScanArgs& args) {
    if (++n_asked % 9 == 2) ends_its_step = true;
    return scan_as_host(args);
  };
  DeviceRun host = host_run(member, search_setting());
  const Logits expected = answer_all(host.walk(), text);
  DeviceRun run(member, search_setting(), 0, stopping);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kSearchRead));
  run.walk().walk().set_cancel(&ends_its_step);
  Logits found;
  uint32_t n_stopped = 0;
  while (sequence.n_pos() < text.size()) {
    const uint32_t begin = sequence.n_pos(), n = begin == kSearchRead ? kSearchAsked : 1;
    try {
      for (auto& row :
           run.walk().feed(sequence, std::span(text).subspan(begin, n), 0, Attention::kSelected))
        found.push_back(std::move(row));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
      EXPECT_EQ(sequence.n_pos(), begin);
      ends_its_step = false;
      ++n_stopped;
    }
  }
  EXPECT_GT(n_stopped, 3u);
  EXPECT_EQ(first_difference(found, expected), std::nullopt);
}

/// Rows of two texts in one step, of more than choose together, and then token by token.
TEST(DeviceSearch, TextsThatTakeTurnsHaveTheirOwnRows) {
  const LoadedMember member("llama3");
  const WalkSetting setting = search_setting();
  const std::vector<std::vector<int32_t>> texts = {member.text(kSearchTokens, kSearchSeed),
                                                   member.text(kSearchTokens, kSearchSeed + 1)};
  const auto in_turns = [&](testing::ZooWalk& walk) {
    std::vector<Sequence> sequences;
    for (const auto& text : texts) {
      sequences.push_back(walk.sequence());
      walk.feed(sequences.back(), std::span(text).first(kSearchRead));
    }
    Logits all;
    while (sequences[0].n_pos() < kSearchTokens) {
      const uint32_t n = sequences[0].n_pos() == kSearchRead ? kSearchAsked : 1;
      std::vector<StepRow> rows;
      for (uint32_t of = 0; of < 2; ++of) {
        for (uint32_t i = 0; i < n; ++i)
          rows.push_back({&sequences[of], texts[of][sequences[of].n_pos() + i], true});
        if (of == 0 && n > 1) continue;  // both in one step
        for (auto& row : walk.step(rows, Attention::kSelected)) all.push_back(std::move(row));
        rows.clear();
      }
    }
    return all;
  };
  WalkSetting wide = setting;
  wide.chunk_rows = 2 * kSearchAsked;
  DeviceRun card = card_run(member, wide), host = host_run(member, wide);
  EXPECT_EQ(first_difference(in_turns(card.walk()), in_turns(host.walk())), std::nullopt);
}

/// What was chosen comes from DRAM and from a file.
TEST(DeviceSearch, WhereKAndVSpillToo) {
  constexpr uint32_t kRead = 1024, kAll = kRead + 20;
  const LoadedMember member("llama3");
  const auto text = member.text(kAll, kSearchSeed);
  const auto answer = [&](testing::SpillRun& of) {
    Sequence sequence = of.walk().sequence();
    of.walk().feed(sequence, std::span(text).first(kRead));
    Logits logits;
    for (uint32_t i = kRead; i < kAll; ++i)
      logits.push_back(
          of.walk().feed(sequence, std::span(text).subspan(i, 1), 0, Attention::kSelected).front());
    return logits;
  };
  const auto spilling = [&](uint64_t n_positions, bool card_searches) {
    return testing::SpillRun(member, testing::chosen_setting(index::Method::kRabitq, 3), 2,
                             n_positions, {}, testing::kManyTexts, 1, device_scanning_as_host(),
                             card_searches);
  };
  testing::SpillRun whole = spilling(0, true), away = spilling(560, true),
                    host = spilling(560, false);
  const Logits expected = answer(host);
  EXPECT_EQ(first_difference(answer(whole), expected), std::nullopt);
  EXPECT_EQ(first_difference(answer(away), expected), std::nullopt);
  EXPECT_GT(away.store().blocks_read, 0u);
  EXPECT_GT(away.walk().walk().selection_counts().scanned_on_device_bytes, 0u);
  EXPECT_EQ(host.walk().walk().selection_counts().scanned_on_device_bytes, 0u);
}

/// Saved by the CPU, opened again beside a device: K, V and rows come from files.
TEST(DeviceSearch, RowsOfASavedContextAreThoseThatWereSaved) {
  const LoadedMember member("llama3");
  const testing::TestFolder folder;
  const auto text = member.text(540, kSearchSeed);
  WalkSetting setting = testing::cached_setting();
  setting.n_threads = 3;
  setting.method = index::Method::kRabitq;
  setting.rule = search_setting().rule;
  {
    testing::CachedRun saving(member, folder, {}, setting);
    saving.read(text);
    saving.finish();
  }
  const auto answered = [&](bool card_searches) {
    DeviceRun run(
        member, setting, 0, device_scanning_as_host(), 0,
        [&](const DeviceNeeds&, DevicePlan& plan) {
          if (!card_searches) plan.index_bytes = 0;
        },
        testing::CachedRun::transfers(member));
    ContextCache contexts({.directory = folder.path("contexts"), .limits = {}, .saves = false},
                          run.walk().cache(), testing::kCachedModel, "test");
    Sequence sequence = contexts.restore(run.walk().cache(), std::span(text).first(539));
    EXPECT_GE(sequence.n_pos(), 512u);
    EXPECT_EQ(sequence.n_indexed(), sequence.n_pos() / kBlockPositions);
    Logits logits = run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos()), 0,
                                    Attention::kSelected);
    EXPECT_EQ(run.walk().walk().selection_counts().scanned_on_device_bytes > 0, card_searches);
    return logits;
  };
  EXPECT_EQ(first_difference(answered(true), answered(false)), std::nullopt);
}

/// Of 16 heads of a KV head fewer rows are scored one by one than choose together: their means are
/// made on the host.
TEST(DeviceSearch, MeansOfRowsAreTheHostsToScore) {
  makers::RandomTransformer model = makers::zoo_member("llama3").model;
  model.n_heads = 16;
  model.n_kv_heads = 1;
  const testing::LoadedModel member(model);
  const auto text = member.text(kSearchTokens, kSearchSeed);
  const WalkSetting setting = search_setting();
  DeviceRun card(member, setting, 0, device_scanning_as_host());
  DeviceRun host(member, setting, 0, gpu_emu::emulated_device(), 0, let_host_search);
  Sequence of_card = card.walk().sequence(), of_host = host.walk().sequence();
  card.walk().feed(of_card, std::span(text).first(kSearchRead));
  host.walk().feed(of_host, std::span(text).first(kSearchRead));
  const auto asked = [&](DeviceRun& run, const Sequence& read, uint32_t n_rows) {
    Sequence sequence = read.fork();
    std::vector<StepRow> rows;
    for (uint32_t i = 0; i < n_rows; ++i) rows.push_back({&sequence, text[kSearchRead + i], true});
    return run.walk().step(rows, Attention::kSelected);
  };
  for (const uint32_t n_rows : {1u, 6u, 7u, 8u}) {
    SCOPED_TRACE(n_rows);
    const SelectionCounts before = card.walk().walk().selection_counts();
    EXPECT_EQ(first_difference(asked(card, of_card, n_rows), asked(host, of_host, n_rows)),
              std::nullopt);
    const SelectionCounts of = card.walk().walk().selection_counts().since(before);
    EXPECT_GT(of.index_bytes, 0u);
    EXPECT_EQ(of.scanned_on_device_bytes, n_rows <= 6 ? of.index_bytes : 0u);
  }
}

/// Rows of blocks that close are copied between kernels that read the rows of before.
TEST(DeviceSearch, EveryCopyAndScanIsOrdered) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSearchTokens, kSearchSeed);
  VirtualTable device;
  DeviceTable like = gpu_emu::emulated_device();
  like.facts = [](Device* of, DeviceFacts* facts) {  // by which attention is cut
    const int number = gpu_emu::emulated_device().facts(of, facts);
    facts->n_multiprocessors = planner::device_profile("rtx3060").n_multiprocessors;
    return number;
  };
  DeviceRun emulated = DeviceRun(member, search_setting(), 0, like);
  const Logits expected = answer_all(emulated.walk(), text);
  DeviceRun run = DeviceRun(member, search_setting(), 0, device.table());
  try {
    EXPECT_EQ(first_difference(answer_all(run.walk(), text), expected), std::nullopt);
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
  EXPECT_EQ(hazards_of(run), "");
  EXPECT_GT(run.walk().walk().selection_counts().scanned_on_device_bytes, 0u);
}

/// A device that is lost while the host waits for what it has found ends the step, and all that
/// come after it.
TEST(DeviceSearch, ADeviceThatIsLostWhileItSearchesEndsTheAnswer) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSearchTokens, kSearchSeed);
  testing::watch() = {};
  DeviceRun run = DeviceRun(member, search_setting(), 0, testing::watched_device());
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kSearchRead));
  const std::vector<StepRow> rows{{&sequence, text[kSearchRead], true}};
  const auto step = [&] { run.walk().step(rows, Attention::kSelected); };
  testing::watch().failed_wait = 719;
  testing::expect_error(step, ErrorCode::kDeviceLost, "error 719", "cuda:0");
  testing::watch().failed_wait = 0;
  testing::expect_error(step, ErrorCode::kDeviceLost, "error 719", "cuda:0");
  EXPECT_EQ(sequence.n_pos(), kSearchRead);
  EXPECT_EQ(run.walk().walk().selection_counts().steps, 0u);
}

}  // namespace
}  // namespace strata::engine

// What `strata calibrate` measures: that every figure is there, that bytes and operations are those
// of their formulas, that wrong results are noticed. No rate is judged.
#include "tools/cli/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "cpu_attn/pack.h"
#include "planner/virtual/device_profile.h"
#include "planner/virtual/virtual_table.h"
#include "tests/engine/test_folder.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"
#include "tools/cli/attend_trial.h"
#include "tools/cli/calibrate_disk.h"
#include "tools/cli/index_trial.h"
#include "tools/cli/linear_trial.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"
#include "tools/cli/walk_trial.h"

namespace strata::cli {
namespace {

using engine::testing::TestFolder;
using planner::MachineProfile;

constexpr uint64_t kMiB = uint64_t{1} << 20;

CalibrateOptions small(const std::string& folder) {
  CalibrateOptions options;
  options.kernels = &cpu_attn::choose_kernels();
  options.types = {TensorType::kQ4_0, TensorType::kF16};
  options.head_dims = {48, 64};
  options.disk_folder = folder;
  options.n_passes = 1;
  options.pass_s_max = 0;
  options.pair_s = 0;
  options.memory_bytes = 4 * kMiB;
  options.disk_bytes = 4 * kMiB;
  options.n_gemm_rows = 4;
  return options;
}

TEST(Calibrate, GivesAProfileThatIsReadBackWithEveryFigure) {
  const TestFolder folder;
  ThreadPool pool(2);
  CalibrateOptions options = small(folder.path());
  std::vector<std::string> figures;
  options.on_figure = [&](const std::string& line) { figures.push_back(line); };
  MachineProfile profile;
  profile.n_threads = 2;
  profile.dram_bytes = 1;
  profile.disk = "a disk";
  profile.measured_at = "2026-11-26T13:20:00Z";
  calibrate(options, pool, profile);
  // The parser refuses rates and shares that are not above 0.
  const MachineProfile back =
      parse_machine_profile(machine_profile_json(profile), "profile of this test");
  ASSERT_EQ(back.linear.size(), 2u);
  EXPECT_EQ(back.linear[1].type, TensorType::kF16);
  ASSERT_EQ(back.attend.size(), 3u);  // a head_dim of 48 has no q8_0
  EXPECT_EQ(back.attend[0].head_dim, 48u);
  EXPECT_EQ(back.attend[2].codec, KvCodec::kQ8_0);
  EXPECT_EQ(back.disk_read.size(), std::size(kDiskSizes) * std::size(kDiskDepths));
  ASSERT_EQ(back.pairs.size(), 2u);
  EXPECT_EQ(back.pairs[0].second, "attend");
  EXPECT_EQ(back.pairs[1].second, "gemv");
  EXPECT_EQ(back.disk_write.size(), std::size(kDiskSizes) * std::size(kDiskWriteDepths));
  ASSERT_EQ(back.index.size(), 4u);  // pq and rabitq, of both head_dims
  EXPECT_EQ(back.index[0].method, "pq");
  EXPECT_EQ(back.index[3].method, "rabitq");
  EXPECT_EQ(back.index[3].head_dim, 64u);
  EXPECT_EQ(figures.size(), 1u + 2u + 1u + 1u + 3u + 4u + 3u + 2u);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Calibrate, WithoutADiskThereAreNoFiguresOfOne) {
  ThreadPool pool(1);
  CalibrateOptions options = small("");
  options.types = {TensorType::kQ8_0};
  options.head_dims = {64};
  MachineProfile profile;
  calibrate(options, pool, profile);
  EXPECT_EQ(profile.disk_read_bytes_per_s, 0);
  EXPECT_TRUE(profile.disk_read.empty());
  EXPECT_TRUE(profile.pairs.empty());
  EXPECT_EQ(profile.linear.size(), 1u);
}

TEST(Calibrate, EndsWhereItIsCancelledAndLeavesNothing) {
  const TestFolder folder;
  ThreadPool pool(1);
  const std::atomic<bool> cancel = true;
  CalibrateOptions options = small(folder.path());
  options.cancel = &cancel;
  MachineProfile profile;
  try {
    calibrate(options, pool, profile);
    ADD_FAILURE() << "it was not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Calibrate, AsksTheDiskForBytesThatItHas) {
  EXPECT_EQ(disk_requests(256 * kMiB, 4096, 1), 512u);
  EXPECT_EQ(disk_requests(256 * kMiB, 4096, 32), 4096u);
  EXPECT_EQ(disk_requests(256 * kMiB, 64 << 10, 32), 512u);
  EXPECT_EQ(disk_requests(256 * kMiB, 1 << 20, 32), 32u);
  EXPECT_EQ(disk_requests(4 * kMiB, 1 << 20, 32), 4u);
}

TEST(Calibrate, ASlowDiskIsAskedForLess) {
  // Of a second, where 32 requests took a tenth of it.
  EXPECT_EQ(requests_within(1, 32, 0.1, 4096), 320u);
  EXPECT_EQ(requests_within(1, 32, 0.1, 100), 100u);
  EXPECT_EQ(requests_within(1, 32, 5, 4096), 32u);  // those were enough
  EXPECT_EQ(requests_within(1, 32, 0, 4096), 4096u);
}

TEST(Calibrate, WithoutTimeForTheDiskEveryFigureIsThereAllTheSame) {
  const TestFolder folder;
  CalibrateOptions options = small(folder.path());
  options.disk_s_max = 0;
  RawDisk disk = RawDisk::make(folder.path(), options.disk_bytes, options.io, nullptr);
  MachineProfile profile;
  calibrate_disk(disk, options, profile);
  EXPECT_EQ(profile.disk_read.size(), std::size(kDiskSizes) * std::size(kDiskDepths));
  for (const auto& list : {profile.disk_read, profile.disk_write})
    for (const planner::DiskRate& rate : list) EXPECT_GT(rate.bytes_per_s, 0);
  EXPECT_EQ(profile.disk_is_direct, disk.is_direct());
}

/// What small requests wrote is what is read: their bytes stand where they belong, and nowhere
/// else.
TEST(RawDisk, WritesOfEverySizeAndDepthAreReadBack) {
  const TestFolder folder;
  RawDisk disk = RawDisk::make(folder.path(), 4 * kMiB, tiers::IoChoice::kThreads, nullptr);
  disk.write_all();
  for (const uint32_t size : kDiskSizes)
    for (const uint32_t depth : {1u, 32u, 256u}) {
      disk.write(disk.draw(64, size, false), size, depth);
      disk.read(disk.draw(1024, 4096, false), 4096, 32);  // throws where a page is another's
    }
}

TEST(RawDisk, LooksAtEveryByteThatComesWhereAskedTo) {
  const TestFolder folder;
  RawDisk disk = RawDisk::make(folder.path(), 4 * kMiB, tiers::IoChoice::kThreads, nullptr);
  disk.write_all();
  disk.read_all();
  EXPECT_EQ(disk.looked_at(), 0u);
  disk.look_at_bytes(true);
  disk.read_all();
  const uint64_t all = disk.looked_at();
  EXPECT_NE(all, 0u);
  disk.read(disk.draw(UINT64_MAX, 16 << 10, false), 16 << 10,
            8);  // the same ones by other requests
  EXPECT_EQ(disk.looked_at(), 2 * all);
  disk.read(disk.draw(64, 4096, false), 4096, 1);
  EXPECT_EQ(disk.looked_at(), 2 * all);
}

TEST(Calibrate, AShareIsAboveNothingAndAtMostAll) {
  EXPECT_EQ(share_left(3, 4), 0.75);
  EXPECT_EQ(share_left(5, 4), 1);
  EXPECT_GT(share_left(0, 4), 0);
}

TEST(LinearTrial, ReadsAllCopiesAndCountsMultiplyAndAdd) {
  const LinearTrialSizes sizes{.n_out = 64, .n_in = 256, .n_rows = 5, .memory_bytes = kMiB};
  const uint64_t matrix = 4 * cpu_attn::panel_bytes(TensorType::kQ4_K, 256);
  LinearTrial trial(cpu_attn::choose_kernels(), TensorType::kQ4_K, sizes);
  EXPECT_EQ(trial.decode_bytes(), kMiB / matrix * matrix);
  EXPECT_EQ(trial.prefill_flops(), 2.0 * 5 * 64 * 256);
  EXPECT_EQ(trial.file_bytes(), 64 * tensor_row_bytes(TensorType::kQ4_K, 256));
}

TEST(LinearTrial, KnowsARightKernelFromAWrongOne) {
  const LinearTrialSizes sizes{.n_out = 64, .n_in = 256, .n_rows = 4, .memory_bytes = kMiB};
  for (const auto& info : tensor_types())
    EXPECT_TRUE(LinearTrial(cpu_attn::choose_kernels(), info.type, sizes).is_right()) << info.name;
  KernelTable wrong = cpu_attn::choose_kernels();
  wrong.linear = [](const LinearArgs& args) {
    cpu_attn::choose_kernels().linear(args);
    args.out[args.out_stride + 7] += 1e-3f;
  };
  EXPECT_FALSE(LinearTrial(wrong, TensorType::kQ4_0, sizes).is_right());
}

TEST(AttendTrial, CountsItsBytes) {
  const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
  AttendTrial trial(cpu_attn::choose_kernels(), KvCodec::kQ8_0, 64, /*n_threads=*/2, 4 * kMiB);
  const uint64_t n_segments = 4 * kMiB / layout.block_bytes / 8;
  EXPECT_EQ(trial.decode_bytes(), n_segments * 256 * kv_position_bytes(layout));
}

TEST(AttendTrial, KnowsARightKernelFromAWrongOne) {
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    EXPECT_TRUE(AttendTrial(cpu_attn::choose_kernels(), codec, 64, 1, 4 * kMiB).is_right());
  KernelTable wrong = cpu_attn::choose_kernels();
  wrong.attend_segment = [](const AttendArgs& args) {
    cpu_attn::choose_kernels().attend_segment(args);
    args.o[65] *= 1.5f;
  };
  EXPECT_FALSE(AttendTrial(wrong, KvCodec::kF16, 64, 1, 4 * kMiB).is_right());
}

TEST(IndexTrial, ScansEveryBlockAndCountsWhatTheIndexReads) {
  ThreadPool pool(2);
  for (const auto method : {index::Method::kRabitq, index::Method::kPq}) {
    IndexTrial trial(cpu_attn::choose_kernels(), method, 64, pool, kMiB);
    EXPECT_EQ(trial.n_blocks() % 32, 0u);
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64);
    const double formula = index::scanned_bytes(method, layout, IndexTrial::kQueries) *
                           trial.n_blocks() * kBlockPositions * IndexTrial::kStreams;
    EXPECT_NEAR(trial.scanned_bytes() / formula, 1, 1e-3);
    EXPECT_LE(trial.scanned_bytes(), 1.1 * kMiB);
    trial.scan(pool);
    // Keys are drawn: no two neighbours weigh the same, and none was left out.
    for (uint32_t stream = 0; stream < IndexTrial::kStreams; ++stream)
      for (uint32_t i = 1; i < IndexTrial::kQueries * trial.n_blocks(); ++i)
        ASSERT_NE(trial.log_weights(stream)[i], trial.log_weights(stream)[i - 1]) << i;
  }
}

TEST(CalibrateDevice, FindsTheFiguresOfAVirtualCardsLink) {
  const auto profiles = planner::device_profiles();
  const auto card = std::ranges::find(profiles, "rtx4090", &planner::DeviceProfile::name);
  ASSERT_NE(card, profiles.end());
  const auto device = engine::OpenDevice::open(planner::virtual_table(),
                                               static_cast<uint32_t>(card - profiles.begin()));
  const planner::DeviceRates rates = calibrate_link(device);
  EXPECT_EQ(rates.hbm_bytes, device.facts().memory_bytes);
  // The virtual link takes alpha + bytes / rate, and an event some nanoseconds.
  EXPECT_NEAR(rates.host_to_device.alpha_us, card->in_alpha_us.value, 1);
  EXPECT_NEAR(rates.host_to_device.bytes_per_s / card->in_bytes_per_s.value, 1, 0.02);
  EXPECT_NEAR(rates.device_to_host.alpha_us, card->out_alpha_us.value, 1);
  EXPECT_NEAR(rates.device_to_host.bytes_per_s / card->out_bytes_per_s.value, 1, 0.02);
  EXPECT_EQ(rates.gemv_bytes_per_s, 0);
}

TEST(CalibrateDevice, FindsTheFiguresOfAVirtualCardsKernels) {
  const auto profiles = planner::device_profiles();
  for (const char* name : {"rtx3060", "laptop8"}) {
    SCOPED_TRACE(name);
    const auto card = std::ranges::find(profiles, name, &planner::DeviceProfile::name);
    ASSERT_NE(card, profiles.end());
    const auto device = engine::OpenDevice::open(planner::virtual_table(),
                                                 static_cast<uint32_t>(card - profiles.begin()));
    planner::DeviceRates rates{.hbm_bytes = 7, .copy_bytes_per_s = 8};
    calibrate_kernels(device, {TensorType::kQ4_K, TensorType::kF16}, 128, rates);
    EXPECT_EQ(rates.hbm_bytes, 7u);
    EXPECT_EQ(rates.copy_bytes_per_s, 8);
    // A virtual kernel takes its launch and the longer of bytes / rate and operations / rate.
    EXPECT_NEAR(rates.launch_us, card->graph_launch_us.value, 0.05);
    EXPECT_NEAR(rates.gemv_bytes_per_s / card->gemv_rate(), 1, 0.02);
    EXPECT_NEAR(rates.attend_bytes_per_s / card->hbm_rate(), 1, 0.02);
    EXPECT_NEAR(rates.gemm_flops / card->f16_tensor_rate(), 1, 0.02);
    EXPECT_NEAR(rates.attend_flops / card->attend_rate(), 1, 0.02);
    // Rows of heads too wide for it are not attended so.
    calibrate_kernels(device, {TensorType::kQ4_K}, 512, rates);
    EXPECT_EQ(rates.attend_flops, 0);
  }
}

TEST(CalibrateDevice, ACardWithoutRoomForItsKernelsKeepsWhatItHas) {
  // Room for weights, not for the rows of a prompt.
  DeviceTable table = planner::virtual_table();
  table.open = [](uint32_t, Device** device) {
    const planner::VirtualDeviceOptions little{.hbm_bytes_max = 80 * kMiB};
    *device = planner::as_device(
        *std::make_unique<planner::VirtualDevice>(planner::device_profiles()[0], little).release());
    return 0;
  };
  const auto device = engine::OpenDevice::open(table, 0);
  planner::DeviceRates rates{.hbm_bytes = 7, .gemm_flops = 9};
  try {
    calibrate_kernels(device, {TensorType::kQ4_K}, 128, rates);
    ADD_FAILURE() << "there was room";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  }
  EXPECT_EQ(rates.gemm_flops, 9);
  EXPECT_EQ(rates.gemv_bytes_per_s, 0);
}

TEST(LinearTrial, PacksEveryCopyAlike) {
  ThreadPool pool(2);
  const LinearTrialSizes sizes{.n_out = 80, .n_in = 256, .n_rows = 4, .memory_bytes = kMiB};
  LinearTrial trial(cpu_attn::choose_kernels(), TensorType::kQ4_K, sizes);
  const PackedMatrix& first = trial.matrix();
  const std::vector<std::byte> wanted(first.bytes, first.bytes + first.total_bytes());
  const uint64_t last = trial.n_copies() - 1;
  std::byte* copy = const_cast<std::byte*>(first.bytes) + last * first.total_bytes();
  const auto packs_last = [&](auto&& pack) {
    std::fill_n(copy, first.total_bytes(), std::byte{0xA5});
    pack();
    return std::ranges::equal(wanted, std::span(copy, wanted.size()));
  };
  EXPECT_TRUE(packs_last([&] { trial.pack_copy(pool, last); }));
  EXPECT_TRUE(packs_last([&] { trial.pack_all_by_lanes(); }));
  EXPECT_FALSE(packs_last([&] { trial.copy_all(); }));
  EXPECT_TRUE(packs_last([&] { trial.pack_all(); }));
}

TEST(LayerTrial, HasEveryMatrixOfAsManyLayersAsFit) {
  constexpr uint64_t kBytes = 40 * kMiB;
  LayerTrial trial(cpu_attn::choose_kernels(), TensorType::kQ4_0, kBytes);
  EXPECT_LE(trial.n_layers() * trial.layer_bytes(), kBytes);
  EXPECT_GT((trial.n_layers() + 1) * trial.layer_bytes(), kBytes);
  // Two of 1024 x 1024, two of 256 x 1024 and three of 2816 x 1024, 18 bytes for 32 weights.
  EXPECT_GE(trial.layer_bytes(), uint64_t{1024} * (2 * 1024 + 2 * 256 + 3 * 2816) * 18 / 32);
  ThreadPool pool(1);
  for (uint64_t layer = 0; layer < trial.n_layers(); ++layer) trial.decode_layer(pool, layer);
  EXPECT_EQ(LayerTrial(cpu_attn::choose_kernels(), TensorType::kQ4_0, 1).n_layers(), 1u);
}

TEST(WalkTrial, ReadsKAndVOfEveryLayerAndHead) {
  WalkTrialShape shape{.n_layers = 3, .n_kv_heads = 2, .head_dim = 32};
  const uint64_t position_bytes = uint64_t{3} * 2 * 32 * 2 * 2;  // f16, K and V
  EXPECT_EQ(WalkTrial::positions_of(shape, 0), 256u);
  shape.n_held = WalkTrial::positions_of(shape, 600 * position_bytes);
  EXPECT_EQ(shape.n_held, 512u);
  shape.n_tokens = 8;
  WalkTrial trial(shape, cpu_attn::choose_kernels(), 1, nullptr);
  for (const uint32_t depth : {512u, 100u, 1u}) {
    trial.begin_at(depth);
    for (uint32_t i = 0; i < shape.n_tokens; ++i) trial.decode();
    EXPECT_EQ(trial.kv_bytes(depth), depth * position_bytes);
  }
}

TEST(WalkTrial, ReadsRowsWithoutProductsAndCountsTheRest) {
  WalkTrialShape shape{.n_layers = 3, .n_kv_heads = 2, .head_dim = 32, .width = 96, .d_ff = 160};
  shape.n_held = 256;
  shape.n_tokens = 40;
  static uint32_t n_multiplied = 0, n_attended = 0;
  n_multiplied = n_attended = 0;  // of an earlier repetition
  KernelTable counting = cpu_attn::choose_kernels();
  counting.linear = [](const LinearArgs&) { ++n_multiplied; };
  counting.attend_segment = [](const AttendArgs& args) {
    ++n_attended;
    cpu_attn::choose_kernels().attend_segment(args);
  };
  WalkTrial trial(shape, counting, 1, nullptr);
  // Eight query heads of 32 dimensions; four of d_model, twice q, K and V, and d_ff.
  EXPECT_EQ(trial.row_values(5), 5 * 3 * (4 * 96 + 2 * 8 * 32 + 2 * 2 * 32 + 160));
  EXPECT_EQ(trial.attend_flop(100, 40), 40 * (100 + 20) * 3 * 4 * 8 * 32);
  trial.begin_at(100);
  trial.read(40, ReadWork::kRows);
  EXPECT_EQ(n_attended, 0u);
  trial.begin_at(100);
  trial.read(40, ReadWork::kAttention);
  // 140 positions are one segment; 24 of 40 rows, of four heads each, are a tile: two tiles.
  EXPECT_EQ(n_attended, 3u * 2 * 2);
  EXPECT_EQ(n_multiplied, 0u);
  trial.begin_at(100);
  trial.decode();  // with the engine's own kernels
}

class CalibrateVerb : public testing::RefusalTest {
 protected:
  testing::Launch launch(const std::vector<std::string>& more = {}) const {
    testing::Launch of;
    of.arguments = {"calibrate", "--show", "-t", "1", "--nvme", folder_.path()};
    of.arguments.insert(of.arguments.end(), more.begin(), more.end());
    of.environment["XDG_CACHE_HOME"] = folder_.path("cache");
    return of;
  }
  /// A profile of this machine where the program looks for it.
  std::string write_profile(const std::string& measured_at) const {
    MachineProfile of = machine_words(cpu_attn::choose_kernels(), 1, folder_.path());
    of.measured_at = measured_at;
    of.dram_bytes = 1;
    of.dram_read_bytes_per_s = 12.3e9;
    of.dram_copy_bytes_per_s = 4e9;
    of.linear = {{TensorType::kQ4_0, 1e9, 2e9, 3e9}};
    of.attend = {{KvCodec::kF16, 64, 5e9, 6e10}};
    of.step_cost.row_values_per_s = 1e9;
    of.disk_read = {{4096, 1, 4e7}};
    of.disk_read_bytes_per_s = of.disk_write_bytes_per_s = 3e9;
    of.disk_alone = {87.5, 2.9e9};
    const std::string path = machine_profile_path(folder_.path("cache/strata/profiles"), of);
    write_machine_profile(path, of);
    return path;
  }
};

TEST_F(CalibrateVerb, WithoutAProfileSaysHowToGetOne) {
  expect_refused(launch(), {.exit_code = 1,
                            .code = "io",
                            .what = {"no profile of this machine"},
                            .where = "strata/profiles/machine-",
                            .remedy = "strata calibrate"});
}

TEST_F(CalibrateVerb, ShowsTheProfileThatIsKeptWithItsAge) {
  const std::string path = write_profile("2020-01-01T00:00:00Z");
  const auto text = testing::run_strata(launch());
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out.find("reads 12.3 GB/s"), std::string::npos) << text.out;
  EXPECT_NE(text.err.find("measured 2020-01-01T00:00:00Z"), std::string::npos) << text.err;
  EXPECT_NE(text.err.find("stale: it is "), std::string::npos) << text.err;
  const auto printed = testing::run_strata(launch({"--json"}));
  EXPECT_EQ(printed.exit_code, 0) << printed.err;
  EXPECT_EQ(printed.out, machine_profile_json(*read_machine_profile(path)));
}

TEST_F(CalibrateVerb, MeasuresNothingWhereTheProfileStillHolds) {
  const std::string path = write_profile(profile_time_text(unix_seconds()));
  testing::Launch of = launch({"--if-stale"});
  std::erase(of.arguments, "--show");
  // Without a model what most models have is wanted: Q4_0 alone is not enough.
  MachineProfile all = *read_machine_profile(path);
  all.linear.clear();
  for (const TensorTypeInfo& info : tensor_types())
    all.linear.push_back({info.type, 1e9, 2e9, 3e9});
  all.attend.push_back({KvCodec::kF16, 128, 5e9, 6e10});
  write_machine_profile(path, all);
  const auto outcome = testing::run_strata(of);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("nothing was measured"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.out.find("reads 12.3 GB/s"), std::string::npos) << outcome.out;
  EXPECT_EQ(machine_profile_json(*read_machine_profile(path)), machine_profile_json(all));
}

TEST_F(CalibrateVerb, AProfileOfAnOlderVersionIsNone) {
  const std::string path = write_profile("2026-11-26T13:20:00Z");
  nlohmann::json old = nlohmann::json::parse(machine_profile_json(*read_machine_profile(path)));
  old["version"] = 1;
  old.erase("step");
  std::ofstream(path) << old.dump();
  EXPECT_FALSE(read_machine_profile(path));
  expect_refused(launch(), {.exit_code = 1,
                            .code = "io",
                            .what = {"no profile of this machine"},
                            .where = path,
                            .remedy = "strata calibrate"});
}

TEST_F(CalibrateVerb, RefusesAProfileOfAnotherMachineAndADamagedOne) {
  const std::string path = write_profile("2026-11-26T13:20:00Z");
  MachineProfile other = *read_machine_profile(path);
  other.cpu = "Another CPU";
  write_machine_profile(path, other);
  expect_refused(launch(), {.exit_code = 2,
                            .code = "usage",
                            .what = {"another machine", "its CPU is 'Another CPU'"},
                            .where = path,
                            .remedy = "strata calibrate"});
  std::filesystem::resize_file(path, 40);
  expect_refused(launch(), {.exit_code = 4,
                            .code = "bad_file",
                            .what = {"JSON object"},
                            .where = path,
                            .remedy = "strata calibrate"});
}

TEST_F(CalibrateVerb, WithoutAFolderForProfilesIsRefused) {
  testing::Launch nowhere = launch();
  nowhere.environment = {{"XDG_CACHE_HOME", ""}, {"HOME", ""}};
  expect_refused(nowhere, {.exit_code = 2,
                           .code = "usage",
                           .what = {"no folder for profiles"},
                           .where = "strata calibrate",
                           .remedy = "XDG_CACHE_HOME"});
}

}  // namespace
}  // namespace strata::cli

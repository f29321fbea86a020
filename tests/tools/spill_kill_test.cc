// A run that is ended from outside, at a random moment of loading, reading, answering or saving:
// nothing of what it spilled is left on the disk, what is saved is whole, and all else is free
// again. STRATA_KILLS sets how often (60; while saving a third of that).
#include <gtest/gtest.h>

#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <random>

#include "tests/tiers/child_process.h"
#include "tests/tiers/long_run.h"
#include "tests/tiers/small_disk.h"
#include "tests/tools/spilling_model.h"

namespace strata::cli {
namespace {

using testing::Outcome;
using testing::StrataProcess;
using testing::with;
using testing::without_json;
using tiers::demand;

enum class Phase : uint8_t { kLoad, kPrefill, kDecode };
constexpr std::array<int, 3> kSignals = {SIGKILL, SIGINT, SIGTERM};
constexpr std::array<const char*, 3> kPhaseNames = {"loading", "reading", "answering"};

class SpillKill : public testing::SpillingTest {
 protected:
  /// Answers with a thousand times the letter a, so that standard output shows when it answers.
  std::vector<std::string> endless(const std::string& disk) const {
    return without_json(with(spilling(), {"--nvme", disk, "--nvme-budget", "40MiB", "-c", "32k",
                                          "-n", "-1", "--logit-bias", "3+99"}));
  }

  /// Starts a run and ends it; how many seconds it took to end.
  double kill_once(const std::string& disk, Phase phase, int signal, std::mt19937& random) {
    StrataProcess process(endless(disk), StrataProcess::Input::kNone);
    uint32_t delay_ms = 30;
    if (phase == Phase::kPrefill) {
      if (!process.wait_for_err("loading")) demand(false, "ended: " + process.finish().err);
      delay_ms = 200;
    } else if (phase == Phase::kDecode) {
      if (!process.wait_for_out("a")) demand(false, "ended: " + process.finish().err);
      delay_ms = 100;
    }
    process.read_for(std::chrono::milliseconds(random() % delay_ms));
    const double before_s = process.cpu_s();
    const auto start = std::chrono::steady_clock::now();
    process.signal(signal);
    const Outcome outcome = process.finish();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    demand(outcome.exit_code == (signal == SIGINT ? 130 : 128 + signal),
           "exit code " + std::to_string(outcome.exit_code) + ": " + outcome.err);
    // Ctrl-C ends it within a second; CPU time, which other processes do not lengthen, of its
    // one thread.
    if (signal == SIGINT)
      demand(outcome.cpu_s - before_s < 1.0,
             "worked on for " + std::to_string(outcome.cpu_s - before_s) + " s of CPU time");
    return took.count();
  }

  /// The kernel may give a ring's file back a moment after the process has ended.
  static void demand_free(const std::string& disk, uint64_t wanted) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    uint64_t found = tiers::free_bytes(disk);
    for (; found < wanted && std::chrono::steady_clock::now() < end;
         found = tiers::free_bytes(disk))
      ::poll(nullptr, 0, 5);
    demand(found >= wanted,
           "of " + std::to_string(wanted) + " bytes, " + std::to_string(found) + " are free again");
  }

  void kill_runs(const std::string& disk, bool is_own_disk) {
    const uint32_t seed = std::random_device{}();
    std::mt19937 random(seed);
    const std::string spill = disk + "/spill";
    std::filesystem::create_directories(spill);
    const uint64_t n_free = is_own_disk ? tiers::free_bytes(disk) : 0;
    std::vector<double> interrupted_s;
    for (uint64_t i = 0; i < tiers::repeats("STRATA_KILLS", 60); ++i) {
      const auto phase = static_cast<Phase>(i % 3);
      const int signal = kSignals[i / 3 % 3];
      const std::string what = "seed " + std::to_string(seed) + ", kill " + std::to_string(i) +
                               " (signal " + std::to_string(signal) + ", " + kPhaseNames[i % 3] +
                               "): ";
      try {
        const double ended_s = kill_once(spill, phase, signal, random);
        if (signal == SIGINT) interrupted_s.push_back(ended_s);
        demand(testing::n_entries(spill) == 0, "left a file");
        if (is_own_disk) demand_free(disk, n_free);
        demand(!HasFailure(), "see above");
      } catch (const tiers::NotPossibleHere&) {
        throw;
      } catch (const std::exception& failure) {
        demand(false, what + failure.what());
      }
    }
    // By the clock as well: half of them, for a busy machine may keep any one waiting.
    std::ranges::sort(interrupted_s);
    if (interrupted_s.empty()) return;
    const double half_s = interrupted_s[interrupted_s.size() / 2];
    std::printf("%zu times Ctrl-C: half ended within %.3f s, all within %.3f s\n",
                interrupted_s.size(), half_s, interrupted_s.back());
    (void)std::fflush(stdout);
    // In a long run, on a machine of its own: beside other tests a second may be short.
    if (std::getenv("STRATA_KILLS") != nullptr)
      demand(half_s < 1.0, "half of the interrupted runs took " + std::to_string(half_s) + " s");
  }
  /// What the files of a folder take of their disk.
  static uint64_t allocated_bytes(const std::string& folder) {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      struct stat status = {};
      demand(::stat(entry.path().c_str(), &status) == 0, "cannot examine " + entry.path().string());
      bytes += static_cast<uint64_t>(status.st_blocks) * 512;
    }
    return bytes;
  }

  /// Whatever is on the disk has a name and is whole.
  static void demand_whole(const std::string& saved) {
    const Outcome verified = testing::run_strata({"session", "verify", "--session-dir", saved});
    demand(verified.exit_code == 0, verified.out + verified.err);
    // Packs, the session and the lock: what had no name yet is gone.
    for (const auto& entry : std::filesystem::directory_iterator(saved)) {
      const std::string name = entry.path().filename();
      demand(!name.starts_with(".") || name == ".lock", "left " + name);
    }
  }

  /// Runs that keep their texts, of which as many as fit lie side by side.
  Outcome run_saver(const std::string& saved, uint64_t n, int signal,
                    std::chrono::milliseconds moment) {
    StrataProcess process(
        with(without_json(in_memory(prompt(static_cast<uint32_t>(1000 + n)))),
             {"--session-dir", saved, "--session", "kept", "--cache-budget", "24MiB", "-n", "2"}),
        StrataProcess::Input::kNone, {{"STRATA_NO_CACHE", "0"}});
    if (signal != 0) {
      process.read_for(moment);
      process.signal(signal);
    }
    return process.finish();
  }

  void kill_savers(const std::string& disk, bool is_own_disk) {
    const uint32_t seed = std::random_device{}();
    std::mt19937 random(seed);
    const std::string saved = disk + "/saved";
    std::filesystem::create_directory(saved);
    std::filesystem::permissions(saved, std::filesystem::perms::owner_all);
    const uint64_t n_free = is_own_disk ? tiers::free_bytes(disk) : 0;
    const uint64_t n_wanted = tiers::repeats("STRATA_KILLS", 60) / 3;
    int64_t whole_ms = 0;  // of a run that is not disturbed
    uint64_t n_ended = 0;
    for (uint64_t i = 0; n_ended < n_wanted; ++i) {
      demand(i < 10 * n_wanted, std::to_string(n_ended) + " kills only");
      const auto start = std::chrono::steady_clock::now();
      const int signal = i < 3 ? 0 : kSignals[i % 3];
      const int64_t moment_ms = static_cast<int64_t>(random() % 1000) * whole_ms * 9 / 8000;
      const Outcome outcome = run_saver(saved, i, signal, std::chrono::milliseconds(moment_ms));
      if (signal == 0)
        whole_ms =
            std::chrono::ceil<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start)
                .count();
      const bool is_ended =
          signal != 0 && outcome.exit_code == (signal == SIGINT ? 130 : 128 + signal);
      const std::string what = "seed " + std::to_string(seed) + ", run " + std::to_string(i) +
                               " (signal " + std::to_string(signal) + "): ";
      demand(is_ended || outcome.exit_code == 0,
             what + std::to_string(outcome.exit_code) + outcome.err);
      n_ended += is_ended ? 1 : 0;
      try {
        demand_whole(saved);
        if (is_own_disk) demand_free(disk, n_free - allocated_bytes(saved));
      } catch (const std::exception& failure) {
        demand(false, what + failure.what());
      }
    }
  }
};

TEST_F(SpillKill, LeavesNothingAndGivesTheDiskBack) {
  const std::string report =
      tiers::run_in_child([&] { kill_runs(tiers::mount_small_disk(folder_.path("")), true); });
  if (!report.starts_with("SKIP ")) {
    EXPECT_EQ(report, "");
    return;
  }
  EXPECT_NO_THROW(kill_runs(folder_.path(""), false));
  GTEST_SKIP() << "nothing was left, but nobody looked at the disk's free bytes: "
               << report.substr(5);
}

TEST_F(SpillKill, WhileSavingLeavesWhatIsSavedWhole) {
  // 4 GiB of a disk stay free whatever is saved.
  const std::string report = tiers::run_in_child(
      [&] { kill_savers(tiers::mount_small_disk(folder_.path(""), uint64_t{5} << 30), true); });
  if (!report.starts_with("SKIP ")) {
    EXPECT_EQ(report, "");
    return;
  }
  EXPECT_NO_THROW(kill_savers(folder_.path(""), false));
  GTEST_SKIP() << "what is saved is whole, but nobody looked at the disk's free bytes: "
               << report.substr(5);
}

}  // namespace
}  // namespace strata::cli

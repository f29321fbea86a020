// A disk that loses its power while a process saves: ext4 is shut down at a random moment, by its
// own ioctl, and mounted again as after a restart. STRATA_POWER_CUTS sets how often (24).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cinttypes>
#include <random>

#include "base/error.h"
#include "tests/tiers/child_process.h"
#include "tests/tiers/fresh_folder.h"
#include "tests/tiers/long_run.h"
#include "tests/tiers/saving_process.h"
#include "tests/tiers/small_disk.h"

namespace strata::tiers {
namespace {

// The kernel's fs/ext4/ext4.h: EXT4_IOC_SHUTDOWN and its flags.
constexpr unsigned long kShutDown = _IOR('X', 125, uint32_t);
enum class Cut : uint32_t {
  kAfterSync = 0,     // everything reaches the disk, then it goes
  kAfterJournal = 1,  // the journal does; data that was not synced does not
  kAtOnce = 2,        // nothing does: the power loss
};

class Power {
 public:
  explicit Power(const std::string& disk)
      : descriptor_(::open(disk.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    demand(descriptor_ >= 0, "cannot open " + disk);
  }
  ~Power() { ::close(descriptor_); }
  Power(const Power&) = delete;
  Power& operator=(const Power&) = delete;
  void cut(Cut how) const {
    const auto flags = static_cast<uint32_t>(how);
    if (::ioctl(descriptor_, kShutDown, &flags) != 0)
      throw NotPossibleHere("this file system cannot be shut down");
  }

 private:
  int descriptor_;
};

/// Real calls, before one of which the power goes.
class CutCalls final : public RealCalls {
 public:
  CutCalls(bool has_unnamed, const Power& power, Cut how, uint64_t at)
      : RealCalls(has_unnamed, true), power_(power), how_(how), at_(at) {}
  uint64_t n_calls() const { return n_calls_; }

 protected:
  int fails() override {
    if (++n_calls_ == at_) power_.cut(how_);
    return 0;
  }

 private:
  const Power& power_;
  Cut how_;
  uint64_t at_;
  uint64_t n_calls_ = 0;
};

class PowerTrial {
 public:
  PowerTrial(const std::string& folder, const std::string& disk, uint64_t seed)
      : folder_(folder), disk_(disk), packs_(disk + "/packs"), random_(seed) {}

  /// Saves undisturbed, twice: how many calls and how much time that takes.
  void measure() {
    for (; trial_ < 2; ++trial_) {
      remount_small_disk(folder_);  // as before each cut: nothing is in memory
      const Power power(disk_);
      CutCalls calls(trial_ % 2 == 0, power, Cut::kAtOnce, 0);
      const auto start = std::chrono::steady_clock::now();
      save_trial(packs_, trial_, calls, [](char) {});
      time_ = std::chrono::steady_clock::now() - start;
      n_calls_ = std::max(n_calls_, calls.n_calls());
    }
    newest_ = std::to_string(trial_ - 1);
  }

  /// Saves, and in the middle of that the power goes: before a call, or at any time.
  void cut_once() {
    const auto how = static_cast<Cut>(trial_ % 3);
    const bool has_unnamed = trial_ / 3 % 2 == 0;
    const bool is_at_call = trial_ / 6 % 2 == 0;
    const uint64_t call = is_at_call ? 1 + random_() % n_calls_ : 0;
    Pipe steps;
    {
      const Power power(disk_);
      const pid_t child = start_process([&] {
        CutCalls calls(has_unnamed, power, how, call);
        try {
          save_trial(packs_, trial_, calls, [&](char c) { steps.tell(c); });
        } catch (const Error&) {
          steps.tell('e');  // the disk is gone
        }
      });
      if (!is_at_call) {
        const auto time =
            static_cast<int64_t>(random_() % static_cast<uint64_t>(time_.count() * 3 / 2));
        const timespec wait = {static_cast<time_t>(time / 1'000'000'000),
                               static_cast<long>(time % 1'000'000'000)};
        ::ppoll(nullptr, 0, &wait, nullptr);
        power.cut(how);
      }
      const int status = wait_for_end(child);
      demand(status == 0, "the saving process ended with wait status " + std::to_string(status));
    }
    remount_small_disk(folder_);
    look(steps.told());
    ++trial_;
  }

  /// Cuts after nothing, opening, both packs, everything.
  const std::array<uint64_t, 4>& n_cuts_after() const { return n_cuts_after_; }

 private:
  /// What is there after the restart is whole, and what was promised is there.
  void look(const std::string& told) {
    newest_ = look_after_end(packs_, trial_, told, newest_);
    const std::string steps = "ops";
    ++n_cuts_after_[static_cast<size_t>(std::ranges::mismatch(steps, told).in1 - steps.begin())];
  }

  std::string folder_, disk_, packs_;
  std::mt19937_64 random_;
  uint64_t trial_ = 0, n_calls_ = 0;
  std::array<uint64_t, 4> n_cuts_after_{};
  std::chrono::nanoseconds time_{};
  std::string newest_;  // the trial that the session holds
};

TEST(PackPowerLoss, WhatWasSavedIsWholeAndWhatWasNotIsNotThere) {
  const uint64_t seed = std::random_device{}();
  const uint64_t n_cuts = repeats("STRATA_POWER_CUTS", 24);
  const FreshFolder folder;
  STRATA_EXPECT_CHILD_PASSES(run_in_child([&] {
    try {
      PowerTrial trial(folder.path(), mount_small_disk(folder.path()), seed);
      trial.measure();
      for (uint64_t i = 0; i < n_cuts; ++i) trial.cut_once();
      const auto& after = trial.n_cuts_after();
      std::printf("%" PRIu64 " power cuts: %" PRIu64 " while opening, %" PRIu64
                  " while writing packs, %" PRIu64 " while writing the session, %" PRIu64
                  " behind it; 0 half-restored\n",
                  n_cuts, after[0], after[1], after[2], after[3]);
      (void)std::fflush(stdout);
    } catch (const NotPossibleHere&) {
      throw;
    } catch (const std::exception& failure) {
      demand(false, "seed " + std::to_string(seed) + ": " + failure.what());
    }
  }));
}

}  // namespace
}  // namespace strata::tiers

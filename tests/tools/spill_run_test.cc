// `run` whose K and V do not fit into memory, as a user meets it: the answer, what is reported, and
// refusals whose remedies work.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <memory>
#include <sstream>

#include "tests/tiers/child_process.h"
#include "tests/tiers/small_disk.h"
#include "tests/tools/spilling_model.h"
#include "tests/tree_paths.h"

namespace strata::cli {
namespace {

using testing::kNotPrepared;
using testing::Launch;
using testing::Outcome;
using testing::run_strata;
using testing::StrataProcess;
using testing::with;
using testing::without_json;

class SpillRun : public testing::SpillingTest {
 protected:
  static size_t n_lines_with(const std::string& text, const std::string& part) {
    std::istringstream lines(text);
    size_t n = 0;
    for (std::string line; std::getline(lines, line);) n += line.find(part) != std::string::npos;
    return n;
  }

  /// One line that names the fault; no answer taken for a whole one.
  static void expect_one_error(const Outcome& outcome, int code, const std::string& what) {
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_EQ(n_lines_with(outcome.err, "error: "), 1u) << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("(remedy: "), std::string::npos) << outcome.err;
  }

  /// Fills a disk up to so many bytes.
  static void leave_free(const std::string& disk, uint64_t bytes) {
    const int ballast = ::open((disk + "/ballast").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    const auto filled = static_cast<off_t>(tiers::free_bytes(disk) - bytes);
    tiers::demand(::posix_fallocate(ballast, 0, filled) == 0, "cannot fill the disk");
    ::close(ballast);
  }

  /// The value of an option that goes a little less far than a remedy does: fewer bytes or rows, a
  /// longer context.
  static std::string short_of(const std::string& option, const std::string& value) {
    size_t n_digits = 0;
    const double number = std::stod(value, &n_digits);
    if (option == "-c") return std::to_string(std::lround(number * 1.01) + kExtentPositions);
    return std::to_string(number * 0.99) + value.substr(n_digits);
  }

  /// Refused with one line; then every change that its remedy names is made, alone, and works. A
  /// smaller one does not, but for narrower steps.
  void expect_remedies_work(const std::vector<std::string>& arguments, const std::string& where,
                            const std::vector<std::string>& options) {
    const Outcome refused = run_strata(without_json(arguments));
    expect_line(refused, {3, "does_not_fit", {}, where, ""});
    expect_object(run_strata(arguments), {3, "does_not_fit", {}, where, ""});
    const std::string remedy = refused.err.substr(refused.err.rfind("(remedy: "));
    for (const std::string& option : options) {
      const size_t at = remedy.find(option + " ");
      ASSERT_NE(at, std::string::npos) << refused.err;
      const size_t begin = at + option.size() + 1;
      const std::string value = remedy.substr(begin, remedy.find_first_of(",)\n", begin) - begin);
      std::vector<std::string> followed = with(arguments, {option, value});
      // A smaller context does not hold the prompt, which is another matter.
      if (option == "-c") std::ranges::replace(followed, prompt_, folder_.write("short", "abc"));
      EXPECT_EQ(run_strata(followed).exit_code, 0) << option << " " << value << "\n" << refused.err;
      if (option == "-b") continue;
      followed.back() = short_of(option, value);
      EXPECT_EQ(run_strata(followed).exit_code, 3) << option << " " << followed.back();
    }
  }
};

TEST_F(SpillRun, GivesTheTokensOfARunInMemoryByEveryBackEnd) {
  const std::string expected = tokens_of(run_strata(in_memory()));
  ASSERT_GT(expected.size(), 40u);
  for (const std::string io : {"auto", "threads"})
    EXPECT_EQ(tokens_of(run_strata(spilling({"--io", io}))), expected) << io;
  // Another prompt gives other tokens: the answer does depend on what was read back.
  EXPECT_NE(tokens_of(run_strata(in_memory(prompt(12)))), expected);
}

TEST_F(SpillRun, GivesTheTokensOfARunInMemoryByARing) {
  const Outcome outcome = run_strata(spilling({"--io", "io_uring"}));
  if (outcome.exit_code == 1 && outcome.out.find("io_uring") != std::string::npos)
    GTEST_SKIP() << "no io_uring here: " << outcome.out;
  EXPECT_EQ(tokens_of(outcome), tokens_of(run_strata(in_memory())));
  EXPECT_EQ(object_of(outcome)["tiers"]["nvme"]["io"], "io_uring");
}

TEST_F(SpillRun, StaysWithinOneBudgetForEverything) {
  const uint64_t budget = uint64_t{128} << 20;
  const auto answer = object_of(run_strata(spilling({"--dram", "128MiB"})));
  EXPECT_LE(answer["tiers"]["dram"].value("peak_bytes", UINT64_MAX), budget);
  EXPECT_LE(answer["tiers"]["dram"].value("budget_bytes", UINT64_MAX), budget);
}

TEST_F(SpillRun, ReportsWhatLayWhereAndWhatMoved) {
  const auto answer = object_of(run_strata(spilling({"--io", "threads"})));
  const auto number = [&](const char* tier, const char* key) {
    const auto& of = answer["tiers"][tier];
    EXPECT_TRUE(of.contains(key)) << tier << "." << key;
    return of.value(key, uint64_t{0});
  };
  const uint64_t n_positions = answer["usage"].value("prompt_tokens", uint64_t{0}) +
                               answer["usage"].value("completion_tokens", uint64_t{0}) - 1;
  const uint64_t frozen = n_positions / kExtentPositions * kLayers * kPlaceBytes;
  // Every extent is written once, when its last position is there; a read takes a whole one.
  EXPECT_EQ(number("nvme", "written_bytes"), frozen);
  EXPECT_EQ(number("nvme", "kv_bytes"), frozen);
  EXPECT_EQ(number("nvme", "peak_bytes"), frozen);
  EXPECT_EQ(number("nvme", "budget_bytes"), (8192 / kExtentPositions + 2) * kLayers * kPlaceBytes);
  EXPECT_GT(number("nvme", "read_bytes"), frozen);
  EXPECT_EQ(number("nvme", "read_bytes") % kPlaceBytes, 0u);
  EXPECT_GE(answer["tiers"]["nvme"].value("stall_ms", -1.0), 0.0);
  EXPECT_EQ(answer["tiers"]["nvme"].value("io", ""), "threads");
  EXPECT_LE(number("dram", "kv_bytes"), 2816u << 10);
  // Of every extent that a step attended to, that was in memory or was read.
  const uint64_t n_missing =
      number("dram", "extents_attended") - number("dram", "extents_resident");
  EXPECT_EQ(n_missing * kPlaceBytes, number("nvme", "read_bytes"));
  EXPECT_NEAR(
      answer["tiers"]["dram"].value("hit_rate", 0.0),
      1 - static_cast<double>(n_missing) / static_cast<double>(number("dram", "extents_attended")),
      1e-9);
  // Each of the steps after the prompt attends to every position before it, in 16 layers.
  EXPECT_GT(number("dram", "extents_attended"), uint64_t{39} * kLayers * kPromptLetters / 256);
  EXPECT_GT(number("dram", "read_bytes"), number("nvme", "read_bytes"));
  EXPECT_GE(number("dram", "written_bytes"), frozen);
  EXPECT_EQ(number("dram", "budget_bytes"), number("dram", "weights_bytes") + (2816u << 10));
  for (const char* fault : {"retries", "corrupt_blocks", "recomputed_blocks", "failed_writes"})
    EXPECT_EQ(answer["faults"].value(fault, -1), 0) << fault;
  const auto in_memory_tiers = object_of(run_strata(in_memory()))["tiers"];
  EXPECT_FALSE(in_memory_tiers.contains("nvme"));
  EXPECT_EQ(in_memory_tiers["dram"].value("hit_rate", 0.0), 1.0);
  EXPECT_EQ(in_memory_tiers["dram"]["extents_attended"], number("dram", "extents_attended"));
}

TEST_F(SpillRun, EndsWithOneLineOnWhatMoved) {
  const Outcome outcome = run_strata(without_json(spilling()));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const size_t at = outcome.err.find("\nK and V: ");
  ASSERT_NE(at, std::string::npos) << outcome.err;
  const std::string line = outcome.err.substr(at + 1);
  EXPECT_EQ(line.find('\n'), line.size() - 1) << line;  // the last one
  for (const char* part : {" MiB in memory, 3.8 MiB in the spill file | memory: ", " | disk: ",
                           " MiB read, 3.8 MiB written, ", " s together | ",
                           " % of what was attended to was in memory | no faults\n"})
    EXPECT_NE(line.find(part), std::string::npos) << line;
  EXPECT_EQ(run_strata(without_json(in_memory())).err.find("K and V: "), std::string::npos);
}

TEST_F(SpillRun, MemoryThatIsTooSmallIsRefusedWithWhatWouldDo) {
  expect_remedies_work(with(spilling(), {"--kv-dram", "1MiB"}), "--kv-dram", {"--kv-dram", "-c"});
  // With wide steps a narrower one is a way out, too.
  expect_remedies_work(with(spilling(), {"-b", "1024"}), "--kv-dram", {"--kv-dram", "-b", "-c"});
}

TEST_F(SpillRun, MemoryThatIsTooSmallForEverythingIsRefusedWithWhatWouldDo) {
  expect_remedies_work(with(in_memory(), {"--dram", "50MiB", "--nvme", disk_}), "--dram",
                       {"--dram"});
  // Weights and buffers find room, K and V do not; and none of it may go to a disk.
  expect_remedies_work(with(in_memory(), {"--dram", "90MiB", "--nvme", "off"}), "--ctx-size",
                       {"--dram", "-c"});
}

TEST_F(SpillRun, MemoryThatIsTooSmallToChooseBlocksInIsRefusedWithWhatWouldDo) {
  expect_remedies_work(spilling({"--attn", "quest"}), "--kv-dram", {"--kv-dram", "-c"});
}

TEST_F(SpillRun, DiskBudgetThatIsTooSmallIsRefusedWithWhatWouldDo) {
  expect_remedies_work(spilling({"--nvme-budget", "5MiB"}), "--nvme-budget",
                       {"--nvme-budget", "-c"});
}

TEST_F(SpillRun, WithoutADiskMemoryMustHoldTheContext) {
  expect_remedies_work(with(spilling(), {"--nvme", "off"}), "--ctx-size", {"--kv-dram", "-c"});
}

TEST_F(SpillRun, RefusalsMakeNoFolder) {
  run_strata(with(spilling(), {"--kv-dram", "1MiB"}));
  run_strata(spilling({"--nvme-budget", "5MiB"}));
  EXPECT_FALSE(std::filesystem::exists(disk_));
}

TEST_F(SpillRun, FolderInMemoryIsRefusedWithTheReason) {
  struct statfs status = {};
  if (::statfs("/dev/shm", &status) != 0 || status.f_type != TMPFS_MAGIC)
    GTEST_SKIP() << "/dev/shm is no tmpfs here";
  const std::string folder = "/dev/shm/strata-" + std::to_string(::getpid());
  expect_refused(without_json(with(spilling(), {"--nvme", folder, "--nvme-budget", "64MiB"})),
                 {2, "usage", {"is in memory (tmpfs)", "they are meant to free"}, folder, "disk"});
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST_F(SpillRun, WithoutAFolderItIsOneInTheCacheFolder) {
  Launch launch;
  launch.arguments = with(in_memory(), {"--kv-dram", "2816KiB"});
  launch.environment = {{"XDG_CACHE_HOME", folder_.path("cache")}, {"STRATA_NVME", ""}};
  const Outcome outcome = run_strata(launch);
  EXPECT_EQ(tokens_of(outcome), tokens_of(run_strata(in_memory())));
  EXPECT_GT(object_of(outcome)["tiers"]["nvme"].value("written_bytes", uint64_t{0}), 0u);
  EXPECT_EQ(testing::n_entries(folder_.path("cache/strata/spill")), 0u);
  struct statfs status = {};
  if (::statfs("/dev/shm", &status) != 0 || status.f_type != TMPFS_MAGIC) return;
  // Where that is no disk, nobody asked for it: the reason stands where memory does not do.
  const std::string cache = "/dev/shm/strata-cache-" + std::to_string(::getpid());
  launch.environment["XDG_CACHE_HOME"] = cache;
  const auto error = nlohmann::json::parse(run_strata(launch).out, nullptr, false)["error"];
  EXPECT_EQ(error.value("code", ""), "does_not_fit");
  EXPECT_NE(error.value("message", "").find("is in memory (tmpfs)"), std::string::npos) << error;
  EXPECT_NE(error.value("remedy", "").find("--nvme"), std::string::npos) << error;
  EXPECT_FALSE(std::filesystem::exists(cache));
}

TEST_F(SpillRun, FolderThatCannotBeIsRefused) {
  const std::string file = folder_.write("file", "x");
  expect_refused(without_json(with(spilling(), {"--nvme", file})),
                 {1, "io", {"cannot open the folder", "Not a directory"}, file, "name a folder"});
  expect_refused(
      without_json(with(spilling(), {"--nvme", file + "/a/b"})),
      {1, "io", {"cannot make the folder", "Not a directory"}, file + "/a", "name a folder"});
  expect_refused(without_json(with(spilling(), {"--nvme", "/proc/a", "--nvme-budget", "64MiB"})),
                 {1, "io", {"cannot make the folder '/proc/a'"}, "/proc/a", "name a folder"});
  // Also where its room is not stated, and where memory would hold the context.
  expect_refused(without_json(with(spilling(), {"--nvme", "/proc/a"})),
                 {1, "io", {"cannot make the folder '/proc/a'"}, "/proc/a", "name a folder"});
  expect_refused(without_json(with(in_memory(), {"--nvme", "/proc/a"})),
                 {1, "io", {"cannot make the folder '/proc/a'"}, "/proc/a", "name a folder"});
}

TEST_F(SpillRun, ForbiddenRingIsOneNoticeAndTheSameTokens) {
  Launch launch;
  launch.arguments = spilling();
  launch.prepare = [] { tiers::forbid_call(__NR_io_uring_setup, EPERM); };
  const Outcome outcome = run_strata(launch);
  if (outcome.exit_code == kNotPrepared) GTEST_SKIP() << "no seccomp filter";
  EXPECT_EQ(tokens_of(outcome), tokens_of(run_strata(in_memory())));
  EXPECT_EQ(object_of(outcome)["tiers"]["nvme"]["io"], "threads");
  EXPECT_EQ(n_lines_with(outcome.err, "note: "), 1u) << outcome.err;
  EXPECT_EQ(n_lines_with(outcome.err, "note: io_uring"), 1u) << outcome.err;
  launch.arguments = without_json(spilling({"--io", "io_uring"}));
  const Outcome refused = run_strata(launch);
  expect_one_error(refused, 1, "io_uring");
}

/// As on file systems of a network: neither unnamed files nor direct access.
TEST_F(SpillRun, DiskThatLacksWhatIsWantedIsOneNoticeAndTheSameTokens) {
  Launch launch;
  launch.arguments = spilling();
  launch.prepare = [] {
    tiers::forbid_call(__NR_openat, EOPNOTSUPP, 2, O_TMPFILE & ~O_DIRECTORY);
    tiers::forbid_call(__NR_fcntl, EINVAL, 2, O_DIRECT);
  };
  const Outcome outcome = run_strata(launch);
  if (outcome.exit_code == kNotPrepared) GTEST_SKIP() << "no seccomp filter";
  EXPECT_EQ(tokens_of(outcome), tokens_of(run_strata(in_memory())));
  EXPECT_EQ(n_lines_with(outcome.err, "note: "), 1u) << outcome.err;
  for (const char* lacking : {"has no unnamed files", "has no direct access"})
    EXPECT_EQ(n_lines_with(outcome.err, lacking), 1u) << outcome.err;
  EXPECT_EQ(testing::n_entries(disk_), 0u);
}

TEST_F(SpillRun, UserWithoutRightsAndRingGetsTheSameTokens) {
  constexpr uid_t kNobody = 65534;
  constexpr rlim_t kLockedBytes = rlim_t{8} << 20;  // what distributions allow a user
  for (const std::string& path : {folder_.path(), model_, prompt_})
    if (::chown(path.c_str(), kNobody, kNobody) != 0) GTEST_SKIP() << "not root: no other user";
  Launch launch;
  launch.arguments = spilling({"--session-dir", folder_.path("saved")});
  launch.environment = {{"HOME", folder_.path()}, {"XDG_CACHE_HOME", ""}, {"STRATA_NO_CACHE", "0"}};
  launch.prepare = [program = build_path("tools/strata")] {
    const rlimit limit = {kLockedBytes, kLockedBytes};
    tiers::demand(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0, "the limit on locked memory");
    tiers::demand(::setgroups(0, nullptr) == 0 && ::setgid(kNobody) == 0 && ::setuid(kNobody) == 0,
                  "another user");
    tiers::demand(::access(program.c_str(), X_OK) == 0, "the binary is hidden");
  };
  const std::string expected = tokens_of(run_strata(in_memory()));
  const Outcome with_ring = run_strata(launch);
  if (with_ring.exit_code == kNotPrepared) GTEST_SKIP() << "no such user here";
  EXPECT_EQ(tokens_of(with_ring), expected);
  // Where root has a ring, so has who may lock little memory.
  EXPECT_EQ(object_of(with_ring)["tiers"]["nvme"]["io"],
            object_of(run_strata(spilling()))["tiers"]["nvme"]["io"]);
  launch.prepare = [as_nobody = launch.prepare] {
    as_nobody();
    tiers::forbid_call(__NR_io_uring_setup, EPERM);
  };
  const Outcome without = run_strata(launch);
  if (without.exit_code == kNotPrepared) GTEST_SKIP() << "no seccomp filter";
  EXPECT_EQ(tokens_of(without), expected);
  const auto answer = object_of(without);
  EXPECT_EQ(answer["tiers"]["nvme"]["io"], "threads");
  EXPECT_GT(answer["usage"].value("cached_tokens", 0u), kPromptLetters - 32);  // of the first run
}

TEST_F(SpillRun, FileSizeLimitEndsWithOneMessage) {
  Launch launch;
  const auto limit_files = [](uint64_t bytes) {
    const rlimit limit = {bytes, bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  };
  launch.arguments = without_json(spilling());
  launch.prepare = [&] { limit_files(2 * kMiB); };  // less than is reserved: before loading
  Outcome outcome = run_strata(launch);
  expect_one_error(outcome, 1, "File too large");
  EXPECT_EQ(outcome.out, "");
  // Also where room cannot be reserved: a write that met the limit would be a deadly signal.
  launch.prepare = [&] {
    limit_files(2 * kMiB);
    tiers::forbid_call(__NR_fallocate, EOPNOTSUPP);
  };
  outcome = run_strata(launch);
  if (outcome.exit_code == kNotPrepared) GTEST_SKIP() << "no seccomp filter";
  expect_one_error(outcome, 1, "File too large");
}

TEST_F(SpillRun, FullDiskIsRefusedBeforeAnythingIsRead) {
  STRATA_EXPECT_CHILD_PASSES(tiers::run_in_child([&] {
    const std::string disk = tiers::mount_small_disk(folder_.path(""));
    leave_free(disk, 3 * kMiB);  // the run wants 3.8 MiB
    const Outcome outcome =
        run_strata(without_json(with(spilling(), {"--nvme", disk, "--nvme-budget", "64MiB"})));
    expect_one_error(outcome, 1, "cannot reserve");
    tiers::demand(!HasFailure(), outcome.err);
  }));
}

TEST_F(SpillRun, FourAtOnceShareAFolder) {
  std::vector<std::string> prompts, expected;
  for (uint32_t seed = 21; seed < 25; ++seed) {
    prompts.push_back(prompt(seed));
    expected.push_back(tokens_of(run_strata(in_memory(prompts.back()))));
  }
  std::vector<std::unique_ptr<StrataProcess>> processes;
  for (size_t i = 0; i < prompts.size(); ++i)
    processes.push_back(std::make_unique<StrataProcess>(
        spilling({"--io", i % 2 == 0 ? "auto" : "threads"}, prompts[i]),
        StrataProcess::Input::kNone));
  for (size_t i = 0; i < prompts.size(); ++i)
    EXPECT_EQ(tokens_of(processes[i]->finish()), expected[i]) << i;
  EXPECT_EQ(testing::n_entries(disk_), 0u);
}

}  // namespace
}  // namespace strata::cli

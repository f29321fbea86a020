// --dram of `run`, judged from outside: by the kernel's own limit on a group's memory, and by the
// largest resident size of processes whose options are drawn. STRATA_CONFIGURATIONS sets how many
// of those (20).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <random>

#include "tests/tiers/child_process.h"
#include "tests/tiers/long_run.h"
#include "tests/tools/memory_group.h"
#include "tests/tools/spilling_model.h"

namespace strata::cli {
namespace {

using testing::Launch;
using testing::MemoryGroup;
using testing::Outcome;
using testing::run_strata;
using testing::with;
using Words = std::vector<std::string>;

class BudgetRun : public testing::SpillingTest {
 protected:
  // What a group is charged beside the budget: the kernel's structures for the process and its
  // files (page tables, inodes), and file pages of the program and the model. The spill file has
  // none: it is read and written past the page cache.
  static constexpr uint64_t kGroupAllowance = 16 * kMiB;

  /// 2 MiB of weights and 16 KiB of K and V per position: both matter beside the program itself.
  BudgetRun() {
    engine::testing::SmallModel model =
        engine::testing::make_small_model({.n_layers = 16,
                                           .d_model = 64,
                                           .n_heads = 8,
                                           .n_kv_heads = 8,
                                           .head_dim = 32,
                                           .d_ff = 256,
                                           .vocab_size = engine::testing::kLetterVocabulary,
                                           .n_ctx_train = 1 << 16});
    engine::testing::set_letters(model);
    engine::testing::draw_weights(model, 3);
    model_ = this->model(model);
  }

  static constexpr std::array kMethods = {
      "quest", "cuboid", "mean", "pq", "rabitq", "rabitq+tail", "cluster", "cluster+tail", "sparq"};
  const Words kSmallCodecs = {"-ctk", "q8_0", "-ctv", "q8_0"};

  /// With contexts that are saved in this folder, and found there.
  static Outcome run(const Words& arguments, const std::string& contexts) {
    Launch launch;
    launch.arguments = with(arguments, {"--session-dir", contexts});
    launch.environment = {{"STRATA_NO_CACHE", "0"}};
    return run_strata(launch);
  }

  Words within(uint64_t dram_bytes, const std::string& chunk, const std::string& context,
               uint32_t n_letters) const {
    const std::string text = folder_.write("text", std::string(n_letters, 'b'));
    return with({"run", "-m", model_, "-f", text, "-c", context, "-b", chunk, "-t", "2", "-n", "4"},
                {"--temp", "0", "--ignore-eos", "--json", "--dram", std::to_string(dram_bytes),
                 "--nvme", disk_, "--nvme-budget", "512MiB"});
  }
};

TEST_F(BudgetRun, TheKernelLetsARunLiveInItsBudgetAndAStatedAllowance) {
  // Beside the program (48 MiB) and the walk's buffers (37 MiB) it holds a third of the K and V.
  const uint64_t dram = 124 * kMiB;
  STRATA_EXPECT_CHILD_PASSES(tiers::run_in_child([&] {
    Launch launch;
    launch.arguments = within(dram, "64", "8k", 3000);
    const auto run_in = [&](uint64_t limit) {
      const MemoryGroup group(limit);
      launch.prepare = [&] { group.enter(); };
      const Outcome outcome = run_strata(launch);
      std::printf("limit %" PRIu64 ", peak %" PRIu64 ", exit code %d\n", limit, group.peak_bytes(),
                  outcome.exit_code);
      tiers::demand(group.peak_bytes() <= limit, "the limit does not hold");
      return outcome;
    };
    const Outcome outcome = run_in(dram + kGroupAllowance);
    tiers::demand(outcome.exit_code == 0,
                  std::to_string(outcome.exit_code) + outcome.out + outcome.err);
    const auto found = object_of(outcome);
    const auto n_written = found["tiers"]["nvme"].value("written_bytes", uint64_t{0});
    tiers::demand(n_written > 0, "nothing spilled");
    // A group that holds far less is heeded: the run is refused, not killed.
    const Outcome refused = run_in(dram / 4);
    tiers::demand(refused.exit_code == 3, std::to_string(refused.exit_code) + refused.err);
    (void)std::fflush(stdout);
  }));
}

TEST_F(BudgetRun, NoDrawnConfigurationExceedsItsBudget) {
  if (testing::address_space_is_reserved()) GTEST_SKIP() << "a sanitizer's shadow is resident too";
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const uint64_t n_wanted = tiers::repeats("STRATA_CONFIGURATIONS", 20);
  uint64_t n_ran = 0, n_spilled = 0, n_restored = 0, n_chose = 0;
  double fullest = 0;
  const std::string contexts = folder_.path("contexts");
  for (const Words& codecs : {Words{}, kSmallCodecs})
    ASSERT_EQ(run(with(within(220 * kMiB, "64", "2048", 700), codecs), contexts).exit_code, 0);
  for (uint64_t i = 0; i < n_wanted; ++i) {
    // Any, but every fifth has 256 MiB of K and V, and steps that leave some of them room.
    const bool must_spill = i % 5 == 3;
    const uint64_t dram = (must_spill ? 140 + random() % 80 : 100 + random() % 120) * kMiB;
    auto arguments = must_spill ? within(dram, "64", "16384", 2000)
                                : within(dram, std::to_string(16u << random() % 6),
                                         std::to_string(2048u << random() % 4), 700);
    if (!must_spill && random() % 3 == 0) arguments = with(arguments, kSmallCodecs);
    if (random() % 3 == 0) arguments = with(arguments, {"--io", "threads"});
    if (random() % 2 == 0)
      arguments = with(arguments, {"--load", random() % 2 == 0 ? "mmap" : "direct"});
    if (!must_spill && random() % 4 == 0) arguments = with(arguments, {"--nvme", "off"});
    const bool chooses = i % 3 == 1;  // an index of what was read lies in memory beside K and V
    if (chooses) {
      const char* const method = kMethods[random() % kMethods.size()];
      arguments = with(arguments, {"--attn", method, "--kv-budget", "256"});
    }
    // What was saved of the text; where it is asked more, that is saved besides.
    const bool has_contexts = i % 2 == 0;
    if (has_contexts && random() % 2 == 0)
      arguments = with(arguments, {"-p", std::string(300, static_cast<char>('a' + random() % 26))});
    const Outcome outcome = has_contexts ? run(arguments, contexts) : run_strata(arguments);
    std::string line;
    for (const std::string& word : arguments) line += word + " ";
    ASSERT_TRUE(outcome.exit_code == 0 || outcome.exit_code == 3)
        << line << outcome.err << outcome.out;
    ASSERT_LE(outcome.peak_bytes, dram) << line;
    if (outcome.exit_code != 0) continue;
    ++n_ran;
    fullest =
        std::max(fullest, static_cast<double>(outcome.peak_bytes) / static_cast<double>(dram));
    if (object_of(outcome)["usage"].value("cached_tokens", uint64_t{0}) > 0) ++n_restored;
    const auto nvme = object_of(outcome)["tiers"].value("nvme", nlohmann::json::object());
    if (nvme.value("kv_bytes", uint64_t{0}) > 0) ++n_spilled;
    if (chooses) ++n_chose;
  }
  std::printf("%" PRIu64 " configurations: %" PRIu64 " ran, %" PRIu64 " of them spilled, %" PRIu64
              " went on from a saved context, %" PRIu64
              " chose by an index, the others were refused;"
              " 0 over budget, the fullest used %.2f of it\n",
              n_wanted, n_ran, n_spilled, n_restored, n_chose, fullest);
  EXPECT_GT(n_chose, n_wanted / 40);
  EXPECT_GT(n_spilled, n_wanted / 20);
  EXPECT_GT(n_restored, n_wanted / 40);
}

}  // namespace
}  // namespace strata::cli

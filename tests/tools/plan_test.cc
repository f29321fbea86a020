// `strata plan` through the program: its JSON contract, budgets, words and refusals.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/tools/announced_model.h"
#include "tests/tools/plan_fixture.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::run_strata;

class Plan : public testing::PlanTest {};

TEST_F(Plan, HasTheFieldsOfItsContract) {
  const json found = plan({"--device", "virtual:rtx3060", "-c", "32k"});
  EXPECT_EQ(found["feasible"], true);
  EXPECT_EQ(found["device"], "virtual:rtx3060");
  EXPECT_EQ(found["is_measured"], false);
  EXPECT_EQ(found["n_ctx"], 32768);
  for (const char* key : {"ttft_ms", "tpot_ms", "solve_ms"}) EXPECT_GT(found[key], 0.0) << key;
  for (const char* phase : {"prefill", "decode"})
    EXPECT_TRUE(found["binding"][phase].is_string()) << phase;
  for (const char* tier : {"hbm", "dram", "nvme"})
    for (const char* key : {"budget_bytes", "peak_bytes", "weights_bytes", "kv_bytes",
                            "index_bytes", "buffers_bytes", "free_bytes"})
      EXPECT_TRUE(found["tiers"][tier][key].is_number_unsigned()) << tier << ' ' << key;
  ASSERT_GE(found["duals"].size(), 5u);
  for (const json& dual : found["duals"])
    for (const char* key : {"resource", "unit", "ms_per_unit"}) EXPECT_TRUE(dual.contains(key));
  EXPECT_FALSE(plan({"--device", "none"})["tiers"].contains("hbm"));
}

TEST_F(Plan, StaysWithinTheBudgetsAndUsesThem) {
  // K and V of 128k positions take 256 MiB.
  for (const char* dram : {"190MiB", "300MiB", "1GiB"}) {
    SCOPED_TRACE(dram);
    const json found = plan({"--device", "none", "-c", "128k", "--dram", dram, "-b", "256",
                             "--nvme", folder_.path(), "--nvme-budget", "1GiB"});
    const json& tier = found["tiers"]["dram"];
    EXPECT_LE(tier["peak_bytes"], tier["budget_bytes"]);
    const bool is_whole = std::string(dram) == "1GiB";
    EXPECT_EQ(found["kv_share"]["nvme"] == 0.0, is_whole);
    EXPECT_EQ(found["tiers"]["nvme"]["kv_bytes"] == 0, is_whole);
    if (!is_whole) {
      EXPECT_LE(tier["free_bytes"], 1 << 20);  // blocks fill what there is
    }
  }
}

TEST_F(Plan, SaysWhatItIsAndWhatMoreWouldBring) {
  const std::string found = text({"--device", "none", "-c", "128k", "--dram", "200MiB", "-b", "256",
                                  "--nvme", folder_.path(), "--nvme-budget", "1GiB", "--explain"});
  for (const char* words :
       {"131,072 tokens of context, 256 of them answered", "assumed, not measured here", "| DRAM ",
        "| NVMe ", "[K", "first token after ", "per token (", "limited by NVMe",
        "+1 GiB of DRAM       = -", "a disk 10 % quicker  = -", "+1 GiB of disk       = nothing"})
    EXPECT_NE(found.find(words), std::string::npos) << words << "\n" << found;
  EXPECT_EQ(text({"--device", "none"}).find("what more would bring"), std::string::npos);
  const std::string card = text({"--device", "virtual:laptop8", "-c", "64k", "--hbm", "100MiB"});
  for (const char* words : {"RTX 4060 Laptop", "not measured here", "| HBM ", "in HBM, "})
    EXPECT_NE(card.find(words), std::string::npos) << words << "\n" << card;
}

TEST_F(Plan, QuantisesOnlyWhereThatIsAllowed) {
  const std::vector<std::string> options = {"--device", "none",   "-c",  "128k", "--dram",
                                            "200MiB",   "--nvme", "off", "-b",   "256"};
  std::vector<std::string> allowed = options;
  allowed.insert(allowed.end(), {"--dram", "290MiB", "--allow-q8"});
  allowed.erase(allowed.begin() + 4, allowed.begin() + 6);
  EXPECT_EQ(plan(allowed)["type_k"], "q8_0");
  allowed.pop_back();
  expect_refused(arguments(allowed),
                 {3, "does_not_fit", {"131,072 tokens", "290.0 MiB"}, "--dram", "-ctk q8_0"});
}

TEST_F(Plan, PricesWhatAMethodReads) {
  const json exact = plan({"--device", "none", "-c", "128k"});
  const json chosen =
      plan({"--device", "none", "-c", "128k", "--attn", "mean", "--kv-budget", "2k"});
  EXPECT_GT(chosen["tiers"]["dram"]["index_bytes"], 0);
  EXPECT_EQ(exact["tiers"]["dram"]["index_bytes"], 0);
  EXPECT_NEAR(chosen["touched_share"].get<double>(), 2048.0 / (131072 - 128), 1e-9);
  EXPECT_LT(chosen["tpot_ms"], exact["tpot_ms"].get<double>() / 2);
  expect_refused(arguments({"--device", "none", "--attn", "mean", "--kv-budget", "0.98p"}),
                 {2, "usage", {"0.98p", "depends on the text"}, "--kv-budget", "2048"});
}

TEST_F(Plan, SaysWhoSearchesAnIndexBesideACard) {
  const std::vector<std::string> options = {"--device", "virtual:rtx3060", "-c",          "128k",
                                            "--attn",   "rabitq",          "--kv-budget", "2k"};
  std::vector<std::string> small = options, other = options;
  small.insert(small.end(), {"--hbm", "40MiB", "-b", "32"});
  other[5] = "quest";
  const json by_card = plan(options), by_cpu = plan(small), of_quest = plan(other);
  EXPECT_EQ(by_card["index_searched_by"], "card");
  EXPECT_GT(by_card["tiers"]["hbm"]["index_bytes"], 0);
  EXPECT_GT(by_card["tiers"]["dram"]["index_bytes"], 0);
  EXPECT_EQ(by_cpu["index_searched_by"], "cpu");
  EXPECT_EQ(by_cpu["tiers"]["hbm"]["index_bytes"], 0);
  EXPECT_EQ(of_quest["index_searched_by"], "cpu");
  EXPECT_FALSE(plan({"--device", "virtual:rtx3060", "-c", "4k"}).contains("index_searched_by"));
  EXPECT_NE(text(options).find("index      searched by the card, in HBM"), std::string::npos);
  EXPECT_NE(text(small).find("index      searched by the CPU, in DRAM"), std::string::npos);
}

TEST_F(Plan, TheFirstTokenOfASparselyReadPromptIsSaidToBeThatOfAnExactlyReadOne) {
  const std::vector<std::string> exact = {"--device", "none",   "-c",   "128k",        "--dram",
                                          "4GiB",     "--attn", "mean", "--kv-budget", "2k"};
  std::vector<std::string> sparse = exact;
  sparse.insert(sparse.end(), {"--sparse-prefill", "4096"});
  const auto said = [&](const std::vector<std::string>& options) {
    return plan(options)["notes"].dump().find("of a prompt that is read exactly") !=
           std::string::npos;
  };
  EXPECT_FALSE(said(exact));
  EXPECT_TRUE(said(sparse));
  EXPECT_EQ(plan(sparse)["ttft_ms"], plan(exact)["ttft_ms"]);
  expect_refused(
      arguments({"--device", "none", "--sparse-prefill", "on"}),
      {2, "usage", {"reads all of a prompt"}, "sparse-prefill", "leave one of them out"});
}

TEST_F(Plan, RefusesWhatCannotBePlacedWithWhatWould) {
  // Not one layer: the model alone is too large.
  expect_refused(arguments({"--device", "none", "--dram", "20MiB"}),
                 {3, "does_not_fit", {"the model alone needs", "20.0 MiB"}, "--dram", "--dram "});
  expect_refused(
      arguments({"--device", "none", "-c", "128k", "--dram", "190MiB", "--nvme", "off"}),
      {3, "does_not_fit", {"131,072 tokens", "190.0 MiB", "0 B of disk"}, "--dram", "-c "});
  expect_refused(arguments({"--device", "none", "-c", "128k", "--dram", "190MiB", "-b", "256",
                            "--nvme", folder_.path(), "--nvme-budget", "1MiB"}),
                 {3, "does_not_fit", {"131,072 tokens"}, "--dram", "--nvme-budget "});
  expect_refused(arguments({"--device", "virtual:rtx4090", "--hbm", "1MiB"}),
                 {3, "does_not_fit", {"the device's memory", "1.0 MiB"}, "--hbm", "--hbm "});
}

TEST_F(Plan, RemediesOfARefusalAreEnough) {
  const auto refused = arguments({"--device", "none", "-c", "128k", "--dram", "190MiB", "--nvme",
                                  "off", "-b", "256", "--json"});
  const json found = json::parse(run_strata(refused).out, nullptr, false);
  EXPECT_EQ(found["feasible"], false);
  const std::string remedy = found["remedy"];
  const auto value_of = [&](const std::string& option) {
    const size_t begin = remedy.rfind(option + " ") + option.size() + 1;
    return remedy.substr(begin, remedy.find_first_of(" ,)", begin) - begin);
  };
  const std::vector<std::string> others = {"--device", "none", "--nvme", "off", "-b", "256"};
  std::vector<std::string> more = others;
  more.insert(more.end(), {"-c", "128k", "--dram", value_of("--dram")});
  EXPECT_EQ(plan(more)["feasible"], true);
  more = others;
  more.insert(more.end(), {"--dram", "190MiB", "-c", value_of("-c")});
  EXPECT_EQ(plan(more)["feasible"], true);
}

/// What stands first in a remedy, with its command line.
TEST_F(Plan, TheSmallestChangeStandsInALineThatCanBeTyped) {
  struct Case {
    std::vector<std::string> words;
    const char* change;
  };
  const std::vector<Case> cases = {
      {{"-c", "128k", "--device", "none", "--dram", "190MiB", "-b", "256", "--nvme", "off"},
       "--dram "},
      {{"-c", "128k", "--device", "none", "--dram", "190MiB", "-b", "256", "--nvme", folder_.path(),
        "--nvme-budget", "1MiB"},
       "--nvme-budget "},
      {{"-c", "32k", "--device", "virtual:rtx4090", "--hbm", "1MiB"}, "--hbm "}};
  for (const Case& of : cases) {
    SCOPED_TRACE(of.change);
    std::vector<std::string> words = of.words;
    words.emplace_back("--json");
    const std::string remedy =
        json::parse(run_strata(arguments(words)).out, nullptr, false)["remedy"];
    ASSERT_TRUE(remedy.starts_with(std::string("use ") + of.change)) << remedy;
    const std::string begins = " (strata ";
    const size_t begin = remedy.find(begins) + begins.size();
    ASSERT_GT(begin, begins.size()) << remedy;
    std::istringstream line(remedy.substr(begin, remedy.find(')', begin) - begin));
    EXPECT_NE(line.str().find(of.change), std::string::npos) << remedy;
    std::vector<std::string> typed{std::istream_iterator<std::string>(line), {}};
    const auto planned = run_strata(typed);
    EXPECT_EQ(planned.exit_code, 0) << remedy << planned.err;
  }
}

TEST_F(Plan, QuantisedKAndVAreProposedWhereTheyAreEnough) {
  const std::vector<std::string> words = {"--device", "none",   "-c",  "128k",   "-b",
                                          "256",      "--nvme", "off", "--dram", "290MiB"};
  std::vector<std::string> refused = words;
  refused.push_back("--json");
  const std::string remedy =
      json::parse(run_strata(arguments(refused)).out, nullptr, false)["remedy"];
  ASSERT_NE(remedy.find(", or -ctk q8_0 -ctv q8_0"), std::string::npos) << remedy;
  std::vector<std::string> quantised = words;
  quantised.insert(quantised.end(), {"-ctk", "q8_0", "-ctv", "q8_0"});
  EXPECT_EQ(plan(quantised)["feasible"], true);
}

TEST_F(Plan, ASmallerContextIsProposedWithAnAnswerThatItHolds) {
  const auto refused = arguments({"--device", "none", "-c", "128k", "-n", "120000", "--dram",
                                  "190MiB", "--nvme", "off", "-b", "256", "--json"});
  const std::string remedy = json::parse(run_strata(refused).out, nullptr, false)["remedy"];
  const size_t begin = remedy.rfind("-c ");
  ASSERT_NE(begin, std::string::npos) << remedy;
  std::istringstream words(remedy.substr(begin));
  std::vector<std::string> proposed(4);
  for (std::string& word : proposed) words >> word;
  ASSERT_EQ(proposed[2], "-n") << remedy;
  std::vector<std::string> more = {"--device", "none", "--dram", "190MiB",
                                   "--nvme",   "off",  "-b",     "256"};
  more.insert(more.end(), proposed.begin(), proposed.end());
  EXPECT_EQ(plan(more)["feasible"], true);
}

TEST_F(Plan, TakesTheCpusShareAsItIsStated) {
  const auto planned = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--device", "virtual:laptop8", "-c", "64k", "--hbm", "100MiB"});
    return plan(more);
  };
  const std::string path = folder_.path("plan.json");
  const auto saved_share = [&](const std::string& share) {
    planned({"--cpu-share", share, "--save", path});
    return json::parse(std::ifstream(path))["kv"].value("cpu_share", 0.0);
  };
  EXPECT_EQ(saved_share("40%"), 0.4);
  EXPECT_EQ(saved_share("0"), 0);
  EXPECT_GT(saved_share("auto"), 0);
  const auto token_ms = [&](const char* share) {
    return planned({"--cpu-share", share})["tpot_ms"].get<double>();
  };
  EXPECT_LT(token_ms("60%"), 0.9 * token_ms("10%"));
  EXPECT_LE(token_ms("auto"), token_ms("60%"));
  // Nobody shares where nobody wants it, and then memory is as it is without.
  EXPECT_EQ(planned({})["tpot_ms"], planned({"--cpu-share", "0"})["tpot_ms"]);
  const auto buffers = [&](const char* share) {
    return planned({"--cpu-share", share})["tiers"]["dram"]["buffers_bytes"].get<uint64_t>();
  };
  EXPECT_LT(buffers("0"), buffers("40%"));
}

/// The weights that a card does not hold: of layers, or of the piece that a pin keeps from it.
TEST_F(Plan, GivesTheCpuItsShareOfTheWeightsThatACardLacks) {
  const std::string path = folder_.path("plan.json");
  const auto planned = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--device", "virtual:laptop8", "-c", "4k", "--save", path});
    return plan(more);
  };
  const auto saved = [&](const std::vector<std::string>& more) {
    planned(more);
    return json::parse(std::ifstream(path))["layers"];
  };
  const int n_layers = planned({})["layers"]["hbm"];
  EXPECT_EQ(planned({"--pin", "blk=dram"})["layers"].value("on_cpu", 0), 0);
  EXPECT_EQ(planned({"--pin", "blk=dram", "--cpu-share", "100%"})["layers"]["on_cpu"], n_layers);
  EXPECT_EQ(planned({"--pin", "blk=dram", "--cpu-share", "50%"})["layers"]["on_cpu"], n_layers / 2);
  const std::string all = "0-" + std::to_string(n_layers - 1);
  EXPECT_EQ(saved({"--pin", "blk=dram", "--cpu-share", "100%"}), (json{{all, "cpu"}}));
  const std::vector<std::string> ffn = {"--pin", "ffn=dram", "--pin", "attn=hbm"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), ffn.begin(), ffn.end());
    return more;
  };
  EXPECT_EQ(saved(with({})), (json{{all, {{"attention", "hbm"}, {"ffn", "dram"}}}}));
  EXPECT_EQ(saved(with({"--cpu-share", "100%"})),
            (json{{all, {{"attention", "hbm"}, {"ffn", "cpu"}}}}));
  EXPECT_EQ(planned(with({"--cpu-share", "100%"}))["layers"]["on_cpu"], n_layers);
  // Of a model whose FFNs take the link longer than a wait takes.
  const testing::AnnouncedModel large{"large", 8, 4096, 32, 8, 128, 14336, 32000, 8192};
  large.write(path_);
  const json chosen = planned(with({"--cpu-share", "auto"}));
  EXPECT_GT(chosen["layers"].value("on_cpu", 0), 0);
  EXPECT_LT(chosen["tpot_ms"].get<double>(), 0.9 * planned(with({}))["tpot_ms"].get<double>());
}

TEST_F(Plan, RefusesOptionsThatContradict) {
  for (const std::string bad : {"1", "101%", "-1%", "all"})
    expect_refused(arguments({"--device", "virtual:rtx4090", "--cpu-share=" + bad}),
                   {2, "usage", {"found '" + bad + "'"}, "--cpu-share", "such as 1%"});
  for (const char* share : {"auto", "40%"})
    expect_refused(arguments({"--device", "none", "--cpu-share", share}),
                   {2, "usage", {"none computes"}, "--cpu-share", "name a card"});
  EXPECT_EQ(plan({"--device", "none", "--cpu-share", "0"})["feasible"], true);
  expect_refused(arguments({"--device", "none", "--hbm", "4GiB"}),
                 {2, "usage", {"--hbm"}, "--hbm", "virtual:NAME"});
  expect_refused(arguments({"--device", "virtual:rtx3060", "--hbm", "100GiB"}),
                 {2, "usage", {"12.0 GiB", "100.0 GiB"}, "--hbm", "smaller --hbm"});
  // A driver keeps some of it.
  expect_refused(arguments({"--device", "virtual:rtx3060", "--hbm", "12GiB"}),
                 {2, "usage", {"free", "wanted 12.0 GiB"}, "--hbm", "smaller --hbm"});
  expect_refused(arguments({"--device", "virtual:rtx9999"}),
                 {2, "usage", {"unknown device profile"}, "--device", "virtual:rtx4090"});
  expect_refused(arguments({"--device", "none", "-c", "1k", "-n", "1024"}),
                 {2, "usage", {"1024"}, "--predict", "larger -c"});
  expect_refused(arguments({"--device", "none", "-c", "1"}), {2, "usage", {"64"}, "-c", "-c 64"});
  for (const char* size : {"-1", "12XB", "12e9", "-4GiB"})
    expect_refused(arguments({"--device", "none", std::string("--dram=") + size}),
                   {2, "usage", {size}, "--dram", ""});
  expect_refused({"plan"}, {2, "usage", {"no model"}, "strata plan", "-m MODEL.gguf"});
}

}  // namespace
}  // namespace strata::cli

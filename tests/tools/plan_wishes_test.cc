// What a user wants of `strata plan` beside a plan: pins, limits, a rate, a machine that differs.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/tools/plan_fixture.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::run_strata;

class PlanWishes : public testing::PlanTest {
 protected:
  using Words = std::vector<std::string>;
  static Words joined(Words first, const Words& more) {
    first.insert(first.end(), more.begin(), more.end());
    return first;
  }
  Words on_card(const Words& more) const {
    return joined({"--device", "virtual:laptop8", "-c", "64k", "-b", "256", "--nvme",
                   folder_.path(), "--nvme-budget", "1GiB"},
                  more);
  }
  Words on_cpu(const Words& more) const {
    return joined({"--device", "none", "-c", "128k", "-b", "256", "--nvme", folder_.path(),
                   "--nvme-budget", "1GiB"},
                  more);
  }
  /// "HBM/DRAM/file".
  std::string layers(const Words& more) const {
    const json counts = plan(more)["layers"];
    return counts["hbm"].dump() + "/" + counts["dram"].dump() + "/" + counts["file"].dump();
  }
  json refused(const Words& more) const {
    const auto outcome = run_strata(arguments(joined(more, {"--json"})));
    EXPECT_EQ(outcome.exit_code, 3) << outcome.out << outcome.err;
    return json::parse(outcome.out, nullptr, false);
  }
  /// What stands behind an option in a remedy.
  static std::string value_of(const std::string& remedy, const std::string& option) {
    const size_t begin = remedy.rfind(option + " ") + option.size() + 1;
    return remedy.substr(begin, remedy.find_first_of(" ,)", begin) - begin);
  }
};

TEST_F(PlanWishes, PinsHold) {
  EXPECT_EQ(layers(on_card({})), "8/0/0");
  EXPECT_EQ(layers(on_card({"--pin", "blk\\.[0-5]\\.=dram"})), "2/6/0");
  // As llama.cpp spells it, and several at once.
  EXPECT_EQ(layers(on_card({"-ot", "blk\\.[0-5]\\.=CPU"})), "2/6/0");
  EXPECT_EQ(layers(on_card({"--pin", "blk\\.[0-1]\\.=dram", "--override-tensor", "blk.7.=nvme",
                            "-ngl", "99"})),
            "5/2/1");
  EXPECT_EQ(layers(on_cpu({"--pin", "blk\\.(1|3)\\.=nvme"})), "0/6/2");
  // A pattern that catches all matrices of a layer one by one.
  EXPECT_EQ(layers(on_card({"--pin", "blk.0.(attn|ffn)_.*=dram", "-ngl", "99"})), "7/1/0");
}

TEST_F(PlanWishes, PinsOfPiecesHold) {
  const auto split = [&](const Words& more) { return plan(more)["layers"]; };
  const auto apart = [](const char* attention, const char* ffn, const std::vector<int>& of) {
    return json{{"attention", attention}, {"ffn", ffn}, {"layers", of}};
  };
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7};
  // As llama.cpp's users pin, beside a card and without one.
  const Words ffn = {"-ot", "blk\\.[0-9]+\\.ffn_.*=CPU"};
  const json on_a_card = split(on_card(joined(ffn, {"-ngl", "99"})));
  EXPECT_EQ(on_a_card["hbm"], 0);
  EXPECT_EQ(on_a_card.value("split", json()), json::array({apart("hbm", "dram", all)}));
  EXPECT_EQ(layers(on_card(joined(ffn, {"-ngl", "0"}))), "0/8/0");
  EXPECT_EQ(layers(on_cpu(ffn)), "0/8/0");
  EXPECT_FALSE(split(on_cpu(ffn)).contains("split"));
  // Those of some layers here, of others there, and whole layers beside them.
  const json mixed = split(on_cpu({"--pin", "blk\\.[0-2]\\.ffn_(gate|up|down)=nvme", "--pin",
                                   "blk\\.[0-2]\\.attn=dram", "--pin", "blk\\.5\\.attn_=nvme",
                                   "--pin", "blk\\.5\\.ffn=dram", "--pin", "blk.7.=nvme"}));
  EXPECT_EQ(mixed["dram"], 3);
  EXPECT_EQ(mixed["file"], 1);
  EXPECT_EQ(mixed.value("split", json()),
            json::array({apart("dram", "file", {0, 1, 2}), apart("file", "dram", {5})}));
  const std::string said = text(on_cpu({"--pin", "ffn=nvme", "--pin", "attn=dram"}));
  EXPECT_NE(said.find("8 with attention in DRAM and FFN read from the model file in every step"),
            std::string::npos)
      << said;
  // What is pinned apart is priced: an FFN from the disk takes as long as its bytes, by requests
  // that are smaller here, and so slower.
  const auto disk_ms = [&](const Words& more) {
    return plan(on_cpu(more))["busy_ms"]["decode"]["NVMe"].get<double>();
  };
  const double whole = disk_ms({"--pin", "blk=nvme"});
  const double parts = disk_ms({"--pin", "ffn=nvme", "--pin", "attn=dram"}) +
                       disk_ms({"--pin", "attn=nvme", "--pin", "ffn=dram"});
  EXPECT_GT(parts, 0.9 * whole);
  EXPECT_LT(parts, 1.5 * whole);
}

TEST_F(PlanWishes, SoManyLayersAreInTheDevicesMemory) {
  EXPECT_EQ(layers(on_card({"-ngl", "3"})), "3/5/0");
  EXPECT_EQ(layers(on_card({"--n-gpu-layers", "0"})), "0/8/0");
  EXPECT_EQ(layers(on_card({"-ngl", "99"})), "8/0/0");
  EXPECT_EQ(layers(on_card({"-ngl", "99", "-ot", "blk.0.=CPU"})), "7/1/0");
  EXPECT_EQ(layers(on_card({"-ngl", "2", "-ot", "blk.0.=hbm"})), "2/6/0");
  EXPECT_EQ(layers(on_cpu({"-ngl", "0"})), "0/8/0");
}

TEST_F(PlanWishes, KeysAndValuesLiveWhereTheyAreWanted) {
  const auto share = [&](const Words& words, const char* tier) {
    return plan(words)["kv_share"][tier].get<double>();
  };
  EXPECT_NEAR(share(on_card({"--kv-tier", "hbm"}), "hbm"), 1, 1e-9);
  EXPECT_NEAR(share(on_card({"--kv-tier", "dram"}), "dram"), 1, 1e-9);
  EXPECT_NEAR(share(on_cpu({}), "dram"), 1, 1e-9);
  EXPECT_GT(share(on_cpu({"--kv-tier", "nvme"}), "nvme"), 0.5);
}

TEST_F(PlanWishes, PinsThatCannotHoldAreRefusedByName) {
  struct Case {
    Words words;
    std::vector<std::string> what;
    std::string where, remedy;
  };
  const std::vector<Case> cases = {
      {on_card({"--pin", "blk\\.[0-9]+\\.ffn_down=dram"}),
       {"catches blk.0.ffn_down.weight and not blk.0.ffn_gate.weight", "FFN", "move together"},
       "--pin",
       "name blk.0.ffn_gate.weight, blk.0.ffn_up.weight too, or all of them: "
       "--pin 'blk\\.[0-9]+\\.ffn_=dram'"},
      {on_cpu({"--pin", "blk.3.(attn_q|ffn_)=nvme"}),
       {"blk.3.attn_q.weight", "attention"},
       "--pin",
       "blk\\.(3)\\.attn_=nvme"},
      {on_cpu({"--pin", "ffn=dram", "--pin", "blk.2.=nvme"}),
       {"contradict each other: both catch layer 2's FFN matrices"},
       "--pin",
       "leave one"},
      {on_card({"--pin", "mamba=dram"}), {"catches no tensor"}, "--pin", "blk.0.attn_q.weight"},
      {on_card({"--pin", "token_embd=dram"}), {"token_embd.weight", "never moves"}, "--pin", "blk"},
      {on_card({"--pin", "blk=dram", "--pin", "blk.2.=hbm"}),
       {"contradict each other: both catch layer 2's attention matrices"},
       "--pin",
       "leave one"},
      {on_card({"--pin", "blk.(=dram"}), {"is no pattern"}, "--pin", "simpler"},
      {on_card({"--pin", std::string(201, 'b') + "=dram"}), {"at most 200"}, "--pin", "simpler"},
      {on_card({"--pin", "(b{90}){90}=dram"}), {"repeats at most 256"}, "--pin", "simpler"},
      {on_card({"--pin", "blk"}), {"REGEX=hbm|dram|nvme, found 'blk'"}, "--pin", "=dram"},
      {on_card({"--pin", "blk=tape"}), {"hbm, dram and nvme, found 'tape'"}, "--pin", "=dram"},
      {on_cpu({"--pin", "blk=hbm"}), {"none computes"}, "--pin", "--device"},
      {on_cpu({"-ngl", "4"}), {"none computes"}, "--n-gpu-layers", "--device"},
      {on_cpu({"--kv-tier", "hbm"}), {"none computes"}, "--kv-tier", "--device"},
      {on_card({"-ngl", "2", "--pin", "blk=hbm"}),
       {"contradict", "8 to 8"},
       "--n-gpu-layers",
       "-ngl 8"},
      {on_card({"-ngl", "6", "--pin", "blk.[0-5].=dram"}),
       {"contradict", "0 to 2"},
       "--n-gpu-layers",
       "-ngl 2"},
      {{"--device", "none", "-c", "128k", "--nvme", "off", "--kv-tier", "nvme"},
       {"cannot go to disk"},
       "--kv-tier",
       "--nvme"},
      {on_cpu({"--kv-tier", "nvme", "-c", "256"}), {"stays in memory"}, "--kv-tier", "larger -c"},
      {on_card({"--kv-tier", "tape"}), {"hbm or dram or nvme"}, "--kv-tier", ""}};
  for (const Case& of : cases)
    expect_refused(arguments(of.words), {2, "usage", of.what, of.where, of.remedy});
}

TEST_F(PlanWishes, WhatFitsOnlyWithoutPinsIsProposedWithoutThem) {
  expect_refused(arguments(on_card({"--hbm", "60MiB", "--kv-tier", "hbm"})),
                 {3, "does_not_fit", {"60.0 MiB"}, "--hbm", "leave --pin, -ngl and --kv-tier out"});
}

TEST_F(PlanWishes, LimitsThatHoldChangeNothingAndOthersAreRefusedWithWhatWouldDo) {
  const Words words = {"--device",      "none",   "-c",     "128k",   "-b",
                       "256",           "--dram", "190MiB", "--nvme", folder_.path(),
                       "--nvme-budget", "1GiB"};
  const json free = plan(words);
  const double tpot = free["tpot_ms"], ttft = free["ttft_ms"];
  const auto ms = [](double value) { return std::to_string(value) + "ms"; };
  EXPECT_EQ(plan(joined(words, {"--tpot-max", ms(1.1 * tpot), "--ttft-max", "1000h"}))["tpot_ms"],
            tpot);
  // Three quarters of that want more memory: what is proposed is enough, and little less is not.
  const std::string limit = ms(0.75 * tpot);
  const json found = refused(joined(words, {"--tpot-max", limit}));
  const std::string message = found["error"]["message"], remedy = found["remedy"];
  EXPECT_EQ(found["feasible"], false);
  EXPECT_NE(message.find("--tpot-max"), std::string::npos) << message;
  EXPECT_NE(message.find("at best"), std::string::npos) << message;
  EXPECT_NE(remedy.find("(strata plan -m "), std::string::npos) << remedy;
  const Words others = {"--device", "none",   "-c",           "128k",          "-b",
                        "256",      "--nvme", folder_.path(), "--nvme-budget", "1GiB"};
  const Words proposed = {"--tpot-max", limit, "--dram", value_of(remedy, "--dram")};
  EXPECT_LE(plan(joined(others, proposed))["tpot_ms"], 0.75 * tpot);
  EXPECT_LE(plan(joined(words, {"--tpot-max", value_of(remedy, "--tpot-max")}))["tpot_ms"],
            1.02 * tpot);
  // No memory makes a prompt quicker than the CPU.
  const json never = refused(joined(words, {"--ttft-max", ms(0.01 * ttft)}));
  EXPECT_NE(never["error"]["message"].get<std::string>().find("no more memory would do"),
            std::string::npos)
      << never;
  EXPECT_NE(never["remedy"].get<std::string>().find("use --ttft-max"), std::string::npos) << never;
  // In the proposed line times stand as they are read.
  const json slow = refused(joined(words, {"--tpot-max", limit, "--ttft-max", "30min"}));
  const std::string line = slow["remedy"].get<std::string>();
  EXPECT_NE(line.find("--ttft-max 1800000ms "), std::string::npos) << line;
  plan(joined(others, {"--ttft-max", value_of(line, "--ttft-max")}));
}

TEST_F(PlanWishes, AnotherMachineIsPlannedBesideThisOne) {
  const Words words = {"--device",      "none",   "-c",     "128k",   "-b",
                       "256",           "--dram", "190MiB", "--nvme", folder_.path(),
                       "--nvme-budget", "1GiB"};
  const json found = plan(joined(words, {"--what-if", "dram=+1GiB"}));
  EXPECT_LT(found["what_if"]["tpot_ms"], found["tpot_ms"]);
  EXPECT_EQ(found["what_if"]["kv_share"]["nvme"], 0.0);
  EXPECT_GT(found["kv_share"]["nvme"], 0.1);
  EXPECT_EQ(plan(joined(words, {"--what-if", "dram=1214MiB"}))["what_if"], found["what_if"]);
  EXPECT_LT(plan(joined(words, {"--what-if", "nvme_read=+20%"}))["what_if"]["tpot_change_ms"], 0);
  EXPECT_GT(plan(joined(words, {"--what-if", "cpu=-50%"}))["what_if"]["ttft_change_ms"], 0);
  EXPECT_EQ(plan(joined(words, {"--what-if", "dram=-180MiB"}))["what_if"]["feasible"], false);
  const std::string said = text(joined(words, {"--what-if", "dram=+1GiB"}));
  for (const char* line : {"what if", "first token after", "K and V DRAM/disk"})
    EXPECT_NE(said.find(line), std::string::npos) << said;
  struct Case {
    const char *change, *what;
  };
  for (const Case& of :
       {Case{"ram=+1GiB", "hbm, dram, nvme, nvme_read"}, Case{"dram", "PART=CHANGE"},
        Case{"dram=+12XB", "a size"}, Case{"dram=++1GiB", "a size"}, Case{"cpu=20%", "+20%"},
        Case{"cpu=-100%", "+20%"}, Case{"cpu=+1e99%", "+20%"}, Case{"link=+20%", "none computes"}})
    expect_refused(arguments(joined(words, {"--what-if", of.change})),
                   {2, "usage", {of.what}, "--what-if", ""});
}

TEST_F(PlanWishes, AQuickerCpuChoosesMoreQuickly) {
  // Beside a card that holds all of it the CPU does nothing else.
  const Words exact = on_card({"--what-if", "cpu=+20%"});
  const Words chosen = joined(exact, {"--attn", "pq", "--kv-budget", "2k"});
  EXPECT_EQ(plan(exact)["what_if"]["tpot_change_ms"], 0.0);
  EXPECT_NEAR(plan(exact)["kv_share"]["hbm"], 1, 1e-9);
  const json found = plan(chosen);
  EXPECT_NEAR(found["kv_share"]["hbm"], 1, 1e-9);
  const double change = found["what_if"]["tpot_change_ms"], tpot = found["tpot_ms"];
  EXPECT_LT(change, -0.05 * tpot);
  EXPECT_GT(change, -tpot / 6);
  const double slower = plan(joined(chosen, {"--what-if", "dram_read=+20%"}))["what_if"]["tpot_ms"];
  EXPECT_NEAR(slower, tpot + change, 1e-9);  // memory's pace changes nothing more
  // Of rabitq the card searches the index.
  const Words by_card = joined(exact, {"--attn", "rabitq", "--kv-budget", "2k"});
  EXPECT_EQ(plan(by_card)["what_if"]["tpot_change_ms"], 0.0);
}

TEST_F(PlanWishes, TheLongestContextAtARateIsFound) {
  const Words words = {"--device", "none", "-b", "256", "--nvme", "off"};
  const auto rate = [&](const std::string& n_ctx) {
    return 1e3 / plan(joined(words, {"-c", n_ctx}))["tpot_ms"].get<double>();
  };
  const double wanted = (rate("32k") + rate("33k")) / 2;
  const Words asked = {"-c", "128k", "--min-rate", std::to_string(wanted)};
  const json found = plan(joined(words, asked));
  const uint64_t n_ctx = found["n_ctx"];
  EXPECT_GE(n_ctx, 32u << 10);
  EXPECT_LE(n_ctx, 33u << 10);
  EXPECT_GE(rate(std::to_string(n_ctx)), wanted);
  EXPECT_LT(rate(std::to_string(n_ctx + 256)), wanted);
  const std::string said = text(joined(words, asked));
  EXPECT_NE(said.find("strata run -m " + path_), std::string::npos) << said;
  EXPECT_NE(said.find("-c " + std::to_string(n_ctx)), std::string::npos) << said;
  EXPECT_EQ(plan(joined(words, {"-c", "4k", "--min-rate", "0.001"}))["n_ctx"], 4096);
  expect_refused(arguments(joined(words, {"--min-rate", "1000000"})),
                 {3, "does_not_fit", {"not reached"}, "--min-rate", "--min-rate "});
  expect_refused(arguments(joined(words, {"--min-rate", "0"})),
                 {2, "usage", {"above 0"}, "--min-rate", "--min-rate 5"});
}

TEST_F(PlanWishes, TheLongestContextIsPricedWithItsOwnShareOfABudget) {
  const Words words = {"--device", "none",   "-b",   "256",         "--nvme",
                       "off",      "--attn", "mean", "--kv-budget", "2k"};
  const auto rate = [&](uint64_t n_ctx) {
    return 1e3 / plan(joined(words, {"-c", std::to_string(n_ctx)}))["tpot_ms"].get<double>();
  };
  const double wanted = (rate(32 << 10) + rate(33 << 10)) / 2;
  const json found = plan(joined(words, {"-c", "128k", "--min-rate", std::to_string(wanted)}));
  const uint64_t n_ctx = found["n_ctx"];
  EXPECT_GE(rate(n_ctx), wanted);
  EXPECT_LT(rate(n_ctx + 256), wanted);
  EXPECT_NEAR(found["touched_share"].get<double>(), 2048 / (static_cast<double>(n_ctx) - 128),
              1e-9);
}

TEST_F(PlanWishes, RecomputingIsOffWithItsArithmetic) {
  // d_model 32, two KV heads of 32: hidden states are smaller than K and V here.
  const json found = plan(on_card({}));
  const json& recompute = found["recompute"];
  EXPECT_EQ(recompute["is_on"], false);
  EXPECT_EQ(recompute["hidden_bytes_per_position"], 4.0 * 32);
  EXPECT_EQ(recompute["kv_bytes_per_position"], 2.0 * 2 * 32 * 2);
  const std::string said = text(on_card({"--explain"}));
  for (const char* part : {"recomputing K and V is off: hidden states are 128 B",
                           "pay from 64 FLOP on for a byte", "from tokens a position takes "})
    EXPECT_NE(said.find(part), std::string::npos) << said;
  // In q8_0 K and V are hardly larger.
  EXPECT_NE(text(on_card({"--explain", "-ctk", "q8_0", "-ctv", "q8_0"}))
                .find("and K and V 136 B (n_kv_heads 2 * head_dim 32), so they pay from 1024 FLOP"),
            std::string::npos);
}

TEST_F(PlanWishes, RecomputingCannotPayWhereHeadsShareKeys) {
  engine::testing::SmallModelOptions options;
  options.head_dim = 32;
  options.n_kv_heads = 1;
  options.n_ctx_train = 4096;
  const std::string path = model(engine::testing::make_small_model(options));
  const std::vector<std::string> words = {"plan", "-m",       path,   "--no-cache", "-t",
                                          "2",    "--device", "none", "--nvme",     "off"};
  const json found = json::parse(run_strata(joined(words, {"--json"})).out, nullptr, false);
  const json recompute = found.value("recompute", json());
  EXPECT_EQ(recompute.value("could_win", true), false);
  EXPECT_EQ(recompute.value("split_gain", 1.0), 0);
  EXPECT_EQ(recompute.value("hidden_bytes_per_position", 0.0), 128);
  EXPECT_EQ(recompute.value("kv_bytes_per_position", 0.0), 128);
  const std::string said = run_strata(joined(words, {"--explain"})).out;
  EXPECT_NE(said.find("so they cannot pay; "), std::string::npos) << said;
}

}  // namespace
}  // namespace strata::cli

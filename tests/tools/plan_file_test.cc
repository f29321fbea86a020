// A plan as a file: what is written is read back, and nothing else is.
#include "tools/cli/plan_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"

namespace strata::cli {
namespace {

using engine::testing::expect_error;
using nlohmann::json;

constexpr uint64_t kMiB = uint64_t{1} << 20;

PlanFile some_plan() {
  PlanFile plan;
  plan.model = "A model \"of\" letters";
  plan.architecture = "llama";
  plan.n_layers = 6;
  plan.weight_bytes = 90 * kMiB;
  plan.device = "none";
  plan.dram_bytes = 200 * kMiB;
  plan.nvme_bytes = 900 * kMiB;
  plan.placement.n_ctx = 4096;
  plan.placement.chunk_rows = 512;
  plan.placement.v_codec = KvCodec::kQ8_0;
  plan.placement.streamed = {kNoPiece,    kWholeLayer, kWholeLayer,
                             kWholeLayer, kNoPiece,    kWholeLayer};
  plan.placement.kv_dram_bytes = 50 * kMiB;
  plan.ttft_ms = 3143.5;
  plan.tpot_ms = 28.75;
  return plan;
}

PlanFile device_plan() {
  PlanFile plan = some_plan();
  plan.device = "cuda:0";
  plan.hbm_bytes = 400 * kMiB;
  plan.placement.streamed.assign(6, kNoPiece);
  plan.placement.resident = {kWholeLayer, kWholeLayer, kNoPiece,
                             kNoPiece,    kWholeLayer, kWholeLayer};
  plan.placement.kv_dram_bytes = 0;
  plan.placement.kv_hbm_bytes = 7 * kMiB;
  plan.placement.cpu_share = 0.625;
  plan.is_measured = true;
  return plan;
}

PlanFile with_pieces(PlanFile plan) {
  std::vector<PieceSet>& places =
      plan.device == "none" ? plan.placement.streamed : plan.placement.resident;
  places[2] = places[3] = {.ffn = true};
  places[5] = {.attention = true};
  return plan;
}

/// The CPU's: all of a layer, and a piece of one whose other piece stays.
PlanFile with_products(PlanFile plan) {
  plan.placement.on_cpu.assign(6, kNoPiece);
  plan.placement.on_cpu[2] = {.attention = true};
  plan.placement.on_cpu[5] = {.ffn = true};
  return plan;
}

/// From the file beside a card: all of a layer in every step, a piece that the card has alone, and
/// one that it has beside one that passes.
PlanFile with_weights_in_file(PlanFile plan) {
  plan.placement.streamed[3] = kWholeLayer;
  plan.placement.streamed[4] = kWholeLayer;
  plan.placement.streamed[5] = {.attention = true};
  return plan;
}

PlanFile with_index(PlanFile plan) {
  plan.placement.index_in_hbm = true;
  return plan;
}

TEST(PlanFileTest, WhatIsWrittenIsReadBack) {
  for (const PlanFile& plan :
       {some_plan(), device_plan(), with_pieces(some_plan()), with_pieces(device_plan()),
        with_products(with_pieces(device_plan())), with_weights_in_file(device_plan()),
        with_index(device_plan())}) {
    const std::string text = plan_file_json(plan);
    const PlanFile read = parse_plan_file(text, "plan.json");
    EXPECT_EQ(plan_file_json(read), text);
    EXPECT_EQ(read.model, plan.model);
    EXPECT_EQ(read.placement.n_ctx, 4096u);
    EXPECT_EQ(read.placement.v_codec, KvCodec::kQ8_0);
    EXPECT_EQ(read.placement.streamed, plan.placement.streamed);
    EXPECT_EQ(read.placement.resident, plan.placement.resident);
    EXPECT_EQ(read.placement.on_cpu, plan.placement.on_cpu);
    EXPECT_EQ(read.placement.kv_dram_bytes, plan.placement.kv_dram_bytes);
    EXPECT_EQ(read.placement.kv_hbm_bytes, plan.placement.kv_hbm_bytes);
    EXPECT_EQ(read.placement.index_in_hbm, plan.placement.index_in_hbm);
    EXPECT_EQ(read.placement.cpu_share, plan.placement.cpu_share);
    EXPECT_EQ(read.is_measured, plan.is_measured);
  }
}

TEST(PlanFileTest, LayersStandAsRunsInAnyOrder) {
  const json written = json::parse(plan_file_json(some_plan()));
  EXPECT_EQ(written["layers"],
            (json{{"0", "dram"}, {"1-3", "file"}, {"4", "dram"}, {"5", "file"}}));
  json edited = written;
  edited["layers"] = {{"5", "dram"}, {"0-4", "file"}};
  std::vector<PieceSet> wanted(6, kWholeLayer);
  wanted[5] = kNoPiece;
  EXPECT_EQ(parse_plan_file(edited.dump(), "plan.json").placement.streamed, wanted);
}

TEST(PlanFileTest, PiecesOfALayerStandByTheirNames) {
  const auto layers = [](const PlanFile& plan) {
    return json::parse(plan_file_json(with_pieces(plan)))["layers"];
  };
  const json ffn_in_file = {{"attention", "dram"}, {"ffn", "file"}};
  EXPECT_EQ(layers(some_plan()), (json{{"0", "dram"},
                                       {"1", "file"},
                                       {"2-3", ffn_in_file},
                                       {"4", "dram"},
                                       {"5", {{"attention", "file"}, {"ffn", "dram"}}}}));
  EXPECT_EQ(layers(device_plan())["5"], (json{{"attention", "hbm"}, {"ffn", "dram"}}));
  const json of_cpu = layers(with_products(device_plan()));
  EXPECT_EQ(of_cpu["2"], (json{{"attention", "cpu"}, {"ffn", "hbm"}}));
  EXPECT_EQ(of_cpu["3"], (json{{"attention", "dram"}, {"ffn", "hbm"}}));
  EXPECT_EQ(of_cpu["5"], (json{{"attention", "hbm"}, {"ffn", "cpu"}}));
  const json of_file = layers(with_weights_in_file(device_plan()));
  EXPECT_EQ(of_file["3"], (json{{"attention", "file"}, {"ffn", "hbm_alone"}}));
  EXPECT_EQ(of_file["4"], "hbm_alone");
  EXPECT_EQ(of_file["5"], (json{{"attention", "hbm_alone"}, {"ffn", "dram"}}));
  // Of one that names both alike the layer is whole.
  json edited = json::parse(plan_file_json(some_plan()));
  edited["layers"] = {{"0-5", {{"attention", "file"}, {"ffn", "file"}}}};
  EXPECT_EQ(parse_plan_file(edited.dump(), "plan.json").placement.streamed,
            std::vector<PieceSet>(6, kWholeLayer));
}

struct BadKey {
  const char* pointer;
  const char* value;  // "" = the key is not there
  const char* message;
};
constexpr BadKey kBadKeys[] = {
    {"/Layers", "1", "without 'Layers'"},
    {"/kv/dram", "1", "without 'dram'"},
    {"/n_ctx", "", "with n_ctx"},
    {"/version", "", "with version"},
    {"/version", "2", "wanted 1 as version, found 2"},
    {"/version", "\"1\"", "as version"},
    {"/device", "\"auto\"", "none or cuda:N as device"},
    {"/device", "\"cuda:\"", "none or cuda:N as device"},
    {"/device", "\"\"", "none or cuda:N as device"},
    {"/n_ctx", "\"4k\"", "as n_ctx, found \"4k\""},
    {"/n_ctx", "-1", "as n_ctx, found -1"},
    {"/n_ctx", "4096.5", "as n_ctx"},
    {"/chunk_rows", "0", "as chunk_rows"},
    {"/model/n_layers", "4000000000", "as model.n_layers"},
    {"/model/n_layers", "7", "every layer from 0 to 6 once"},
    {"/model", "[]", "an object as model, found a list"},
    {"/layers", R"({"0-5": "ram"})", "hbm, hbm_alone, dram, cpu or file as layers.0-5"},
    {"/layers", R"({"0-5": "hbm"})", "device is none"},
    {"/layers", R"({"0-5": "cpu"})", "device is none"},
    {"/layers", R"({"0-5": 3})", "a text as layers.0-5"},
    {"/layers", R"({"0-5": {"ffn": "file"}})", "an object with attention"},
    {"/layers", R"({"0-5": {"attention": "dram", "ffn": "ram"}})", "cpu or file as layers.0-5.ffn"},
    {"/layers", R"({"0-5": {"attention": "hbm", "ffn": "dram"}})", "device is none"},
    {"/layers", R"({"0-5": {"attention": "dram", "ffn": "dram", "q": "dram"}})", "without 'q'"},
    {"/layers", R"({"0-4": "dram", "4-5": "file"})", "4 is missing or there"},
    {"/layers", R"({"0-2": "dram", "4-5": "file"})", "3 is missing or there"},
    {"/layers", R"({"0-6": "dram"})", "every layer from 0 to 5 once"},
    {"/layers", R"({"5-0": "dram"})", "a layer (\"12\")"},
    {"/layers", R"({"0-99999999999": "dram"})", "a layer (\"12\")"},
    {"/layers", R"({"0-": "dram"})", "a layer (\"12\")"},
    {"/layers", R"({"": "dram"})", "a layer (\"12\")"},
    {"/layers", "{}", "every layer"},
    {"/kv/type_k", "\"q4_0\"", "f16 or q8_0 as kv.type_k"},
    {"/kv/dram_bytes", "210763776", "0 to 209715200 as kv.dram_bytes"},
    {"/kv/hbm_bytes", "1", "0 to 0 as kv.hbm_bytes"},
    {"/kv/index_in_hbm", "true", "device is none"},
    {"/kv/index_in_hbm", "1", "true or false"},
    {"/kv/cpu_share", "0", "above 0 and at most 1 as kv.cpu_share"},
    {"/kv/cpu_share", "1.5", "above 0 and at most 1 as kv.cpu_share"},
    {"/budgets/nvme_bytes", "0", "budgets.nvme_bytes is 0"},
    {"/budgets/dram_bytes", "0", "as budgets.dram_bytes"},
    {"/predicted/tpot_ms", "null", "a finite number as predicted.tpot_ms"},
    {"/predicted/tpot_ms", "-1.0", "at least 0 as predicted.tpot_ms"},
    {"/predicted/is_measured", "1", "true or false"},
};

TEST(PlanFileTest, WhatIsNoPlanIsRefusedByItsKey) {
  const std::string good = plan_file_json(some_plan());
  ASSERT_NO_THROW(parse_plan_file(good, "plan.json"));
  for (const BadKey& of : kBadKeys) {
    json changed = json::parse(good);
    const json::json_pointer key(of.pointer);
    if (*of.value == 0) {
      changed.at(key.parent_pointer()).erase(key.back());
    } else {
      changed[key] = json::parse(of.value);
    }
    expect_error([&] { parse_plan_file(changed.dump(), "plan.json"); }, ErrorCode::kBadFile,
                 of.message, "plan.json");
  }
}

TEST(PlanFileTest, TextsThatAreNoPlanAreRefused) {
  std::string text = plan_file_json(some_plan());
  const auto with_tpot = [&](const std::string& value) {
    std::string changed = text;
    return changed.replace(changed.find("28.75"), 5, value);
  };
  ASSERT_NO_THROW(parse_plan_file(with_tpot("28"), "plan.json"));
  const std::string deep(100'000, '[');
  for (const std::string& bad :
       {std::string(), std::string("[]"), std::string("7"), text.substr(0, text.size() / 2),
        with_tpot("NaN"), with_tpot("1e999"), with_tpot("Infinity"), deep,
        "{\"version\":" + deep + std::string(100'000, ']') + "}", std::string(2 * kMiB, ' ')})
    expect_error([&] { parse_plan_file(bad, "plan.json"); }, ErrorCode::kBadFile, "wanted",
                 "plan.json");
}

TEST(PlanFileTest, AFileOfAGigabyteIsNotRead) {
  const engine::testing::TestFolder folder;
  const std::string path = folder.write("plan.json", plan_file_json(some_plan()));
  EXPECT_EQ(read_plan_file(path).n_layers, 6u);
  std::filesystem::resize_file(path, uint64_t{1} << 30);  // a hole
  expect_error([&] { read_plan_file(path); }, ErrorCode::kBadFile, "found 1073741824 bytes", path);
  expect_error([&] { read_plan_file(folder.path("absent")); }, ErrorCode::kIo, "cannot open",
               "--plan");
}

TEST(PlanFileTest, APlanOfAnotherModelIsRefused) {
  const PlanFile here = some_plan();
  ASSERT_NO_THROW(expect_same_model(here, here, "plan.json"));
  struct Case {
    std::function<void(PlanFile&)> change;
    const char* word;
  };
  for (const Case& of :
       {Case{[](PlanFile& p) { p.model = "B"; }, "its name is 'B'"},
        Case{[](PlanFile& p) { p.architecture = "qwen3"; }, "its architecture is 'qwen3'"},
        Case{[](PlanFile& p) { p.n_layers = 7; }, "its number of layers is '7'"},
        Case{[](PlanFile& p) { p.weight_bytes = 1; }, "its size is '1 bytes'"}}) {
    PlanFile other = here;
    of.change(other);
    expect_error([&] { expect_same_model(other, here, "plan.json"); }, ErrorCode::kUsage, of.word,
                 "plan.json");
  }
}

}  // namespace
}  // namespace strata::cli

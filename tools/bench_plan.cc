// tools/bench_plan.cc - what planning takes: processor time of a whole plan with its duals, and of
// each linear program alone, for models whose layers make one group or many, on cards that are not
// here. A model is a file's head that announces gigabytes; nothing of it is read but that.
//
//   bench_plan [--turns N] [--only PART_OF_A_NAME]
//
// Wanted: a program within 200 ms, a plan within 3 s. What was found stands behind the times, so
// that a change of speed alone shows that it is none of plans.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "engine/gguf/gguf_writer.h"
#include "tools/cli/bench_index.h"
#include "tools/cli/plan_answer.h"
#include "tools/cli/program.h"
#include "tools/cli/sample_statistics.h"
#include "tools/makers/medium_mix.h"
#include "tools/makers/random_transformer.h"

namespace strata {
namespace {

using planner::PlacementProblem;

struct Shape {
  const char* name;
  uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, window;
};
constexpr Shape kLlama8B{"8B", 32, 4096, 32, 8, 128, 14336, 0};
constexpr Shape kLlama70B{"70B", 80, 8192, 64, 8, 128, 28672, 0};
constexpr Shape kWindowed{"27B, 5 of 6 layers windowed", 62, 5376, 32, 16, 128, 21504, 1024};

/// Which matrices get more bits: none, those that quantisers to Q4_K_M choose, or in turn all types
/// that a layer can tell apart.
enum class Mix { kNone, kMedium, kMany };

struct Case {
  const char* name;
  Shape shape;
  Mix mix;
  const char *card, *n_ctx;
  std::vector<std::string> more;
};

const std::vector<Case>& cases() {
  static const std::vector<std::string> kPins = {"--pin", "blk\\.[0-9]\\.=dram",
                                                 "--pin", "blk\\.[1-2][0-9]\\.=nvme",
                                                 "--pin", "blk\\.7[0-9]\\.=hbm"};
  static const std::vector<Case> kCases = {
      {"8B, 128k", kLlama8B, Mix::kNone, "laptop8", "128k", {}},
      {"8B, 1m", kLlama8B, Mix::kNone, "rtx3060", "1m", {}},
      {"70B, 32k", kLlama70B, Mix::kNone, "laptop8", "32k", {}},
      {"70B, 128k", kLlama70B, Mix::kNone, "rtx4090", "128k", {}},
      {"70B mixed, 32k", kLlama70B, Mix::kMedium, "laptop8", "32k", {}},
      {"70B mixed, 128k", kLlama70B, Mix::kMedium, "rtx4090", "128k", {}},
      {"70B mixed and pinned, 32k", kLlama70B, Mix::kMedium, "rtx4090", "32k", kPins},
      {"70B of many mixes, 32k", kLlama70B, Mix::kMany, "laptop8", "32k", {}},
      {"70B of many mixes, pinned, 128k", kLlama70B, Mix::kMany, "rtx4090", "128k", kPins},
      {"27B windowed and mixed, 128k", kWindowed, Mix::kMedium, "laptop8", "128k", {}},
      {"27B windowed of many mixes, 128k", kWindowed, Mix::kMany, "rtx3060", "128k", {}},
      {"70B mixed, no card, 32k", kLlama70B, Mix::kMedium, "", "32k", {"--dram", "24GiB"}},
      {"70B mixed, in time, 32k", kLlama70B, Mix::kMedium, "rtx4090", "32k", {"--tpot-max", "1s"}}};
  return kCases;
}

std::vector<TensorType> types_of(const Shape& shape, Mix mix) {
  using enum TensorType;
  constexpr TensorType kTypes[] = {kQ4_K, kQ5_K, kQ6_K, kIQ4_XS, kQ3_K};
  std::vector<TensorType> types(uint64_t{shape.n_layers} * makers::kLayerMatrices, kQ4_K);
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer)
    for (const uint32_t matrix : {makers::kValueMatrix, makers::kDownMatrix}) {
      TensorType& type = types[uint64_t{layer} * makers::kLayerMatrices + matrix];
      if (mix == Mix::kMedium && makers::has_more_bits(layer, shape.n_layers)) type = kQ6_K;
      if (mix == Mix::kMany) type = kTypes[matrix == makers::kValueMatrix ? layer % 3 : layer % 5];
    }
  return types;
}

void write_model(const Case& of, const std::string& path) {
  makers::RandomTransformer model;
  model.name = of.name;
  model.n_layers = of.shape.n_layers;
  model.d_model = of.shape.d_model;
  model.n_heads = of.shape.n_heads;
  model.n_kv_heads = of.shape.n_kv_heads;
  model.head_dim = of.shape.head_dim;
  model.d_ff = of.shape.d_ff;
  model.vocab_size = 128256;
  model.n_ctx = 1 << 20;
  model.is_tied = false;
  model.matrix_types = types_of(of.shape, of.mix);
  model.embedding_type = TensorType::kQ6_K;
  model.rope.freq_base = 5e5;
  if (of.shape.window > 0) {
    model.architecture = "gemma3";
    model.has_qk_norm = model.has_post_norms = true;
    model.window = of.shape.window;
  }
  engine::GgufWriter writer;
  makers::add_random_transformer(writer, model);
  writer.write_announced(path);
}

cli::PlanSubject subject_of(const Case& of, const std::string& path, const std::string& folder) {
  std::vector<std::string> arguments = {"-m",         path,     "-c",   of.n_ctx,        "-t",  "8",
                                        "--no-cache", "--nvme", folder, "--nvme-budget", "1TiB"};
  arguments.push_back("--device");
  arguments.push_back(*of.card == '\0' ? "none" : std::string("virtual:") + of.card);
  arguments.insert(arguments.end(), of.more.begin(), of.more.end());
  const auto plan = std::ranges::find(
      cli::verbs(), "plan", [](const cli::Verb& verb) { return std::string(verb.syntax.name); });
  const auto no_variable = [](const std::string&) { return std::optional<std::string>(); };
  return plan_subject(cli::read_command(plan->syntax, arguments, no_variable),
                      gpu_attn::CudaDevices{});
}

template <class Call>
double cpu_ms(const Call& call) {
  const double begin_s = cli::process_cpu_s();
  call();
  return (cli::process_cpu_s() - begin_s) * 1e3;
}

void run_case(const Case& of, uint32_t n_turns, const std::string& folder) {
  const std::string path = folder + "/model.gguf";
  write_model(of, path);
  const cli::PlanSubject subject = subject_of(of, path, folder);
  const std::vector<PlacementProblem> problems =
      engine::placement_problems(subject.model, subject.request);
  std::vector<double> program_ms, plan_ms;
  std::optional<planner::PlacementPlan> plan;
  for (uint32_t turn = 0; turn < n_turns; ++turn) {
    for (const PlacementProblem& problem : problems)
      program_ms.push_back(cpu_ms([&] { (void)planner::solve_placement(problem); }));
    plan_ms.push_back(cpu_ms([&] { plan = planner::plan_placement(problems); }));
  }
  fmt::print("| {:<32} | {:>6} | {:>8.1f} | {:>7.1f} | {:>8} | {:>6} | {:>7.0f} | ", of.name,
             problems.front().groups.size(), cli::median(program_ms), std::ranges::max(program_ms),
             plan ? plan->n_programs : 0, plan ? plan->n_tried : 0, cli::median(plan_ms));
  if (!plan) return fmt::print("none |\n");
  uint32_t n_hbm = 0, n_dram = 0, n_file = 0;
  for (const planner::GroupPlace& place : plan->layers.groups) {
    n_hbm += place.n_hbm;
    n_dram += place.n_dram;
    n_file += place.n_nvme;
  }
  fmt::print("{}/{}/{}, {:.6g} + {:.6g} ms |\n", n_hbm, n_dram, n_file, plan->prompt.ms,
             plan->token.ms);
}

int run(uint32_t n_turns, const std::string& only) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("bench-plan-{}", getpid());
  std::filesystem::create_directories(folder);
  fmt::print(
      "| {:<32} | {:>6} | {:>8} | {:>7} | {:>8} | {:>6} | {:>7} | plan |\n"
      "|---|---|---|---|---|---|---|---|\n",
      "ms of processor time", "groups", "program", "most", "programs", "tried", "plan");
  int code = 0;
  try {
    for (const Case& of : cases()) {
      if (std::string(of.name).find(only) == std::string::npos) continue;
      run_case(of, n_turns, folder.string());
      std::fflush(stdout);
    }
  } catch (const Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    code = exit_code(error.code());
  }
  std::filesystem::remove_all(folder);
  return code;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  uint32_t n_turns = 3;
  std::string only;
  CLI::App app("What planning takes");
  app.add_option("--turns", n_turns)->check(CLI::Range(1, 1000));
  app.add_option("--only", only, "cases whose names hold this");
  CLI11_PARSE(app, argc, argv);
  return strata::run(n_turns, only);
}

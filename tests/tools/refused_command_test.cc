// What the user sees of a command that is wrong or that the machine cannot hold: options,
// variables, the config file, memory.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using engine::testing::make_small_model;
using engine::testing::SmallModelOptions;
using testing::Launch;
using testing::Outcome;
using testing::Refusal;
using testing::run_strata;

class RefusedCommand : public testing::RefusalTest {};

TEST_F(RefusedCommand, UnknownVerbOrOptionSaysWhatWasPerhapsMeant) {
  expect_refused({"rnu"},
                 {2, "usage", {"unknown verb 'rnu'"}, "strata", "did you mean `strata run`"});
  expect_refused(
      {"run", "--ctx-szie", "5"},
      {2, "usage", {"unknown option --ctx-szie"}, "strata run", "did you mean --ctx-size"});
  expect_refused({"chat", "-p", "a"},
                 {2, "usage", {"`strata chat` has no option -p"}, "-p", "another verb"});
  expect_refused({"run", "-p", "hello", "world"},
                 {2, "usage", {"unexpected argument 'world'"}, "strata run", "quote"});
  expect_refused({"run", "-p", "a"}, {2, "usage", {"no model is named"}, "strata run", "-m MODEL"});
}

TEST_F(RefusedCommand, ValueOutOfRangeNamesTheRange) {
  expect_refused(
      {"run", "-m", "a", "-p", "a", "-c", "-1"},
      {2, "usage", {"wanted a count from 0 to 2147483647", "found '-1'"}, "--ctx-size", "--help"});
  expect_refused({"run", "-m", "a", "-p", "a", "-ctk", "q4_0"},
                 {2, "usage", {"wanted f16 or q8_0, found 'q4_0'"}, "--cache-type-k", "--help"});
  for (const std::string verb : {"run", "chat", "bench", "serve"})
    expect_refused({verb, "-m", "a", "--attn", "magic"},
                   {2,
                    "usage",
                    {"wanted exact or auto or quest", "or rabitq or", "or oracle, found 'magic'"},
                    "--attn",
                    "--help"});
  const std::string path = small_model();
  const auto refuse_attention = [&](const std::vector<std::string>& more, const Refusal& wanted) {
    std::vector<std::string> arguments = {"run", "-m", path, "-p", "a"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect_refused(arguments, wanted);
  };
  refuse_attention({"--kv-budget", "paper"},
                   {2, "usage", {"no method is named"}, "--kv-budget", "--attn quest"});
  refuse_attention({"--attn", "oracle", "--kv-budget", "paper"},
                   {2, "usage", {"no paper's method"}, "--kv-budget", "such as 1024"});
  refuse_attention(
      {"--attn", "quest", "--attn-layers", "0:all"},
      {2, "usage", {"index, dense or reuse", "'0:all'"}, "--attn-layers", "0-1:dense"});
  refuse_attention({"--attn", "quest", "--attn-layers", "99:dense"},
                   {2, "usage", {"layer 99 is not there"}, "--attn-layers", "inspect"});
  for (const std::string attn : {"exact", "auto"})
    refuse_attention({"--attn", attn, "--attn-layers", "0:dense"},
                     {2, "usage", {"layers"}, "--attn-layers", "leave"});
  expect_refused({"plan", "-m", path, "--attn", "quest", "--kv-budget", "paper"},
                 {2, "usage", {"is not planned"}, "--kv-budget", "2048"});
  expect_refused({"run", "-m", path, "-p", "a", "--cpu-isa", "neon"},
                 {2, "usage", {"unknown instruction set 'neon'", "scalar"}, "--cpu-isa", "leave"});
  expect_refused({"run", "-m", path, "-p", "a", "--logit-bias", "99+1"},
                 {2, "usage", {"token 99", "0 to 15"}, "--logit-bias", "tokenize"});
  expect_refused(
      {"run", "-m", path, "-p", "a", "-ctk", "q8_0"},
      {4, "unsupported", {"multiple of 32", "the model has 8"}, "--cache-type-k", "f16"});
}

TEST_F(RefusedCommand, SchemaThatNoAnswerCanBeBoundToSaysWhy) {
  const auto refuse = [&](const char* schema, const Refusal& wanted,
                          const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"run",
                                          "-m",
                                          small_model(),
                                          "-p",
                                          "a",
                                          "--json-schema",
                                          folder_.write("schema.json", schema)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect_refused(arguments, wanted);
  };
  refuse(R"({"type": "string", "pattern": "a"})",
         {2, "usage", {"#/pattern is not supported"}, "#/pattern", "docs/json-schemas.md"});
  refuse("{", {2, "usage", {"schema.json is no JSON"}, "--json-schema", "JSON schema"});
  refuse("{}", {2, "usage", {"--ignore-eos"}, "--json-schema", "leave"}, {"--ignore-eos"});
  // The model's only text is "a", which shows once it is asked.
  Launch launch;
  launch.arguments = {"run",
                      "-m",
                      small_model(),
                      "-p",
                      "a",
                      "--json-schema",
                      folder_.write("schema.json", R"({"type": "integer"})")};
  const Outcome outcome = run_strata(launch);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("no token of the vocabulary goes on with what the answer must be"),
            std::string::npos)
      << outcome.err;
}

TEST_F(RefusedCommand, ContradictionNamesBothOptions) {
  expect_refused({"run", "-m", "a", "-p", "a", "--raw", "-s", "be brief"},
                 {2, "usage", {"--raw and --system contradict"}, "--system", "leave one"});
  expect_refused(
      {"run", "-m", "a", "-p", "a", "--rope-scaling", "none", "--rope-factor", "2"},
      {2, "usage", {"--rope-scaling and --rope-factor contradict"}, "--rope-factor", "leave one"});
  expect_refused({"run", "-m", "a", "-f", "-", "-f", "-"},
                 {2, "usage", {"standard input is named twice"}, "--file", "once"});
  expect_line(run_strata({"bench", "-m", "a", "-p", "0", "-n", "0"}),
              {2, "usage", {"nothing to measure"}, "strata bench", "-p or -n"});
}

TEST_F(RefusedCommand, VariableAndConfigFileAreNamedAsThePlace) {
  Launch launch;
  launch.arguments = {"run", "-m", "a", "-p", "a"};
  launch.environment = {{"STRATA_TEMP", "hot"}};
  expect_refused(launch, {2, "usage", {"wanted a number", "found 'hot'"}, "STRATA_TEMP", "--help"});

  launch.environment = {{"STRATA_CONFIG", folder_.write("c.toml", "[sampling]\ntmep = 1\n")}};
  expect_refused(launch,
                 {2, "usage", {"unknown key 'tmep'"}, "c.toml:2: tmep", "did you mean temp"});
  folder_.write("c.toml", "[sampling]\ntemp = [1]\n");
  expect_refused(launch, {2, "usage", {"wanted one value, found a list"}, "c.toml:2: temp", "one"});
  folder_.write("c.toml", "[sampling\n");
  expect_refused(launch, {2, "usage", {"not TOML"}, "c.toml:1", "toml.io"});
  folder_.write("c.toml", "[sampler]\n");
  expect_refused(launch,
                 {2, "usage", {"unknown table or key 'sampler'"}, "c.toml:1", "[sampling]"});
  launch.environment = {{"STRATA_CONFIG", folder_.path("absent.toml")}};
  expect_refused(launch, {1, "io", {"cannot open", "No such file"}, "STRATA_CONFIG", "path"});
  // The usual place may be empty, but what stands there is read and named.
  launch.environment = {{"XDG_CONFIG_HOME", folder_.path("")}};
  EXPECT_EQ(run_strata(launch).exit_code, 1);  // the model is absent, no more
}

TEST_F(RefusedCommand, ErrorsAreJsonAlsoWhereTheConfigFileOrAVariableAsksForIt) {
  Launch launch;
  const std::string path = small_model();
  launch.arguments = {"run", "-m", path, "-p", "a", "--kv-dram", "1"};
  const Refusal refusal = {3, "does_not_fit", {"--kv-dram allows 1 B"}, "--ctx-size", "--kv-dram"};
  launch.environment = {{"STRATA_CONFIG", folder_.write("c.toml", "[output]\njson = true\n")}};
  expect_object(run_strata(launch), refusal);
  launch.environment = {{"STRATA_JSON", "yes"}};
  expect_object(run_strata(launch), refusal);
  expect_object(run_strata({"bench", "-m", path, "-p", "65", "-n", "0", "-o", "json"}),
                {2,
                 "usage",
                 {"pp65 needs a context of 65 tokens", "trained for 64"},
                 "--n-depth",
                 "--allow-untrained"});
}

TEST_F(RefusedCommand, ContextThatDoesNotFitNamesBothNumbersAndTheSmallestChange) {
  SmallModelOptions options;
  options.n_ctx_train = 1 << 20;
  const std::string path = model(make_small_model(options));
  // 2 layers x 2 KV heads x (K + V of 8 dimensions in f16) = 128 bytes a token.
  expect_refused({"run", "-m", path, "-p", "a", "-c", "1m", "--kv-dram", "1MiB", "--nvme", "off"},
                 {3,
                  "does_not_fit",
                  {"a context of 1048576 tokens needs 128.0 MiB", "--kv-dram allows 1.0 MiB"},
                  "--ctx-size",
                  "use -c 8192, or --kv-dram 128MiB"});
  expect_refused({"run", "-m", path, "-p", "a", "--weights-dram", "1KiB"},
                 {3,
                  "does_not_fit",
                  {"the weights need ", "--weights-dram allows 1.0 KiB"},
                  "--weights-dram",
                  "use --weights-dram "});
  expect_refused(
      {"run", "-m", path, "-p", "a", "-c", "2147483647", "--allow-untrained", "--kv-dram", "64GiB",
       "--nvme", "off"},
      {3, "does_not_fit", {"2147483647 tokens needs 256.0 GiB"}, "--ctx-size", "use -c "});
  expect_refused({"run", "-m", path, "-p", "a", "-c", "2m"},
                 {2,
                  "usage",
                  {"wanted a context of 2097152 tokens", "trained for 1048576"},
                  "--ctx-size",
                  "--allow-untrained"});
  expect_refused({"bench", "-m", path, "-p", "16", "-n", "0", "-d", "1m"},
                 {2,
                  "usage",
                  {"pp16 @ d1048576 needs a context of 1048592 tokens"},
                  "--n-depth",
                  "smaller -d"});
}

TEST_F(RefusedCommand, MemoryThatTheSystemRefusesIsOneLineToo) {
  if (testing::address_space_is_reserved())
    GTEST_SKIP() << "this build's sanitizer reserves more addresses than any limit would leave";
  SmallModelOptions options;
  options.n_ctx_train = 1 << 23;
  const std::string path = model(make_small_model(options));
  Launch launch;  // 512 MiB of K and V within 384 MiB of addresses
  launch.arguments = {"run", "-m", path, "-p", "a", "-n", "1", "-c", "4m", "-t", "1"};
  launch.address_space_bytes = uint64_t{384} << 20;
  const Outcome outcome = run_strata(launch);
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("error: cannot reserve 536870912 bytes of memory: Cannot allocate "
                             "memory"),
            std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("(remedy: lower the context (-c)"), std::string::npos) << outcome.err;
  launch.address_space_bytes = uint64_t{1} << 30;
  EXPECT_EQ(run_strata(launch).exit_code, 0);
}

TEST_F(RefusedCommand, ThreadsThatTheSystemRefusesAreOneLineToo) {
  if (testing::address_space_is_reserved())
    GTEST_SKIP() << "this build's sanitizer reserves more addresses than any limit would leave";
  Launch launch;  // 64 stacks of 8 MiB
  launch.arguments = {"run", "-m", small_model(), "-p", "a", "-n", "1", "-t", "64"};
  launch.address_space_bytes = uint64_t{256} << 20;
  const Outcome outcome = run_strata(launch);
  EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
  EXPECT_NE(outcome.err.find("error: cannot start a thread"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace strata::cli

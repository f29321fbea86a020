#include "tools/cli/command_line.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/engine/test_folder.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

using Arguments = std::vector<std::string>;

GetVariable no_variables() {
  return [](const std::string&) { return std::nullopt; };
}

Command read(const Arguments& arguments, const VerbSyntax& verb = kRunSyntax) {
  return read_command(verb, arguments, no_variables());
}

/// The error of a command line, as "message | remedy".
std::string refusal(const Arguments& arguments, const VerbSyntax& verb = kRunSyntax) {
  try {
    read(arguments, verb);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return std::string(error.what()) + " | " + error.remedy();
  }
  return "";
}

#define EXPECT_REFUSED(text, ...) \
  EXPECT_NE(refusal(__VA_ARGS__).find(text), std::string::npos) << refusal(__VA_ARGS__)

TEST(CommandLine, TakesTheSpellingsOfLlamaCpp) {
  const Command command =
      read({"-m",           "a.gguf",    "-c", "32k",      "-t",   "3",      "-ctk",
            "q8_0",         "-ctv=q8_0", "-n", "-1",       "-b64", "--temp", "0",
            "--rope-scale", "2",         "-s", "be brief", "-p",   "hi"});
  EXPECT_EQ(command.settings.model, "a.gguf");
  EXPECT_EQ(command.settings.ctx_size, 32768u);
  EXPECT_EQ(command.settings.threads, 3u);
  EXPECT_EQ(command.settings.cache_type_k, "q8_0");
  EXPECT_EQ(command.settings.cache_type_v, "q8_0");
  EXPECT_EQ(command.settings.predict, -1);
  EXPECT_EQ(command.settings.batch_size, 64u);
  EXPECT_EQ(command.settings.temp, 0.0);
  EXPECT_EQ(command.settings.rope_factor, 2.0);
  EXPECT_EQ(command.settings.system, "be brief");
  EXPECT_TRUE(command.is_set("prompt"));
  EXPECT_FALSE(command.is_set("seed"));
}

TEST(CommandLine, PassesPromptTextAsItIs) {
  for (const std::string text : {"[a, b]", "{}", "", "--", "-1", "-ctk", "--json", "a,b", "%%",
                                 "=x", "\"\"", "-p", "a\nb", "chat"}) {
    const Command command = read({"-m", "a.gguf", "-p", text});
    EXPECT_EQ(command.settings.prompt, text);
    EXPECT_TRUE(command.is_set("prompt"));
    EXPECT_FALSE(command.settings.json);
    EXPECT_EQ(read({"-m", "a.gguf", "--prompt=" + text}).settings.prompt, text);
    EXPECT_EQ(read({"-m", "a.gguf", "--stop", "x" + text, "--stop", "y"}).settings.stop,
              (Arguments{"x" + text, "y"}));
  }
}

TEST(CommandLine, LetsTheLastOfSeveralScalarsWinAndCollectsLists) {
  const Command command = read({"-m", "a.gguf", "-c", "1k", "-c", "2k", "-f", "one", "-f", "two"});
  EXPECT_EQ(command.settings.ctx_size, 2048u);
  EXPECT_EQ(command.settings.file, (Arguments{"one", "two"}));
}

TEST(CommandLine, TurnsSwitchesOnAndOff) {
  EXPECT_TRUE(read({"-m", "a", "--json"}).settings.json);
  EXPECT_FALSE(read({"-m", "a", "--json", "--no-json"}).settings.json);
  EXPECT_FALSE(read({"-m", "a", "--json=false"}).settings.json);
}

TEST(CommandLine, TakesAModelWithoutAFlagWhereTheVerbAllowsIt) {
  EXPECT_EQ(read({"a.gguf", "--json"}, kInspectSyntax).settings.model, "a.gguf");
  EXPECT_EQ(read({"-m", "a.gguf"}, kInspectSyntax).settings.model, "a.gguf");
  EXPECT_EQ(read({"chat"}, kInspectSyntax).settings.model, "chat");
  EXPECT_REFUSED("model is given 2 times", {"a.gguf", "-m", "b.gguf"}, kInspectSyntax);
  EXPECT_REFUSED("name the model with -m a.gguf", {"a.gguf"});
}

TEST(CommandLine, RefusesWhatItDoesNotKnowAndSaysWhatWasPerhapsMeant) {
  EXPECT_REFUSED("unknown option --ctx-szie | did you mean --ctx-size?",
                 {"-m", "a", "--ctx-szie", "5"});
  EXPECT_REFUSED("unknown option --frobnicate | `strata run --help`", {"-m", "a", "--frobnicate"});
  EXPECT_REFUSED("`strata run` has no option --ids | it belongs to another verb",
                 {"-m", "a", "--ids"});
  EXPECT_REFUSED("`strata chat` has no option -p", {"-m", "a", "-p", "hi"}, kChatSyntax);
  EXPECT_REFUSED("unexpected argument 'world' | quote the whole prompt",
                 {"-m", "a", "-p", "hello", "world"});
  EXPECT_REFUSED("an option lacks its value", {"-m", "a", "-c"});
  EXPECT_REFUSED("no model is named", {"-p", "hi"});
}

TEST(CommandLine, RefusesContradictions) {
  EXPECT_REFUSED("--raw and --system contradict", {"-m", "a", "--raw", "-s", "x"});
  EXPECT_REFUSED("--rope-scaling and --rope-factor contradict",
                 {"-m", "a", "--rope-scaling", "none", "--rope-factor", "2"});
  EXPECT_REFUSED("--rope-scaling and --yarn-beta-fast contradict",
                 {"-m", "a", "--rope-scaling", "linear", "--yarn-beta-fast", "2"});
  EXPECT_REFUSED("--json and --ids contradict", {"-m", "a", "-p", "x", "--json", "--ids"},
                 kTokenizeSyntax);
  EXPECT_REFUSED("standard input is named twice", {"-m", "a", "-f", "-", "-f", "-"});
  EXPECT_REFUSED("found an empty one", {"-m", "a", "--stop", ""});
}

TEST(CommandLine, NamesTheValueTheRangeAndThePlace) {
  try {
    read({"-m", "a", "-c", "99999999999999"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "wanted a count from 0 to 2147483647 (k = 1024), found '99999999999999'");
    EXPECT_EQ(error.where(), "--ctx-size");
  }
  EXPECT_REFUSED("wanted f16 or q8_0, found 'q4_0'", {"-m", "a", "-ctk", "q4_0"});
  EXPECT_REFUSED("wanted a size", {"-m", "a", "--kv-dram", "-1G"});
}

TEST(CommandLine, ShowsHelpWhateverElseIsWrong) {
  EXPECT_TRUE(read({"--help"}).settings.help);
  const GetVariable broken = [](const std::string& name) {
    return name == "STRATA_CTX_SIZE" ? std::optional<std::string>("x") : std::nullopt;
  };
  EXPECT_TRUE(read_command(kRunSyntax, Arguments{"-h"}, broken).settings.help);
  EXPECT_THROW(read_command(kRunSyntax, Arguments{"-m", "a"}, broken), Error);
}

TEST(CommandLine, ReadsTheTestsOfBenchAsLists) {
  const Command command =
      read({"-m", "a", "-p", "512,4k", "-n64", "-d", "0", "-d", "8192,32k", "-r", "3", "-o", "csv"},
           kBenchSyntax);
  EXPECT_EQ(command.settings.n_prompt, (std::vector<uint64_t>{512, 4096}));
  EXPECT_EQ(command.settings.n_gen, std::vector<uint64_t>{64});
  EXPECT_EQ(command.settings.n_depth, (std::vector<uint64_t>{0, 8192, 32768}));
  EXPECT_EQ(command.settings.repetitions, 3u);
  EXPECT_EQ(command.settings.output_format, "csv");
  const Command usual = read({"-m", "a"}, kBenchSyntax);
  EXPECT_EQ(usual.settings.n_prompt, std::vector<uint64_t>{512});
  EXPECT_EQ(usual.settings.n_gen, std::vector<uint64_t>{128});
  EXPECT_EQ(usual.settings.n_depth, std::vector<uint64_t>{0});
  for (const std::string text : {"512,", ",", "512,,1", "512;1", "-1", "512,x"})
    EXPECT_REFUSED("such as 512,4k (k = 1024), found '" + text, {"-m", "a", "-p", text},
                   kBenchSyntax);
  EXPECT_REFUSED("wanted a count from 1", {"-m", "a", "-r", "0"}, kBenchSyntax);
  EXPECT_REFUSED("--json and --output-format contradict", {"-m", "a", "--json", "-o", "csv"},
                 kBenchSyntax);
  // The same letter is a text elsewhere.
  EXPECT_EQ(read({"-m", "a", "-p", "512,4k"}).settings.prompt, "512,4k");
}

class ConfigFile : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(home_.path("strata")); }
  std::string write(const std::string& text) { return home_.write("strata/config.toml", text); }
  GetVariable at_home(std::map<std::string, std::string> more = {}) {
    more["XDG_CONFIG_HOME"] = home_.path();
    return [more](const std::string& name) -> std::optional<std::string> {
      const auto found = more.find(name);
      return found == more.end() ? std::nullopt : std::optional(found->second);
    };
  }
  engine::testing::TestFolder home_;
};

TEST_F(ConfigFile, IsReadFromItsUsualPlace) {
  const Arguments none;
  EXPECT_EQ(read_command(kRunSyntax, Arguments{"-m", "a"}, at_home()).settings.top_k, 40u);
  write(
      "[model]\nmodel = \"b.gguf\"\nctx-size = 4096\nkv-dram = \"1GiB\"\n[sampling]\ntop-k = "
      "7\ntemp = 0.25\n"
      "[prompt]\nstop = [\"a\", \"b\"]\n[output]\njson = true\n");
  const Command command = read_command(kRunSyntax, none, at_home());
  EXPECT_EQ(command.settings.model, "b.gguf");
  EXPECT_EQ(command.settings.ctx_size, 4096u);
  EXPECT_EQ(command.settings.kv_dram, 1ull << 30);
  EXPECT_EQ(command.settings.top_k, 7u);
  EXPECT_EQ(command.settings.temp, 0.25);
  EXPECT_EQ(command.settings.stop, (Arguments{"a", "b"}));
  EXPECT_TRUE(command.settings.json);
  EXPECT_EQ(read_command(kRunSyntax, Arguments{"--top-k", "8"}, at_home({{"STRATA_TEMP", "0.5"}}))
                .settings.top_k,
            8u);
  EXPECT_EQ(read_command(kRunSyntax, none, at_home({{"STRATA_TEMP", "0.5"}})).settings.temp, 0.5);
  // A verb takes its own options and leaves the others alone.
  EXPECT_EQ(read_command(kInspectSyntax, none, at_home()).settings.top_k, 40u);
  write("[bench]\nn-prompt = [64, \"1k\"]\nn-gen = 8\n");
  const Command bench = read_command(kBenchSyntax, Arguments{"-m", "a"}, at_home());
  EXPECT_EQ(bench.settings.n_prompt, (std::vector<uint64_t>{64, 1024}));
  EXPECT_EQ(bench.settings.n_gen, std::vector<uint64_t>{8});
}

TEST_F(ConfigFile, NamedByAFlagMustExist) {
  try {
    read_command(kRunSyntax, Arguments{"-m", "a", "--config", home_.path("absent.toml")},
                 at_home());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_EQ(error.where(), "--config");
  }
}

TEST_F(ConfigFile, SaysLineAndRemedyOfWhatIsWrong) {
  const auto refused = [&](const std::string& text) -> std::string {
    const std::string path = write(text);
    try {
      read_command(kRunSyntax, Arguments{"-m", "a"}, at_home());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_EQ(error.where().find(path), 0u);
      return error.where().substr(path.size()) + " | " + error.what() + " | " + error.remedy();
    }
    return "";
  };
  EXPECT_EQ(refused("[sampling]\n\ntmep = 1\n"),
            ":3: tmep | unknown key 'tmep' in [sampling] | did you mean temp?");
  EXPECT_EQ(refused("[model]\ntemp = 1\n"),
            ":2: temp | key 'temp' does not stand in [model] | move it to [sampling]");
  EXPECT_EQ(refused("[sampling]\ntop_k = 1\n"),
            ":2: top_k | unknown key 'top_k' in [sampling] | did you mean top-k?");
  EXPECT_EQ(refused("temp = 1\n").substr(0, 4), ":1: ");
  EXPECT_EQ(refused("[sampling]\ntop-k = -1\n"),
            ":2: top-k | wanted a count from 0 to 2147483647 (k = 1024), found '-1' | see `strata "
            "VERB --help`");
  EXPECT_NE(refused("[sampling]\ntop-k = [1]\n").find("found a list"), std::string::npos);
  EXPECT_NE(refused("[sampling]\ntop-k = 2020-01-01\n").find("found another type"),
            std::string::npos);
  EXPECT_NE(refused("[sampling\n").find("not TOML"), std::string::npos);
}

}  // namespace
}  // namespace strata::cli

// Walks the option table: what one row says must hold for flags, environment, config file and help
// alike.
#include "tools/cli/option_table.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "tools/cli/command_line.h"
#include "tools/cli/program.h"

namespace strata::cli {
namespace {

/// A value of the option that is not its default.
std::string another_value(const OptionSpec& option) {
  switch (option.kind) {
    case ValueKind::kFlag:
      return option.default_text == "true" ? "false" : "true";
    case ValueKind::kText:
    case ValueKind::kTextList:
      return "some text";
    case ValueKind::kChoice:
      return std::string(option.value_name.substr(option.value_name.rfind('|') + 1));
    case ValueKind::kCount:
      return "7";
    case ValueKind::kCountList:
      return "7,8";
    case ValueKind::kInteger:
      return "7";
    case ValueKind::kReal:
      return "0.5";
    case ValueKind::kSize:
      return "7MiB";
    case ValueKind::kDuration:
      return "7ms";
  }
  return "";
}

/// The member of a row as text, to compare settings by.
std::string member_text(const OptionSpec& option, const Settings& settings) {
  return std::visit(
      [&](auto member) -> std::string {
        const auto& value = settings.*member;
        using Value = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<Value, std::string>) {
          return value;
        } else if constexpr (std::is_same_v<Value, std::vector<std::string>>) {
          std::string joined;
          for (const std::string& element : value) joined += element + ";";
          return joined;
        } else if constexpr (std::is_same_v<Value, std::vector<uint64_t>>) {
          std::string joined;
          for (const uint64_t element : value) joined += std::to_string(element) + ",";
          return joined;
        } else {
          return std::to_string(value);
        }
      },
      option.target);
}

const Verb& verb_of(const OptionSpec& option) {
  for (const Verb& verb : verbs())
    if ((option.verbs & verb.syntax.bit) != 0) return verb;
  ADD_FAILURE() << "--" << option.name << " belongs to no verb";
  return verbs().front();
}

GetVariable variables(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const std::string& name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

std::string toml_of(const OptionSpec& option, const std::string& value) {
  return "[" + std::string(section_key(option.section)) + "]\n" + std::string(option.name) +
         " = \"" + value + "\"\n";
}

/// True where a line of the help stands for this flag: the flag is in its left part and ends there.
bool has_flag_line(const std::string& help, const std::string& flag) {
  for (size_t at = help.find(flag); at != std::string::npos; at = help.find(flag, at + 1)) {
    const size_t line = help.rfind('\n', at) + 1;
    const char next = at + flag.size() < help.size() ? help[at + flag.size()] : '\n';
    if (at - line < 10 && (next == ' ' || next == '\n' || next == ',')) return true;
  }
  return false;
}

TEST(OptionTable, HasEveryNameOnceAndNoFlagTwiceInAVerb) {
  std::set<std::string> names, variables_seen;
  for (const OptionSpec& option : option_table()) {
    EXPECT_TRUE(names.insert(std::string(option.name)).second) << option.name;
    EXPECT_TRUE(variables_seen.insert(environment_name(option)).second) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
    EXPECT_EQ(option.value_name.empty(), option.kind == ValueKind::kFlag) << option.name;
  }
  for (const Verb& verb : verbs()) {
    std::set<std::string> flags;
    for (const OptionSpec& option : option_table()) {
      if ((option.verbs & verb.syntax.bit) == 0) continue;
      for (const std::string& flag : option_flags(option)) {
        EXPECT_TRUE(flags.insert(flag).second) << verb.syntax.name << " " << flag;
        EXPECT_EQ(find_flag(flag, verb.syntax.bit), &option) << flag;
      }
    }
  }
}

TEST(OptionTable, StoresEveryRowInAMemberOfItsOwn) {
  const Settings defaults = default_settings();
  for (const OptionSpec& option : option_table()) {
    Settings changed = defaults;
    const std::string value = another_value(option);
    store_option(option, std::span(&value, 1), "test", changed);
    for (const OptionSpec& other : option_table()) {
      const bool same = member_text(other, changed) == member_text(other, defaults);
      EXPECT_EQ(same, other.name != option.name) << "--" << option.name << " and --" << other.name;
    }
  }
}

TEST(OptionTable, GivesOneValueThroughFlagEnvironmentAndFile) {
  for (const OptionSpec& option : option_table()) {
    const VerbSyntax verb = verb_of(option).syntax;
    const std::string value = another_value(option);
    Settings wanted = default_settings();
    store_option(option, std::span(&value, 1), "test", wanted);

    for (const std::string& flag : option_flags(option)) {
      std::vector<std::string> arguments = {flag};
      if (option.kind != ValueKind::kFlag) arguments.push_back(value);
      const std::vector<RawValues> by_flag = {values_from_arguments(verb, arguments)};
      EXPECT_EQ(member_text(option, merge_values(by_flag).settings), member_text(option, wanted))
          << flag;
    }
    const auto from_environment =
        values_from_environment(verb, variables({{environment_name(option), value}}));
    EXPECT_EQ(from_environment.size(), option.sources == Sources::kFlagOnly ? 0u : 1u)
        << option.name;
    if (option.sources != Sources::kFlagOnly) {
      const std::vector<RawValues> by_environment = {from_environment};
      EXPECT_EQ(member_text(option, merge_values(by_environment).settings),
                member_text(option, wanted))
          << option.name;
    }
    if (option.sources == Sources::kEverywhere) {
      const std::vector<RawValues> by_file = {
          values_from_config(verb, toml_of(option, value), "test.toml")};
      EXPECT_EQ(member_text(option, merge_values(by_file).settings), member_text(option, wanted))
          << option.name;
    } else {
      EXPECT_THROW(values_from_config(verb, toml_of(option, value), "test.toml"), Error)
          << option.name;
    }
  }
}

TEST(OptionTable, PrefersFlagThenEnvironmentThenFileThenDefault) {
  for (const OptionSpec& option : option_table()) {
    if (option.sources != Sources::kEverywhere || option.kind == ValueKind::kFlag ||
        option.kind == ValueKind::kChoice)
      continue;
    const VerbSyntax verb = verb_of(option).syntax;
    const bool is_text = option.kind == ValueKind::kText || option.kind == ValueKind::kTextList;
    const auto value = [&](int rank) {  // three values, all in range
      if (is_text) return "text " + std::to_string(rank);
      if (option.kind == ValueKind::kDuration) return std::to_string(5 + rank) + "ms";
      return option.max <= 1 ? "0.1" + std::to_string(rank) : std::to_string(5 + rank);
    };
    const auto flag = values_from_arguments(
        verb, std::vector<std::string>{"--" + std::string(option.name), value(1)});
    const auto environment =
        values_from_environment(verb, variables({{environment_name(option), value(2)}}));
    const auto file = values_from_config(verb, toml_of(option, value(3)), "test.toml");
    const auto merged = [&](std::vector<RawValues> sources) { return merge_values(sources); };
    const auto expected = [&](int rank) {
      Settings settings = default_settings();
      const std::string text = value(rank);
      store_option(option, std::span(&text, 1), "test", settings);
      return member_text(option, settings);
    };
    EXPECT_EQ(member_text(option, merged({flag, environment, file}).settings), expected(1))
        << option.name;
    EXPECT_EQ(member_text(option, merged({{}, environment, file}).settings), expected(2))
        << option.name;
    EXPECT_EQ(member_text(option, merged({{}, {}, file}).settings), expected(3)) << option.name;
    EXPECT_EQ(merged({{}, {}, file}).where(option.name),
              "test.toml:2: " + std::string(option.name));
    EXPECT_EQ(merged({{}, environment, file}).where(option.name), environment_name(option));
    EXPECT_EQ(member_text(option, merged({{}, {}, {}}).settings),
              member_text(option, default_settings()))
        << option.name;
  }
}

TEST(OptionTable, RefusesValuesOutOfRangeBySayingTheRange) {
  for (const OptionSpec& option : option_table()) {
    const bool is_number = option.kind == ValueKind::kCount || option.kind == ValueKind::kInteger ||
                           option.kind == ValueKind::kReal || option.kind == ValueKind::kSize ||
                           option.kind == ValueKind::kCountList ||
                           option.kind == ValueKind::kDuration;
    if (!is_number) continue;
    Settings settings;
    for (const std::string text : {"99999999999999999999999", "x", ""}) {
      try {
        store_option(option, std::span(&text, 1), "here", settings);
        ADD_FAILURE() << "--" << option.name << " took '" << text << "'";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kUsage);
        EXPECT_EQ(error.where(), "here");
        EXPECT_NE(std::string(error.what()).find("wanted"), std::string::npos) << error.what();
      }
    }
    if (option.min > -1e300 && option.kind != ValueKind::kSize) {
      const std::string below = std::to_string(static_cast<int64_t>(option.min) - 1);
      EXPECT_THROW(store_option(option, std::span(&below, 1), "here", settings), Error)
          << option.name;
    }
  }
}

TEST(OptionTable, ShowsEveryOptionInTheHelpOfItsVerbsOnly) {
  for (const Verb& verb : verbs()) {
    const std::string help = options_help(verb.syntax.bit);
    for (const OptionSpec& option : option_table()) {
      const bool belongs = (option.verbs & verb.syntax.bit) != 0;
      EXPECT_EQ(has_flag_line(help, "--" + std::string(option.name)), belongs)
          << verb.syntax.name << " --" << option.name;
    }
    for (size_t begin = 0; begin < help.size();) {
      const size_t end = std::min(help.find('\n', begin), help.size());
      EXPECT_LE(end - begin, 100u) << help.substr(begin, end - begin);
      begin = end + 1;
    }
  }
}

TEST(NearestWord, FindsSlipsAndNothingElse) {
  const std::vector<std::string> words = {"--ctx-size", "--threads", "--temp", "-c"};
  EXPECT_EQ(nearest_word("--ctx-szie", words), "--ctx-size");
  EXPECT_EQ(nearest_word("--thread", words), "--threads");
  EXPECT_EQ(nearest_word("--ctxsize", words), "--ctx-size");
  EXPECT_EQ(nearest_word("--frobnicate", words), "");
  EXPECT_EQ(nearest_word(std::string(100000, 'x'), words), "");
}

}  // namespace
}  // namespace strata::cli

// tools/cli/option_table.h - the one table of options: flags, environment variables, config keys,
// help and checks come from it. A test walks it. To add an option: a member of Settings and a row
// in option_rows.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tools/cli/settings.h"

namespace strata::cli {

/// The verbs an option belongs to, as bits. A verb that is added takes the next bit.
using VerbSet = uint32_t;
inline constexpr VerbSet kRun = 1, kChat = 2, kInspect = 4, kTokenize = 8, kBench = 16;
inline constexpr VerbSet kSessionList = 32, kSessionShow = 64, kSessionRemove = 128,
                         kSessionVerify = 256, kCacheList = 512, kCacheRemove = 1024,
                         kSessionSave = 2048;
inline constexpr VerbSet kEval = 4096;
inline constexpr VerbSet kDoctor = 16384, kCalibrate = 32768;
inline constexpr VerbSet kPlan = 65536;
inline constexpr VerbSet kServe = 131072;
inline constexpr VerbSet kCompletion = 262144, kMan = 524288;
inline constexpr VerbSet kModelIsOptional = kDoctor | kCalibrate;
inline constexpr VerbSet kGenerating = kRun | kChat;
inline constexpr VerbSet kReading = kGenerating | kSessionSave;
inline constexpr VerbSet kAnswering = kGenerating | kServe;
inline constexpr VerbSet kComputing = kReading | kBench | kServe;
inline constexpr VerbSet kOnSessions = kSessionShow | kSessionRemove | kSessionVerify;
inline constexpr VerbSet kOnSaved = kSessionList | kOnSessions | kCacheList | kCacheRemove;
inline constexpr VerbSet kEveryVerb = UINT32_MAX;

/// How a value is read and stored (value_readers.h).
enum class ValueKind : uint8_t {
  kFlag,
  kText,
  kTextList,
  kChoice,
  kCount,
  kCountList,  // "512,4096", also in several values
  kInteger,
  kReal,
  kSize,
  kDuration  // stored in ms
};

/// The table of the config file an option stands in, and its heading in the help.
enum class Section : uint8_t {
  kModel,
  kRope,
  kPrompt,
  kSampling,
  kTests,
  kJudging,
  kSaved,
  kServing,
  kOutput
};
inline constexpr Section kSections[] = {Section::kPrompt,   Section::kTests, Section::kJudging,
                                        Section::kServing,  Section::kModel, Section::kSaved,
                                        Section::kSampling, Section::kRope,  Section::kOutput};

/// Where a value may come from. What describes one request has no place in a config file; what
/// changes the command itself
/// (--help) only makes sense as a flag.
enum class Sources : uint8_t { kEverywhere, kNotInConfig, kFlagOnly };

using Target =
    std::variant<bool Settings::*, std::string Settings::*, std::vector<std::string> Settings::*,
                 uint64_t Settings::*, std::vector<uint64_t> Settings::*, int64_t Settings::*,
                 double Settings::*>;

struct OptionSpec {
  std::string_view name;     // --NAME, STRATA_NAME, config key NAME
  std::string_view aliases;  // further flags, comma separated: "-c", "-ctk", "--rope-scale"
  Section section;
  ValueKind kind;
  std::string_view default_text;  // read like any other value; empty = Settings' zero
  double min, max;                // kCount, kInteger, kReal, kSize, kDuration (ms)
  std::string_view value_name;    // "N", "FILE"; for kChoice the values: "f16|q8_0"
  std::string_view help;
  Sources sources;
  VerbSet verbs;
  Target target;
};

std::span<const OptionSpec> option_table();
/// The row of a name (without dashes), or null.
const OptionSpec* find_option(std::string_view name);
/// The row a flag ("-c", "--ctx-size") stands for with one of `verbs`, or null.
const OptionSpec* find_flag(std::string_view flag, VerbSet verbs);

/// "--ctx-size", "-c": every flag of a row.
std::vector<std::string> option_flags(const OptionSpec& option);
/// STRATA_CTX_SIZE.
std::string environment_name(const OptionSpec& option);
/// The config file's name of a section ("model").
std::string_view section_key(Section section);
/// The heading of a section in the help ("Model and memory").
std::string_view section_title(Section section);
/// "[prompt], [bench], ... and [output]": every table of the config file.
std::string section_list();

/// What a value looks like, with its range and unit: "a count from 0 to 1024 (k = 1024)".
std::string wanted_text(const OptionSpec& option);

/// Reads `texts` (one, or several for a list) into the row's member. Errors: kUsage naming wanted,
/// found, `where`.
void store_option(const OptionSpec& option, std::span<const std::string> texts,
                  const std::string& where, Settings& settings);
/// Settings with every default of the table.
Settings default_settings();

/// Help of one verb's options, grouped by section.
std::string options_help(VerbSet verb);

/// The candidate nearest to `word` where one is near enough to be a slip of the fingers, or "".
std::string nearest_word(std::string_view word, std::span<const std::string> candidates);

}  // namespace strata::cli

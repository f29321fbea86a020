#include "tools/eval/task_draft.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <set>

#include "base/check.h"

namespace strata::eval {
namespace {

using Words = std::span<const std::string_view>;

constexpr std::array<std::string_view, 14> kSyllables = {
    "tar", "vi", "mo", "ven", "kal", "do", "ris", "pe", "lun", "sa", "bel", "ith", "go", "nar"};
constexpr std::array<std::string_view, 16> kAdjectives = {
    "quiet",  "narrow",  "painted", "early",   "wooden",  "distant", "heavy", "bright",
    "broken", "patient", "grey",    "shallow", "curious", "warm",    "empty", "careful"};
constexpr std::array<std::string_view, 20> kNouns = {
    "harbour",  "ladder",   "orchard", "clock",  "kettle", "bridge", "letter",
    "mill",     "garden",   "boat",    "lamp",   "market", "fence",  "river",
    "workshop", "carriage", "window",  "basket", "road",   "tower"};
constexpr std::array<std::string_view, 14> kVerbs = {
    "repaired",   "admired", "measured", "described", "crossed", "painted", "sold",
    "remembered", "carried", "found",    "watched",   "cleaned", "visited", "opened"};
constexpr std::array<std::string_view, 12> kTimes = {
    "in the morning",      "before the rain", "at noon",     "last winter",
    "on a Tuesday",        "after supper",    "in spring",   "without a word",
    "for the second time", "at dusk",         "years later", "by mistake"};
constexpr uint32_t kNumberDigits = 7;
constexpr uint32_t kAnswerTokens = 64;  // a list of several numbers or names

std::string pick(TaskDraw& draw, Words words) { return std::string(draw.of(words)); }

/// A sentence that no task asks about.
std::string sentence(TaskDraw& draw) {
  return fmt::format("The {} {} {} the {} {} {}.", pick(draw, kAdjectives), pick(draw, kNouns),
                     draw.below(2) == 0 ? "stood behind" : "belonged to", pick(draw, kAdjectives),
                     pick(draw, kNouns),
                     "that somebody " + pick(draw, kVerbs) + " " + pick(draw, kTimes));
}

/// `n` names that differ.
std::vector<std::string> names(TaskDraw& draw, size_t n) {
  std::set<std::string> seen;
  std::vector<std::string> all;
  while (all.size() < n) {
    std::string name = draw.name();
    if (seen.insert(name).second) all.push_back(std::move(name));
  }
  return all;
}

std::string locker(const std::string& name, const std::string& number) {
  return fmt::format("The locker number of {} is {}.", name, number);
}

/// n_asked lockers of n_values numbers each; every other_keys-th other line is the locker of
/// somebody who is not asked for, 0 = none is.
TaskDraft lockers(TaskDraw& draw, size_t n_asked, size_t n_values, uint32_t other_keys) {
  TaskDraft draft;
  const auto asked = names(draw, n_asked);
  draft.introduction = "The notes below mention locker numbers. Remember them.";
  for (const std::string& name : asked)
    for (size_t i = 0; i < n_values; ++i) {
      draft.asked[0].answers.push_back(draw.number(kNumberDigits));
      draft.facts.push_back(locker(name, draft.asked[0].answers.back()));
    }
  draft.other = [&draw, asked, other_keys] {
    if (other_keys == 0 || draw.below(other_keys) > 0) return sentence(draw);
    std::string name = draw.name();
    while (std::find(asked.begin(), asked.end(), name) != asked.end()) name = draw.name();
    return locker(name, draw.number(kNumberDigits));
  };
  draft.asked[0].question =
      n_values > 1 ? fmt::format(
                         "Which locker numbers does {} have? List all {} of "
                         "them.",
                         asked[0], n_values)
      : n_asked > 1 ? fmt::format("What are the locker numbers of {}?", fmt::join(asked, ", "))
                    : fmt::format("What is the locker number of {}?", asked[0]);
  draft.n_predict =
      kAnswerTokens * static_cast<uint32_t>(draft.asked[0].answers.size() > 1 ? 2 : 1) / 2;
  return draft;
}

std::string identifier(TaskDraw& draw) {
  return fmt::format("{}-{}-{}", draw.hex(8), draw.hex(4), draw.hex(12));
}

TaskDraft key_value(TaskDraw& draw) {
  TaskDraft draft;
  const std::string key = identifier(draw);
  draft.asked[0].answers = {identifier(draw)};
  draft.introduction = "The lines below are entries of one JSON object.";
  draft.facts = {fmt::format("\"{}\": \"{}\",", key, draft.asked[0].answers[0])};
  draft.other = [&draw] {
    const std::string other = identifier(draw);
    return fmt::format("\"{}\": \"{}\",", other, identifier(draw));
  };
  draft.asked[0].question = fmt::format("What is the value of the key \"{}\"?", key);
  draft.n_predict = kAnswerTokens;
  return draft;
}

/// A chain of assignments: everything that holds the number is asked for.
TaskDraft variables(TaskDraw& draw) {
  constexpr size_t kChain = 4;
  TaskDraft draft;
  const auto chain = names(draw, kChain);
  const std::string value = draw.number(5);
  draft.introduction = "The text below assigns values to variables.";
  draft.facts = {fmt::format("VAR {} = {}", chain[0], value)};
  for (size_t i = 1; i < kChain; ++i)
    draft.facts.push_back(fmt::format("VAR {} = VAR {}", chain[i], chain[i - 1]));
  draft.other = [&draw, chain] {
    constexpr uint32_t kAssignmentEvery = 12;
    if (draw.below(kAssignmentEvery) > 0) return sentence(draw);
    std::string name = draw.name();
    while (std::find(chain.begin(), chain.end(), name) != chain.end()) name = draw.name();
    return fmt::format("VAR {} = {}", name, draw.number(5));
  };
  draft.asked[0].question = fmt::format(
      "Which {} variables hold the value {}, given to them directly or through another variable?",
      kChain, value);
  draft.asked[0].answers = chain;
  draft.n_predict = kAnswerTokens;
  return draft;
}

/// Names that stand in the list again and again among names that stand there once or so.
TaskDraft common_words(TaskDraw& draw) {
  constexpr size_t kCommon = 5, kTimesEach = 30;
  TaskDraft draft;
  draft.asked[0].answers = names(draw, kCommon);
  draft.introduction = "Below is a list of names. Some stand in it much more often than others.";
  for (size_t i = 0; i < kCommon * kTimesEach; ++i)
    draft.facts.push_back(draft.asked[0].answers[draw.below(kCommon)]);
  draft.other = [&draw] { return draw.name() + draw.name(); };
  draft.asked[0].question = fmt::format("Which {} names stand in the list most often?", kCommon);
  draft.n_predict = kAnswerTokens;
  return draft;
}

/// Names drawn by a Zipf law, the three most frequent of which are asked for: others may come near
/// them, and none reaches them.
TaskDraft frequent_words(TaskDraw& draw) {
  constexpr size_t kNames = 60, kAsked = 3;
  constexpr uint32_t kTimesFirst = 3, kSteps = 1u << 20;
  constexpr double kExponent = 2;  // RULER's
  TaskDraft draft;
  const auto all = names(draw, kNames);
  draft.asked[0].answers.assign(all.begin(), all.begin() + kAsked);
  draft.introduction = "Below is a list of names. Some stand in it much more often than others.";
  for (size_t i = 0; i < kAsked * kTimesFirst; ++i) draft.facts.push_back(all[i % kAsked]);
  std::vector<double> up_to(1, 1.0);  // of the ranks' weights
  while (up_to.size() < kNames)
    up_to.push_back(up_to.back() + std::pow(static_cast<double>(up_to.size() + 1), -kExponent));
  auto times = std::make_shared<std::vector<uint32_t>>(kNames);
  std::fill_n(times->begin(), kAsked, kTimesFirst);
  draft.other = [&draw, all, up_to, times] {
    const uint32_t least = *std::min_element(times->begin(), times->begin() + kAsked);
    for (;;) {
      const double at = up_to.back() * draw.below(kSteps) / kSteps;
      const auto rank =
          static_cast<size_t>(std::upper_bound(up_to.begin(), up_to.end(), at) - up_to.begin());
      // At least two less than any of those asked for, also where the last line finds no room.
      if (rank >= kAsked && (*times)[rank] + 2 >= least) continue;
      ++(*times)[rank];
      return all[rank];
    }
  };
  draft.asked[0].question = fmt::format("Which {} names stand in the list most often?", kAsked);
  draft.n_predict = kAnswerTokens;
  return draft;
}

TaskDraft passkey(TaskDraw& draw) {
  TaskDraft draft;
  draft.asked[0].answers = {draw.number(5)};
  draft.introduction = "Somewhere in the text below stands a pass key. Remember it.";
  draft.facts = {fmt::format("The pass key is {0}. Remember: {0} is the pass key.",
                             draft.asked[0].answers[0])};
  draft.other = [] {
    return std::string("The road goes on. The hills are green. The wind is still.");
  };
  draft.asked[0].question = "What is the pass key?";
  draft.n_predict = kAnswerTokens / 2;
  return draft;
}

TaskDraft json_records(TaskDraw& draw) {
  const auto record = [&draw](const std::string& id, const std::string& amount) {
    return fmt::format(R"({{"order": {}, "customer": "{}", "item": "{}", "amount": {}}},)", id,
                       draw.name(), pick(draw, kNouns), amount);
  };
  TaskDraft draft;
  const std::string id = draw.number(6);
  draft.asked[0].answers = {draw.number(5)};
  draft.introduction = "Below are the orders of a shop as JSON.";
  draft.facts = {record(id, draft.asked[0].answers[0])};
  draft.other = [&draw, record, id] {
    std::string other = draw.number(6);
    while (other == id) other = draw.number(6);
    return record(other, draw.number(5));
  };
  draft.asked[0].question = fmt::format("What is the amount of order {}?", id);
  draft.n_predict = kAnswerTokens / 2;
  return draft;
}

/// The log of an archive's watch: four plain facts in each fifth of it, each asked for by itself.
TaskDraft archive_log(TaskDraw& draw) {
  static constexpr std::array<std::string_view, 5> kDoors = {"north", "south", "garden", "cellar",
                                                             "yard"};
  static constexpr std::array<std::string_view, 5> kShops = {"bakery", "printer", "tailor",
                                                             "chemist", "joiner"};
  static constexpr std::array<std::string_view, 5> kRooms = {"map room", "reading room",
                                                             "cold store", "film vault", "bindery"};
  static constexpr std::array<std::string_view, 12> kMonths = {
      "January", "February", "March",     "April",   "May",      "June",
      "July",    "August",   "September", "October", "November", "December"};
  const auto dated = [&draw](const std::string& text) {
    return fmt::format("{} {}, {} watch. {} {}", pick(draw, kMonths), 1 + draw.below(28),
                       draw.below(2) == 0 ? "morning" : "evening", text, sentence(draw));
  };
  TaskDraft draft;
  draft.introduction = "Log of the Harbour Archive, kept by the watch.";
  draft.spreads = true;
  draft.asked.clear();
  const auto add = [&](const std::string& fact, const std::string& question,
                       const std::string& answer) {
    draft.facts.push_back(dated(fact));
    draft.asked.push_back({question, {answer}});
  };
  const auto keepers = names(draw, kRooms.size());
  for (size_t fifth = 0; fifth < kDoors.size(); ++fifth) {
    const std::string code = draw.number(4), call = draw.number(6), amount = draw.number(3);
    add(fmt::format("The access code of the {} door is {}.", kDoors[fifth], code),
        fmt::format("What is the access code of the {} door?", kDoors[fifth]), code);
    add(fmt::format("The telephone number of the {} is {}.", kShops[fifth], call),
        fmt::format("What is the telephone number of the {}?", kShops[fifth]), call);
    add(fmt::format("The keeper of the {} is {}.", kRooms[fifth], keepers[fifth]),
        fmt::format("Who is the keeper of the {}?", kRooms[fifth]), keepers[fifth]);
    add(fmt::format("There are {} boxes in the {}.", amount, kRooms[fifth]),
        fmt::format("How many boxes are there in the {}?", kRooms[fifth]), amount);
  }
  draft.other = [&draw, dated] { return dated(sentence(draw)); };
  draft.n_predict = kAnswerTokens / 2;
  return draft;
}

struct NamedDraft {
  std::string_view name;
  TaskDraft (*draft)(TaskDraw& draw);
};
constexpr std::array kDrafts = {
    NamedDraft{"needle", [](TaskDraw& draw) { return lockers(draw, 1, 1, 0); }},
    NamedDraft{"multi-key", [](TaskDraw& draw) { return lockers(draw, 1, 1, 4); }},
    NamedDraft{"multi-value", [](TaskDraw& draw) { return lockers(draw, 1, 4, 0); }},
    NamedDraft{"multi-query", [](TaskDraw& draw) { return lockers(draw, 4, 1, 0); }},
    NamedDraft{"key-value", key_value},
    NamedDraft{"variables", variables},
    NamedDraft{"common-words", common_words},
    NamedDraft{"frequent-words", frequent_words},
    NamedDraft{"passkey", passkey},
    NamedDraft{"json", json_records},
    NamedDraft{"log", archive_log},
};

}  // namespace

std::string TaskDraw::name() {
  std::string name;
  for (uint32_t n = 3; n > 0; --n) name += kSyllables[below(kSyllables.size())];
  name[0] = static_cast<char>(name[0] - 'a' + 'A');
  return name;
}

std::string TaskDraw::number(uint32_t n_digits) {
  std::string digits(1, static_cast<char>('1' + below(9)));
  while (digits.size() < n_digits) digits += static_cast<char>('0' + below(10));
  return digits;
}

std::string TaskDraw::hex(uint32_t n_digits) {
  std::string digits;
  while (digits.size() < n_digits) digits += "0123456789abcdef"[below(16)];
  return digits;
}

std::span<const std::string_view> text_task_names() {
  static constexpr auto kNames = [] {
    std::array<std::string_view, kDrafts.size()> all;
    for (size_t i = 0; i < all.size(); ++i) all[i] = kDrafts[i].name;
    return all;
  }();
  return kNames;
}

TaskDraft draft_task(std::string_view name, TaskDraw& draw) {
  for (const NamedDraft& of : kDrafts)
    if (of.name == name) return of.draft(draw);
  STRATA_CHECK(false, "no task %s", std::string(name).c_str());
}

}  // namespace strata::eval

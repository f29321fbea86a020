#include "tools/makers/recall_text.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace strata::makers {
namespace {

/// Draws the same numbers on every machine: the standard's distributions and shuffles do not.
class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i)
      std::swap(items[i - 1], items[below(static_cast<uint32_t>(i))]);
  }

 private:
  std::mt19937_64 random_;
};

[[noreturn]] void fail_vocabulary() {
  throw Error(ErrorCode::kUsage, "the vocabulary has too few words for the passages", "vocabulary",
              "raise the vocabulary, or ask for fewer passages");
}

/// Hands out words, each of another four.
class WordSupply {
 public:
  WordSupply(const RecallModel& model, Draw& draw) : fours_(model.n_words() / 4) {
    std::iota(fours_.begin(), fours_.end(), 0u);
    draw.shuffle(fours_);
  }
  uint32_t take() {
    if (fours_.empty()) fail_vocabulary();
    const uint32_t word = fours_.back() * 4;
    fours_.pop_back();
    return word;
  }

 private:
  std::vector<uint32_t> fours_;
};

/// Spreads passages over depths 0 .. 1 in their order.
void spread(std::vector<RecallPassage>& passages) {
  const double steps = std::max<double>(1, static_cast<double>(passages.size()) - 1);
  for (size_t i = 0; i < passages.size(); ++i) passages[i].depth = static_cast<double>(i) / steps;
}

/// Spreads passages over depths 0 .. 1 in a drawn order.
void scatter(std::vector<RecallPassage>& passages, Draw& draw) {
  std::vector<size_t> order(passages.size());
  std::iota(order.begin(), order.end(), size_t{0});
  draw.shuffle(order);
  const double steps = std::max<double>(1, static_cast<double>(passages.size()) - 1);
  for (size_t i = 0; i < order.size(); ++i)
    passages[order[i]].depth = static_cast<double>(i) / steps;
}

/// The begin of each passage: its depth, moved where passages would overlap.
std::vector<uint32_t> place(uint32_t n_words, const std::vector<RecallPassage>& passages) {
  std::vector<size_t> order(passages.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return passages[i].depth; });
  std::vector<uint32_t> begin(passages.size());
  uint32_t free_from = 0;
  for (const size_t i : order) {
    const auto length = static_cast<uint32_t>(passages[i].words.size());
    const auto wanted = static_cast<uint32_t>(std::lround(passages[i].depth * (n_words - length)));
    begin[i] = std::max(wanted, free_from);
    free_from = begin[i] + length;
  }
  uint32_t end = n_words;
  for (size_t i = order.size(); i-- > 0;) {
    const auto length = static_cast<uint32_t>(passages[order[i]].words.size());
    if (end < length)
      throw Error(ErrorCode::kUsage,
                  fmt::format("{} passages do not fit {} words", passages.size(), n_words),
                  "tokens", "make the text longer, or ask for fewer passages");
    begin[order[i]] = std::min(begin[order[i]], end - length);
    end = begin[order[i]];
  }
  return begin;
}

}  // namespace

RecallText make_recall_text(const RecallModel& model, uint32_t n_words,
                            const std::vector<RecallPassage>& passages, uint64_t seed) {
  Draw draw(seed);
  std::vector<bool> is_used(model.n_words() / 4);
  for (const RecallPassage& passage : passages)
    for (const uint32_t word : passage.words) is_used[word / 4] = true;
  std::vector<uint32_t> fillers;
  for (uint32_t word = 0; word < model.n_words(); ++word)  // aliases stand in no text
    if (!is_used[word / 4] && (word % 4 < 2 || !model.options().asks_by_alias))
      fillers.push_back(word);
  if (fillers.empty()) fail_vocabulary();
  RecallText text;
  text.words.resize(n_words);
  for (uint32_t& word : text.words)
    word = fillers[draw.below(static_cast<uint32_t>(fillers.size()))];
  text.passage_begin = place(n_words, passages);
  for (size_t i = 0; i < passages.size(); ++i)
    std::ranges::copy(passages[i].words, text.words.begin() + text.passage_begin[i]);
  return text;
}

RecallTask make_recall_task(const RecallModel& model, uint32_t n_keys, uint32_t n_answer,
                            uint64_t seed) {
  STRATA_CHECK(model.n_hops() == 1 && !model.options().asks_by_alias, "%u hops", model.n_hops());
  Draw draw(seed);
  WordSupply supply(model, draw);
  RecallTask task;
  for (uint32_t key = 0; key < n_keys; ++key) {
    RecallPassage passage;
    RecallQuestion question;
    for (uint32_t i = 0; i < model.options().key_words; ++i) question.ask.push_back(supply.take());
    for (uint32_t i = 0; i < n_answer; ++i) question.answer.push_back(supply.take());
    passage.words = question.ask;
    passage.words.insert(passage.words.end(), question.answer.begin(), question.answer.end());
    question.passages = {key};
    task.passages.push_back(std::move(passage));
    task.questions.push_back(std::move(question));
  }
  spread(task.passages);
  return task;
}

RecallTask make_key_value_task(const RecallModel& model, uint32_t n_side, uint64_t seed) {
  STRATA_CHECK(model.options().key_words == 2, "keys of %u words", model.options().key_words);
  Draw draw(seed);
  WordSupply supply(model, draw);
  std::vector<uint32_t> first(n_side), second(n_side);
  for (uint32_t& word : first) word = supply.take();
  for (uint32_t& word : second) word = supply.take();
  RecallTask task;
  for (uint32_t i = 0; i < n_side * n_side; ++i) {
    const std::vector<uint32_t> key = {first[i / n_side], second[i % n_side]};
    const uint32_t value = supply.take();
    task.passages.push_back({.words = {key[0], key[1], value}});
    task.questions.push_back({.ask = key, .answer = {value}, .passages = {i}});
  }
  scatter(task.passages, draw);
  return task;
}

RecallTask make_chain_task(const RecallModel& model, uint32_t n_chains, uint32_t n_answer,
                           uint64_t seed) {
  Draw draw(seed);
  WordSupply supply(model, draw);
  const auto spoken = [&](uint32_t word) {
    return model.options().asks_by_alias ? RecallCode::alias(word) : word;
  };
  RecallTask task;
  for (uint32_t chain = 0; chain < n_chains; ++chain) {
    RecallQuestion question;
    uint32_t head = supply.take();  // what the next hop looks for
    question.ask = {spoken(head)};
    RecallPassage passage{.words = {head}};
    for (uint32_t answer = 0; answer < n_answer; ++answer) {
      // Every hop but an answer's last closes a passage: the next one begins with the twin of the
      // word found, so that no word that is looked for stands in two places.
      for (uint32_t hop = 0; hop < model.n_hops(); ++hop) {
        head = supply.take();
        passage.words.push_back(head);
        if (answer == 0) question.passages.push_back(static_cast<uint32_t>(task.passages.size()));
        if (hop + 1 == model.n_hops()) break;
        task.passages.push_back(std::move(passage));
        passage = {.words = {RecallCode::twin(head)}};
      }
      question.answer.push_back(spoken(head));
    }
    task.passages.push_back(std::move(passage));
    task.questions.push_back(std::move(question));
  }
  scatter(task.passages, draw);
  return task;
}

}  // namespace strata::makers

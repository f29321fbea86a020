#include "tools/makers/golden_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>

#include "base/check.h"
#include "base/error.h"

namespace strata::makers {
namespace {

constexpr uint32_t kLastPositions = 16;
constexpr uint32_t kSpreadPositions = 8;

GoldenRow read_row(std::istringstream& line) {
  GoldenRow row;
  double lead = 0;
  line >> row.pos >> lead;
  char colon = 0;
  for (GoldenRow::Candidate item; line >> item.id >> colon >> item.log_p && colon == ':';)
    row.top.push_back(item);
  return row;
}

/// False where the line is none of the format's.
bool read_line(std::istringstream& line, GoldenFile& file) {
  std::string word;
  line >> word;
  if (word == "model") return static_cast<bool>(line >> file.model);
  if (word == "prompt") {
    GoldenPrompt& prompt = file.prompts.emplace_back();
    return static_cast<bool>(line >> prompt.name >> prompt.n_tokens >> prompt.ids_sha256);
  }
  if (file.prompts.empty()) return false;
  GoldenPrompt& prompt = file.prompts.back();
  if (word == "greedy") {
    for (int32_t id = 0; line >> id;) prompt.greedy.push_back(id);
    return prompt.greedy.size() == kGoldenGreedyTokens;
  }
  if (word != "row") return false;
  prompt.rows.push_back(read_row(line));
  return prompt.rows.back().top.size() == kGoldenTop;
}

}  // namespace

std::vector<uint32_t> golden_positions(uint32_t n_tokens) {
  STRATA_CHECK(n_tokens >= 1, "an empty prompt");
  std::set<uint32_t> positions;
  for (uint64_t i = 1; i <= kSpreadPositions; ++i)
    positions.insert(static_cast<uint32_t>(n_tokens * i / (kSpreadPositions + 1)));
  const uint32_t begin = n_tokens - std::min(n_tokens, kLastPositions);
  for (uint32_t pos = begin; pos < n_tokens + kGoldenGreedyTokens - 1; ++pos) positions.insert(pos);
  return {positions.begin(), positions.end()};
}

GoldenRow golden_row(uint32_t pos, std::span<const float> logits) {
  STRATA_CHECK(logits.size() >= kGoldenTop, "%zu logits", logits.size());
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::ranges::partial_sort(order, order.begin() + kGoldenTop, [&](int32_t a, int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a < b;
  });
  GoldenRow row;
  row.pos = pos;
  for (uint32_t i = 0; i < kGoldenTop; ++i)
    row.top.push_back({order[i], value(order[i]) - max - std::log(sum)});
  return row;
}

std::string ids_text(std::span<const int32_t> ids) {
  std::string text;
  for (const int32_t id : ids) text += fmt::format("{}\n", id);
  return text;
}

std::string golden_text(const GoldenFile& file) {
  std::string text = fmt::format("model {}\n", file.model);
  for (const GoldenPrompt& prompt : file.prompts) {
    text += fmt::format("\nprompt {} {} {}\n", prompt.name, prompt.n_tokens, prompt.ids_sha256);
    text += fmt::format("greedy {}\n", fmt::join(prompt.greedy, " "));
    for (const GoldenRow& row : prompt.rows) {
      text += fmt::format("row {} {:.4f}", row.pos, row.lead());
      for (const auto& item : row.top) text += fmt::format(" {}:{:.5f}", item.id, item.log_p);
      text += "\n";
    }
  }
  return text;
}

GoldenFile read_golden_file(const std::string& path) {
  std::ifstream input(path);
  if (!input) throw Error(ErrorCode::kIo, "cannot open", path);
  GoldenFile file;
  uint32_t number = 0;
  for (std::string text; std::getline(input, text);) {
    ++number;
    if (text.empty() || text.front() == '#') continue;
    std::istringstream line(text);
    if (!read_line(line, file))
      throw Error(ErrorCode::kBadFile, "not a line of a golden file: " + text,
                  fmt::format("{}:{}", path, number));
  }
  return file;
}

}  // namespace strata::makers

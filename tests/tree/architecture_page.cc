#include "tests/tree/architecture_page.h"

#include "tests/tree/tree_file.h"

namespace strata::tree {
namespace {

std::vector<std::string> cells_of(std::string_view row) {
  std::vector<std::string> cells;
  row.remove_prefix(1);
  for (size_t end; (end = row.find('|')) != std::string_view::npos; row.remove_prefix(end + 1))
    cells.emplace_back(row.substr(0, end));
  return cells;
}

/// "tools -> engine -> {tiers, planner} -> base": words between separators, ranked by the arrows
/// before them.
/// What follows a wide gap is about the tests, which may include anything.
std::map<std::string, int, std::less<>> parse_rule(std::string_view line) {
  line = line.substr(0, line.find("    "));
  std::map<std::string, int, std::less<>> ranks;
  int rank = 0;
  std::string word;
  const auto take_word = [&] {
    if (!word.empty()) ranks.emplace(word, rank);
    word.clear();
  };
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if ((c >= 'a' && c <= 'z') || c == '_') {
      word += c;
      continue;
    }
    take_word();
    if (c == '>') ++rank;
  }
  take_word();
  return ranks;
}

}  // namespace

ArchitecturePage parse_architecture(std::string_view markdown) {
  ArchitecturePage page;
  std::string_view section;
  for (const std::string_view line : lines_of(markdown)) {
    if (line.starts_with("## ")) section = line.substr(3);
    if (page.ranks.empty() && line.starts_with("tools -> ")) page.ranks = parse_rule(line);
    if (!line.starts_with("| `") && !line.starts_with("| ")) continue;
    const std::vector<std::string> cells = cells_of(line);
    if (section == "Folders" && !cells.empty()) {
      for (const std::string& folder : backticked(cells[0])) page.folders.push_back(folder);
    }
    if (section == "Foreign libraries" && cells.size() >= 3) {
      Seam seam{backticked(cells[1]), backticked(cells[2])};
      if (!seam.headers.empty()) page.seams.push_back(std::move(seam));
    }
  }
  return page;
}

bool may_include(const ArchitecturePage& page, std::string_view from, std::string_view to) {
  if (from == "tests") return true;
  const auto a = page.ranks.find(from);
  const auto b = page.ranks.find(to);
  if (a == page.ranks.end() || b == page.ranks.end()) return false;
  return a->first == b->first || a->second < b->second;
}

bool matches(std::string_view pattern, std::string_view path) {
  if (pattern.empty()) return path.empty();
  if (pattern[0] != '*') {
    return !path.empty() && path[0] == pattern[0] && matches(pattern.substr(1), path.substr(1));
  }
  for (size_t n = 0;; ++n) {
    if (matches(pattern.substr(1), path.substr(n))) return true;
    if (n == path.size() || path[n] == '/') return false;
  }
}

}  // namespace strata::tree

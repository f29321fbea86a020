#include "tests/tree/include_rules.h"

#include <algorithm>
#include <map>
#include <set>

namespace strata::tree {
namespace {

struct Include {
  size_t line = 0;
  bool is_quoted = false;
  std::string_view target;
};

std::vector<Include> includes_of(const TreeFile& file) {
  std::vector<Include> found;
  if (!file.is_cpp()) return found;
  size_t number = 0;
  for (const std::string_view line : lines_of(file.text)) {
    ++number;
    if (!line.starts_with("#include ")) continue;
    const bool is_quoted = line.find('"') != std::string_view::npos;
    const size_t begin = line.find(is_quoted ? '"' : '<');
    if (begin == std::string_view::npos) continue;
    const size_t end = line.find(is_quoted ? '"' : '>', begin + 1);
    if (end == std::string_view::npos) continue;
    found.push_back({number, is_quoted, line.substr(begin + 1, end - begin - 1)});
  }
  return found;
}

using FolderGraph = std::map<std::string, std::set<std::string>, std::less<>>;

/// Appends the first circle reachable from `folder`; `path` holds the folders on the way to it.
bool find_cycle(const FolderGraph& graph, const std::string& folder, std::vector<std::string>& path,
                std::set<std::string>& done, std::vector<std::string>& findings) {
  const auto on_path = std::find(path.begin(), path.end(), folder);
  if (on_path != path.end()) {
    std::string circle;
    for (auto it = on_path; it != path.end(); ++it) circle += *it + " -> ";
    findings.push_back(circle + folder);
    return true;
  }
  if (done.contains(folder)) return false;
  path.push_back(folder);
  bool found = false;
  if (const auto edges = graph.find(folder); edges != graph.end()) {
    for (const std::string& next : edges->second)
      found = found || find_cycle(graph, next, path, done, findings);
  }
  path.pop_back();
  done.insert(folder);
  return found;
}

}  // namespace

std::vector<std::string> include_findings(const ArchitecturePage& page,
                                          const std::vector<TreeFile>& tree) {
  std::vector<std::string> findings;
  for (const TreeFile& file : tree) {
    for (const Include& include : includes_of(file)) {
      if (!include.is_quoted) continue;
      const TreeFile& target = file_at(tree, include.target);
      if (target.path.empty()) {
        findings.push_back(finding(
            file, include.line, "\"" + std::string(include.target) + "\" is no path of the tree"));
      } else if (!may_include(page, file.top_folder(), target.top_folder())) {
        findings.push_back(finding(file, include.line,
                                   std::string(file.top_folder()) + " may not include " +
                                       std::string(target.top_folder())));
      }
    }
  }
  return findings;
}

std::vector<std::string> folder_cycle_findings(const std::vector<TreeFile>& tree) {
  FolderGraph graph;
  for (const TreeFile& file : tree) {
    if (file.top_folder() == "tests") continue;
    for (const Include& include : includes_of(file)) {
      const TreeFile& target = file_at(tree, include.target);
      if (include.is_quoted && !target.path.empty() && target.folder() != file.folder())
        graph[std::string(file.folder())].insert(std::string(target.folder()));
    }
  }
  std::vector<std::string> findings;
  std::set<std::string> done;
  for (const auto& [folder, edges] : graph) {
    std::vector<std::string> path;
    find_cycle(graph, folder, path, done, findings);
  }
  return findings;
}

std::vector<std::string> seam_findings(const ArchitecturePage& page,
                                       const std::vector<TreeFile>& tree) {
  std::vector<std::string> findings;
  for (const Seam& seam : page.seams) {
    std::set<std::string> in_vain(seam.files.begin(), seam.files.end());
    for (const TreeFile& file : tree) {
      for (const Include& include : includes_of(file)) {
        const bool is_seams = std::any_of(
            seam.headers.begin(), seam.headers.end(),
            [&](const std::string& header) { return include.target.starts_with(header); });
        if (include.is_quoted || !is_seams) continue;
        bool is_allowed = false;
        for (const std::string& pattern : seam.files) {
          if (!matches(pattern, file.path)) continue;
          is_allowed = true;
          in_vain.erase(pattern);
        }
        if (!is_allowed)
          findings.push_back(finding(
              file, include.line, "<" + std::string(include.target) + "> outside its seam files"));
      }
    }
    for (const std::string& pattern : in_vain)
      findings.push_back("the page names " + pattern + " as a seam of " + seam.headers[0] +
                         ", and no such file includes it");
  }
  return findings;
}

std::vector<std::string> folder_findings(const ArchitecturePage& page,
                                         const std::vector<TreeFile>& tree) {
  std::set<std::string> there;   // every folder
  std::set<std::string> wanted;  // those the page has to name
  for (const TreeFile& file : tree) {
    const std::string folder(file.folder());
    for (size_t end = folder.find('/');; end = folder.find('/', end + 1)) {
      if (!folder.empty()) there.insert(folder.substr(0, end));
      if (end == std::string::npos) break;
    }
    if (folder.empty()) continue;
    const bool is_one_row = file.top_folder() == "tests" || file.top_folder() == "docs";
    const size_t second = is_one_row ? folder.find('/') : folder.find('/', folder.find('/') + 1);
    wanted.insert(folder.substr(0, second));
  }
  std::set<std::string> named(page.folders.begin(), page.folders.end());
  std::vector<std::string> findings;
  for (const std::string& folder : wanted) {
    if (!named.contains(folder)) findings.push_back(folder + " is missing from the page");
  }
  for (const std::string& folder : named) {
    if (!there.contains(folder)) findings.push_back(folder + " is on the page and holds no file");
  }
  for (const auto& [folder, rank] : page.ranks) {
    if (!named.contains(folder)) findings.push_back(folder + " is in the rule and in no table");
  }
  return findings;
}

}  // namespace strata::tree

#include "tests/tree/source_rules.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <set>
#include <sstream>

namespace strata::tree {
namespace {

constexpr size_t kMaxColumns = 100;
constexpr size_t kMaxLines = 500;
constexpr size_t kMaxKernelLines = 700;
constexpr size_t kMaxFunctionLines = 70;
constexpr size_t kMaxKernelFunctionLines = 120;

bool is_kernel(const TreeFile& file) {
  return file.is_cuda() ||
         (file.top_folder() == "cpu_attn" &&
          (file.ends_with(".inc") || file.name().find("_avx") != std::string_view::npos));
}

bool is_word_letter(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

/// "FooBar_baz9" -> foo, bar, baz9.
std::vector<std::string> words_of(std::string_view name) {
  std::vector<std::string> words(1);
  for (const char c : name) {
    const bool is_letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (!is_letter || std::isupper(static_cast<unsigned char>(c))) words.emplace_back();
    if (is_letter) words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return words;
}

/// The first word of `name` that is banned, or "".
std::string banned_word(std::string_view name) {
  static const std::set<std::string, std::less<>> banned = {
      "fast", "opt", "new", "util", "utils", "misc", "helper", "helpers", "manager", "data", "tmp"};
  for (const std::string& word : words_of(name)) {
    if (banned.contains(word)) return word;
  }
  return "";
}

/// The name that a line declares a type or namespace by, or "".
std::string_view declared_name(std::string_view line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  constexpr std::array<std::string_view, 6> kKeywords = {"enum class ", "enum ",    "struct ",
                                                         "class ",      "concept ", "namespace "};
  for (const std::string_view keyword : kKeywords) {
    if (!line.starts_with(keyword)) continue;
    line.remove_prefix(keyword.size());
    const auto end = std::find_if_not(line.begin(), line.end(),
                                      [](char c) { return is_word_letter(c) || c == ':'; });
    return line.substr(0, static_cast<size_t>(end - line.begin()));
  }
  return {};
}

size_t columns_of(
    std::string_view line) {  // code points: a byte that continues one has the bits 10 in front
  return static_cast<size_t>(
      std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

/// Does `word` stand in `line`, not as part of a longer word?
bool has_word(std::string_view line, std::string_view word) {
  for (size_t at = line.find(word); at != std::string_view::npos; at = line.find(word, at + 1)) {
    const bool starts = at == 0 || !is_word_letter(line[at - 1]);
    const size_t end = at + word.size();
    if (starts && (end == line.size() || !is_word_letter(line[end]))) return true;
  }
  return false;
}

void add_word_findings(const TreeFile& file, const std::vector<std::string>& words, bool whole,
                       const std::string& what, std::vector<std::string>& findings) {
  size_t number = 0;
  for (const std::string_view line : lines_of(file.text)) {
    ++number;
    for (const std::string& word : words) {
      if (whole ? has_word(line, word) : line.find(word) != std::string_view::npos)
        findings.push_back(finding(file, number, what + ": " + word));
    }
  }
}

}  // namespace

std::vector<std::string> name_findings(const TreeFile& file) {
  std::vector<std::string> findings;
  if (const std::string word = banned_word(file.name()); !word.empty())
    findings.push_back(finding(file, 0, "a file name with the word " + word));
  if (!file.is_cpp()) return findings;
  size_t number = 0;
  for (const std::string_view line : lines_of(file.text)) {
    ++number;
    const std::string_view name = declared_name(line);
    if (const std::string word = banned_word(name); !word.empty())
      findings.push_back(finding(file, number, std::string(name) + " has the word " + word));
  }
  return findings;
}

std::vector<std::string> header_findings(const TreeFile& file) {
  if (!file.ends_with(".h")) return {};
  std::vector<std::string> findings;
  if (!file.text.starts_with("// " + file.path + " - "))
    findings.push_back(finding(file, 1, "does not start with // " + file.path + " - "));
  if (file.text.find("\n#pragma once\n") == std::string::npos)
    findings.push_back(finding(file, 1, "has no #pragma once"));
  return findings;
}

std::vector<std::string> size_findings(const TreeFile& file) {
  if (!file.is_code()) return {};
  std::vector<std::string> findings;
  const auto lines = lines_of(file.text);
  const size_t limit = is_kernel(file) ? kMaxKernelLines : kMaxLines;
  if (lines.size() > limit)
    findings.push_back(
        finding(file, lines.size(), "more than " + std::to_string(limit) + " lines"));
  for (size_t i = 0; i < lines.size(); ++i) {
    if (file.is_cpp() && columns_of(lines[i]) > kMaxColumns)
      findings.push_back(finding(file, i + 1, std::to_string(columns_of(lines[i])) + " columns"));
  }
  return findings;
}

std::vector<std::string> function_findings(const TreeFile& file) {
  if (!file.is_cpp()) return {};
  std::vector<std::string> findings;
  const size_t limit = is_kernel(file) ? kMaxKernelFunctionLines : kMaxFunctionLines;
  size_t number = 0;
  size_t begin = 0;  // line whose brace opened the body; 0 = outside of bodies
  bool is_in_type = false;
  for (const std::string_view line : lines_of(file.text)) {
    ++number;
    const size_t indent = std::min(line.find_first_not_of(' '), line.size());
    if (line == "};") is_in_type = false;
    if (begin != 0 && line.substr(indent).starts_with("}") && indent == (is_in_type ? 2u : 0u)) {
      if (number - begin + 1 > limit)
        findings.push_back(
            finding(file, begin, "a function of more than " + std::to_string(limit) + " lines"));
      begin = 0;
    }
    if (begin != 0 || line.empty() || line[0] == '/' || !line.ends_with("{")) continue;
    if (indent == 0 && !declared_name(line).empty()) is_in_type = !line.starts_with("namespace");
    // Inside a type, a body at four spaces is that of a type within it; a signature's later lines
    // stand further in.
    const bool is_nested = is_in_type && indent == 4;
    if (!is_nested && line.find_first_of("()") != std::string_view::npos) begin = number;
  }
  return findings;
}

std::vector<std::string> word_findings(const TreeFile& file) {
  if (file.text.find('\0') != std::string::npos) return {};
  std::vector<std::string> findings;
  // Written in two halves, so that this file does not find itself.
  add_word_findings(file,
                    {"TO"
                     "DO",
                     "FIX"
                     "ME",
                     "X"
                     "XX"},
                    true, "unfinished work", findings);
  add_word_findings(file,
                    {"/wo"
                     "rk/",
                     "/ho"
                     "me/",
                     "/op"
                     "t/",
                     "/ro"
                     "ot/",
                     "/tm"
                     "p/brief"},
                    false, "a path of one machine", findings);
  add_word_findings(file,
                    {"pypi"
                     ".org",
                     "python"
                     "hosted",
                     "deb.deb"
                     "ian.org",
                     "registry."
                     "npmjs"},
                    false, "a registry's host", findings);
  return findings;
}

std::vector<std::string> conduct_findings(const TreeFile& file) {
  std::vector<std::string> findings;
  if (!file.is_cpp()) return findings;
  static const std::set<std::string_view> libraries = {"base",     "tiers",    "planner", "index",
                                                       "cpu_attn", "gpu_attn", "engine"};
  if (libraries.contains(file.top_folder()) && file.path != "base/check.cc") {
    add_word_findings(
        file,
        {"std::cout", "std::cerr", "printf(", "fputs(", " puts(", "::puts(", "abort(", "exit("},
        false, "a library prints or ends the process", findings);
    // snprintf writes to memory, and liburing's exit closes a ring.
    std::erase_if(findings, [&](const std::string& text) {
      const size_t line = std::stoul(text.substr(file.path.size() + 1)) - 1;
      const std::string_view source = lines_of(file.text)[line];
      return source.find("snprintf(") != std::string_view::npos ||
             source.find("io_uring_queue_exit(") != std::string_view::npos;
    });
  }
  if (file.top_folder() == "tests") {
    add_word_findings(file,
                      {"sleep"
                       "_for(",
                       "sleep"
                       "_until(",
                       "us"
                       "leep("},
                      false, "a test sleeps", findings);
  }
  return findings;
}

std::vector<std::string> link_findings(const TreeFile& page, const std::vector<TreeFile>& tree) {
  std::vector<std::string> findings;
  size_t number = 0;
  for (const std::string_view line : lines_of(page.text)) {
    ++number;
    for (size_t at = line.find("]("); at != std::string_view::npos; at = line.find("](", at + 1)) {
      std::string target(line.substr(at + 2, line.find(')', at) - at - 2));
      if (target.starts_with("http") || target.starts_with("#")) continue;
      target = target.substr(0, target.find('#'));
      const std::string path =
          (std::filesystem::path(page.folder()) / target).lexically_normal().generic_string();
      const bool exists = std::any_of(tree.begin(), tree.end(), [&](const TreeFile& file) {
        return file.path == path || file.path.starts_with(path.ends_with('/') ? path : path + "/");
      });
      if (!exists)
        findings.push_back(finding(page, number, "links to " + target + ", which is not there"));
    }
  }
  return findings;
}

std::vector<std::string> citation_findings(const TreeFile& file,
                                           const std::vector<TreeFile>& tree) {
  constexpr std::string_view kBegin = "docs/adr/";
  constexpr std::string_view kEnd = ".md";
  if (!file.is_cpp()) return {};
  std::vector<std::string> findings;
  size_t number = 0;
  for (const std::string_view line : lines_of(file.text)) {
    ++number;
    for (size_t at = line.find(kBegin); at != std::string_view::npos;
         at = line.find(kBegin, at + 1)) {
      const size_t end = line.find(kEnd, at);
      if (end == std::string_view::npos) continue;
      const std::string_view path = line.substr(at, end + kEnd.size() - at);
      if (!std::ranges::count(tree, path, &TreeFile::path))
        findings.push_back(
            finding(file, number, "cites " + std::string(path) + ", which is not there"));
    }
  }
  return findings;
}

std::vector<std::string> package_findings(const TreeFile& packages, const TreeFile& contributing) {
  std::set<std::string> installed;
  for (const std::string_view line : lines_of(packages.text)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words{std::string(line)};
    std::string group;
    std::string name;
    std::string reason;
    words >> group >> name >> reason;
    if (!reason.empty()) installed.insert(name);
  }
  std::set<std::string> explained;
  bool is_section = false;
  for (const std::string_view line : lines_of(contributing.text)) {
    if (line.starts_with("## ")) is_section = line == "## Packages";
    if (!is_section || !line.starts_with("| `")) continue;
    for (const std::string& name : backticked(line.substr(0, line.find('|', 1))))
      explained.insert(name);
  }
  std::vector<std::string> findings;
  for (const std::string& name : installed) {
    if (!explained.contains(name))
      findings.push_back(contributing.path + " does not explain " + name);
  }
  for (const std::string& name : explained) {
    if (!installed.contains(name)) findings.push_back(packages.path + " does not install " + name);
  }
  return findings;
}

}  // namespace strata::tree

#include "tests/tree/tree_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/tree_paths.h"

namespace strata::tree {
namespace {

namespace fs = std::filesystem;

bool is_left_out(const fs::path& name) {
  return name == ".git" || name == "build" || name == ".cache" || name == "__pycache__" ||
         name.extension() == ".gguf";
}

}  // namespace

std::string_view TreeFile::folder() const {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string_view() : std::string_view(path).substr(0, slash);
}

std::string_view TreeFile::top_folder() const {
  const size_t slash = path.find('/');
  return slash == std::string::npos ? std::string_view() : std::string_view(path).substr(0, slash);
}

std::string_view TreeFile::name() const {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string_view(path)
                                    : std::string_view(path).substr(slash + 1);
}

std::vector<TreeFile> read_tree(const std::string& root) {
  std::vector<TreeFile> files;
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::end(entry); ++entry) {
    if (is_left_out(entry->path().filename())) {
      entry.disable_recursion_pending();
      continue;
    }
    if (!entry->is_regular_file()) continue;
    std::ifstream in(entry->path(), std::ios::binary);
    files.push_back({fs::relative(entry->path(), root).generic_string(),
                     {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()}});
  }
  std::sort(files.begin(), files.end(),
            [](const TreeFile& a, const TreeFile& b) { return a.path < b.path; });
  return files;
}

const std::vector<TreeFile>& this_tree() {
  static const std::vector<TreeFile> tree = read_tree(tree_path());
  return tree;
}

const TreeFile& file_at(const std::vector<TreeFile>& tree, std::string_view path) {
  static const TreeFile none;
  const auto found =
      std::find_if(tree.begin(), tree.end(), [&](const TreeFile& f) { return f.path == path; });
  return found == tree.end() ? none : *found;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::vector<std::string> backticked(std::string_view text) {
  std::vector<std::string> words;
  for (size_t begin = text.find('`'); begin != std::string_view::npos;) {
    const size_t end = text.find('`', begin + 1);
    if (end == std::string_view::npos) break;
    words.emplace_back(text.substr(begin + 1, end - begin - 1));
    begin = text.find('`', end + 1);
  }
  return words;
}

std::string report(const std::vector<std::string>& findings) {
  std::string text;
  for (const std::string& line : findings) text += line + "\n";
  return text;
}

std::string finding(const TreeFile& file, size_t line, const std::string& what) {
  return file.path + ":" + std::to_string(line) + ": " + what;
}

}  // namespace strata::tree

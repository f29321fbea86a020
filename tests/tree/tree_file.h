// tests/tree/tree_file.h - the files of this source tree, as the tree tests read them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace strata::tree {

struct TreeFile {
  std::string path;  // from the tree's root, with slashes
  std::string text;

  std::string_view folder() const;      // "engine/gguf" of engine/gguf/gguf_file.h, "" at the root
  std::string_view top_folder() const;  // "engine"
  std::string_view name() const;        // "gguf_file.h"
  bool ends_with(std::string_view suffix) const { return path.ends_with(suffix); }
  bool is_cuda() const { return ends_with(".cu") || ends_with(".cuh"); }
  bool is_cpp() const {
    return ends_with(".h") || ends_with(".cc") || ends_with(".inc") || is_cuda();
  }
  bool is_code() const { return is_cpp() || ends_with(".sh") || ends_with(".py"); }
};

/// Every file below `root` but build folders, caches, model files and what git keeps.
std::vector<TreeFile> read_tree(const std::string& root);

/// The tree this test was built from, read once.
const std::vector<TreeFile>& this_tree();

/// The file of that path; an empty one where there is none.
const TreeFile& file_at(const std::vector<TreeFile>& tree, std::string_view path);

std::vector<std::string_view> lines_of(std::string_view text);

/// What stands between backticks, in order.
std::vector<std::string> backticked(std::string_view text);

/// One finding per line: what gtest prints where it is not empty.
std::string report(const std::vector<std::string>& findings);

/// "path:line: what".
std::string finding(const TreeFile& file, size_t line, const std::string& what);

}  // namespace strata::tree

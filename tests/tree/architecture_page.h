// tests/tree/architecture_page.h - what ARCHITECTURE.md says, in a form that can be compared with
// the tree.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata::tree {

/// A row of the page's table of foreign libraries.
struct Seam {
  std::vector<std::string> headers;  // what an include begins with, such as "CLI/"
  std::vector<std::string>
      files;  // the files that may include it; * stands for any characters but a slash
};

struct ArchitecturePage {
  /// The include rule: a folder's rank; it may include itself and folders of higher rank. `tests`
  /// is not in it.
  std::map<std::string, int, std::less<>> ranks;
  std::vector<std::string> folders;  // first cells of the table of folders
  std::vector<Seam> seams;
};

/// The rule is the line "a -> {b, c} -> d"; the tables are those of the sections "Folders" and
/// "Foreign libraries".
ArchitecturePage parse_architecture(std::string_view markdown);

/// May a file of folder `from` include one of folder `to` (top folders)?
bool may_include(const ArchitecturePage& page, std::string_view from, std::string_view to);

/// Does `path` match `pattern`, in which * stands for any characters but a slash?
bool matches(std::string_view pattern, std::string_view path);

}  // namespace strata::tree

// tests/tree/include_rules.h - who includes whom: the folder rule, cycles of folders, foreign
// headers in their seam files.
#pragma once

#include <string>
#include <vector>

#include "tests/tree/architecture_page.h"
#include "tests/tree/tree_file.h"

namespace strata::tree {

/// Quoted includes that do not name a file of the tree from its root, or that go against the page's
/// rule.
std::vector<std::string> include_findings(const ArchitecturePage& page,
                                          const std::vector<TreeFile>& tree);

/// Folders (of any depth) that include each other in a circle; the tests' folders may look anywhere
/// and are left out.
std::vector<std::string> folder_cycle_findings(const std::vector<TreeFile>& tree);

/// Foreign headers included outside the files that the page gives them, and files the page names in
/// vain.
std::vector<std::string> seam_findings(const ArchitecturePage& page,
                                       const std::vector<TreeFile>& tree);

/// Folders that hold files and are not on the page (of two levels; those below tests and docs need
/// no row), and folders on the page that are not there.
std::vector<std::string> folder_findings(const ArchitecturePage& page,
                                         const std::vector<TreeFile>& tree);

}  // namespace strata::tree

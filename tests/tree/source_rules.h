// tests/tree/source_rules.h - the house rules a program can check on one file: names, size, shape,
// words. Each returns its findings, so that the tests can show each rule failing on a small bad
// example.
#pragma once

#include <string>
#include <vector>

#include "tests/tree/tree_file.h"

namespace strata::tree {

/// Words that say nothing, in a file's name or in the name of a type or namespace it declares.
std::vector<std::string> name_findings(const TreeFile& file);

/// A header starts with "// its/path.h - what it is" and has #pragma once.
std::vector<std::string> header_findings(const TreeFile& file);

/// At most 500 lines (a kernel 700) and 100 columns.
std::vector<std::string> size_findings(const TreeFile& file);

/// Functions of at most 70 lines (a kernel's 120), counted from the signature's last line to the
/// closing brace; the formatter puts both at the left margin.
std::vector<std::string> function_findings(const TreeFile& file);

/// Marks of unfinished work, paths of a developer's machine, host names of package registries.
std::vector<std::string> word_findings(const TreeFile& file);

/// Library folders neither print nor end the process; tests do not sleep.
std::vector<std::string> conduct_findings(const TreeFile& file);

/// Relative links of a Markdown page whose targets do not exist.
std::vector<std::string> link_findings(const TreeFile& page, const std::vector<TreeFile>& tree);

/// Decisions that code cites (docs/adr) and that are not there.
std::vector<std::string> citation_findings(const TreeFile& file, const std::vector<TreeFile>& tree);

/// Packages of tools/packages.txt that CONTRIBUTING.md's table lacks, and the other way round.
std::vector<std::string> package_findings(const TreeFile& packages, const TreeFile& contributing);

}  // namespace strata::tree

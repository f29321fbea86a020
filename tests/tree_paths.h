// tests/tree_paths.h - where the tree and this build lie.
// Why: a path of one checkout in the flags of every test would make a compiler cache forget all of
// them in another.
#pragma once

#include <string>

namespace strata {

/// "tests/data/x" -> the path of that file of the tree; "" = the tree.
std::string tree_path(const std::string& path = "");
/// "tools/strata" -> the path of what was built; "" = the folder of the build.
std::string build_path(const std::string& path = "");
/// Of the project, as the program prints it.
std::string project_version();

}  // namespace strata

#include "tests/tree_paths.h"

namespace strata {
namespace {

std::string joined(const char* folder, const std::string& path) {
  return path.empty() ? folder : std::string(folder) + "/" + path;
}

}  // namespace

std::string tree_path(const std::string& path) { return joined(STRATA_SOURCE_DIR, path); }
std::string build_path(const std::string& path) { return joined(STRATA_BINARY_DIR, path); }
std::string project_version() { return STRATA_VERSION; }

}  // namespace strata

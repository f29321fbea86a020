// `cmake --install` of this build.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/engine/test_folder.h"
#include "tests/tools/strata_process.h"
#include "tests/tree_paths.h"

namespace strata::cli {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

TEST(Install, PutsTheProgramAndItsPapersIntoThePrefix) {
  const engine::testing::TestFolder folder;
  const std::string prefix = folder.path("prefix"), log = folder.path("log");
  const auto run = [&](const std::string& command) {
    return std::system((command + " > '" + log + "' 2>&1").c_str());
  };
  ASSERT_EQ(run("cmake --install '" + build_path() + "' --prefix '" + prefix + "'"), 0)
      << first_line(log);
  ASSERT_EQ(run("'" + prefix + "/bin/strata' --version"), 0) << first_line(log);
  EXPECT_EQ(first_line(log), "strata " + project_version());
  for (const std::string paper : {"README.md", "CHANGELOG.md", "LICENSE"})
    EXPECT_TRUE(std::filesystem::exists(prefix + "/share/doc/strata/" + paper)) << paper;
  for (const std::string paper :
       {"man/man1/strata.1", "man/man1/strata-run.1", "man/man1/strata-session-save.1",
        "bash-completion/completions/strata", "zsh/site-functions/_strata",
        "fish/vendor_completions.d/strata.fish"})
    EXPECT_GT(std::filesystem::file_size(prefix + "/share/" + paper), 500u) << paper;
}

}  // namespace
}  // namespace strata::cli

// ARCHITECTURE.md against the tree. Each rule is first shown to fail on a small tree that breaks
// it.
#include <gtest/gtest.h>

#include "tests/tree/architecture_page.h"
#include "tests/tree/include_rules.h"
#include "tests/tree/tree_file.h"

namespace strata::tree {
namespace {

constexpr std::string_view kSmallPage =
    "## Folders\n"
    "tools -> engine -> {tiers, cpu_attn} -> base        tests -> anything\n"
    "| folder | what |\n| `base` | words |\n| `tiers` | bytes |\n| `cpu_attn` | kernels |\n"
    "| `engine`, `engine/text` | files |\n| `tools` | verbs |\n"
    "## Foreign libraries\n"
    "| library | header | only in |\n|---|---|---|\n| PCRE2 | `pcre2.h` | `engine/text/*.cc` |\n";

ArchitecturePage page_of_this_tree() {
  return parse_architecture(file_at(this_tree(), "ARCHITECTURE.md").text);
}

TEST(ArchitecturePage, RuleIsReadAsRanks) {
  const ArchitecturePage page = parse_architecture(kSmallPage);
  EXPECT_TRUE(may_include(page, "tools", "base"));
  EXPECT_TRUE(may_include(page, "engine", "tiers"));
  EXPECT_TRUE(may_include(page, "tiers", "tiers"));
  EXPECT_TRUE(may_include(page, "tests", "tools"));
  EXPECT_FALSE(may_include(page, "tiers", "cpu_attn"));
  EXPECT_FALSE(may_include(page, "base", "tiers"));
  EXPECT_FALSE(may_include(page, "engine", "tools"));
  EXPECT_FALSE(may_include(page, "engine", "nowhere"));
}

TEST(ArchitecturePage, StarOfAPatternStopsAtASlash) {
  EXPECT_TRUE(matches("tools/*.cc", "tools/bench.cc"));
  EXPECT_TRUE(matches("engine/*/*.cc", "engine/text/a.cc"));
  EXPECT_FALSE(matches("tools/*.cc", "tools/cli/main.cc"));
  EXPECT_FALSE(matches("tools/*.cc", "tools/bench.h"));
}

TEST(IncludeRule, SidewaysAndUpwardIncludesAreFound) {
  const std::vector<TreeFile> tree = {{"base/a.h", "#include \"tiers/b.h\"\n"},
                                      {"cpu_attn/c.h", "\n#include \"tiers/b.h\"\n"},
                                      {"engine/d.cc", "#include \"tiers/b.h\"\n#include \"e.h\"\n"},
                                      {"tests/f.cc", "#include \"engine/d.cc\"\n"},
                                      {"tiers/b.h", "#include <vector>\n#include \"base/a.h\"\n"}};
  EXPECT_EQ(report(include_findings(parse_architecture(kSmallPage), tree)),
            "base/a.h:1: base may not include tiers\n"
            "cpu_attn/c.h:2: cpu_attn may not include tiers\n"
            "engine/d.cc:2: \"e.h\" is no path of the tree\n");
}

TEST(IncludeRule, HoldsInThisTree) {
  const ArchitecturePage page = page_of_this_tree();
  ASSERT_GE(page.ranks.size(), 5u) << "the include rule was not found on the page";
  EXPECT_EQ(report(include_findings(page, this_tree())), "");
}

TEST(FolderCycle, TwoFoldersThatIncludeEachOtherAreFound) {
  const std::vector<TreeFile> tree = {{"engine/a.h", "#include \"engine/text/b.h\"\n"},
                                      {"engine/text/b.h", "#include \"engine/c.h\"\n"},
                                      {"engine/c.h", ""}};
  EXPECT_EQ(report(folder_cycle_findings(tree)), "engine -> engine/text -> engine\n");
}

TEST(FolderCycle, IsAbsentFromThisTree) {
  EXPECT_EQ(report(folder_cycle_findings(this_tree())), "");
}

TEST(FolderTable, MissingAndVanishedFoldersAreFound) {
  const std::vector<TreeFile> tree = {{"base/a.h", ""},     {"tiers/a.h", ""},
                                      {"engine/a.h", ""},   {"engine/gguf/x/a.h", ""},
                                      {"cpu_attn/a.h", ""}, {"README.md", ""}};
  EXPECT_EQ(report(folder_findings(parse_architecture(kSmallPage), tree)),
            "engine/gguf is missing from the page\n"
            "engine/text is on the page and holds no file\n"
            "tools is on the page and holds no file\n");
}

TEST(FolderTable, NamesTheFoldersOfThisTree) {
  EXPECT_EQ(report(folder_findings(page_of_this_tree(), this_tree())), "");
}

TEST(SeamTable, ForeignHeaderElsewhereIsFound) {
  const std::vector<TreeFile> tree = {{"engine/text/a.cc", "#include <pcre2.h>\n"},
                                      {"engine/b.cc", "#include <vector>\n#include <pcre2.h>\n"}};
  EXPECT_EQ(report(seam_findings(parse_architecture(kSmallPage), tree)),
            "engine/b.cc:2: <pcre2.h> outside its seam files\n");
}

TEST(SeamTable, SeamThatNothingUsesIsFound) {
  const std::vector<TreeFile> tree = {{"engine/text/a.cc", "#include <vector>\n"}};
  EXPECT_EQ(report(seam_findings(parse_architecture(kSmallPage), tree)),
            "the page names engine/text/*.cc as a seam of pcre2.h, and no such file includes it\n");
}

TEST(SeamTable, HoldsInThisTree) {
  const ArchitecturePage page = page_of_this_tree();
  ASSERT_FALSE(page.seams.empty()) << "the table of foreign libraries was not found on the page";
  EXPECT_EQ(report(seam_findings(page, this_tree())), "");
}

}  // namespace
}  // namespace strata::tree

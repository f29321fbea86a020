// The house rules against every file of the tree. Each rule is first shown to fail on a small bad
// example.
#include <gtest/gtest.h>

#include <functional>

#include "tests/tree/source_rules.h"
#include "tests/tree/tree_file.h"

namespace strata::tree {
namespace {

std::string findings_of_tree(const std::function<std::vector<std::string>(const TreeFile&)>& rule) {
  std::string text;
  for (const TreeFile& file : this_tree()) text += report(rule(file));
  return text;
}

std::string repeated(const std::string& text, size_t n) {
  std::string all;
  for (size_t i = 0; i < n; ++i) all += text;
  return all;
}

TEST(Names, WordsThatSayNothingAreFound) {
  EXPECT_EQ(report(name_findings({"base/fast_math.h", ""})),
            "base/fast_math.h:0: a file name with the word fast\n");
  EXPECT_EQ(report(name_findings({"engine/a.h", "struct Breakfast;\nclass TensorData {\n"})),
            "engine/a.h:2: TensorData has the word data\n");
  EXPECT_EQ(
      report(name_findings({"engine/options.cc", "namespace strata::util {\nenum class New {"})),
      "engine/options.cc:1: strata::util has the word util\n"
      "engine/options.cc:2: New has the word new\n");
}

TEST(Names, HoldInThisTree) { EXPECT_EQ(findings_of_tree(name_findings), ""); }

TEST(Headers, MissingFirstLineAndGuardAreFound) {
  EXPECT_EQ(report(header_findings({"base/a.h", "// a.h - wrong path\n#include <vector>\n"})),
            "base/a.h:1: does not start with // base/a.h - \n"
            "base/a.h:1: has no #pragma once\n");
  EXPECT_EQ(report(header_findings({"base/a.h", "// base/a.h - words.\n#pragma once\n"})), "");
}

TEST(Headers, HoldInThisTree) { EXPECT_EQ(findings_of_tree(header_findings), ""); }

TEST(Sizes, LongFilesAndLinesAreFound) {
  const std::string line_of_100(100, 'x');
  EXPECT_EQ(report(size_findings({"base/a.cc", line_of_100 + "\n" + line_of_100 + "y\n"})),
            "base/a.cc:2: 101 columns\n");
  EXPECT_EQ(report(size_findings({"base/a.cc", repeated("\xc3\xa4", 100)})), "");
  EXPECT_EQ(report(size_findings({"base/a.cc", repeated("x\n", 501)})),
            "base/a.cc:501: more than 500 lines\n");
  EXPECT_EQ(report(size_findings({"cpu_attn/a_avx2.cc", repeated("x\n", 700)})), "");
  EXPECT_EQ(report(size_findings({"cpu_attn/a.inc", repeated("x\n", 701)})),
            "cpu_attn/a.inc:701: more than 700 lines\n");
}

TEST(Sizes, HoldInThisTree) { EXPECT_EQ(findings_of_tree(size_findings), ""); }

TEST(Functions, LongBodyIsFound) {
  const std::string body = repeated("  step();\n", 69);
  EXPECT_EQ(report(function_findings({"base/a.cc", "\nvoid walk() {\n" + body + "}\n"})),
            "base/a.cc:2: a function of more than 70 lines\n");
  EXPECT_EQ(report(function_findings(
                {"base/a.cc", "void walk(int a,\n          int b) {\n" + body + "}\n"})),
            "base/a.cc:2: a function of more than 70 lines\n");
  EXPECT_EQ(report(function_findings({"cpu_attn/a.inc", "void walk() {\n" + body + "}\n"})), "");
  const std::string member = repeated("    step();\n", 69);
  EXPECT_EQ(report(function_findings(
                {"base/a.cc", "class A {\n  void walk() {\n" + member + "  }\n};\n"})),
            "base/a.cc:2: a function of more than 70 lines\n");
  const std::string two =
      "  void a() {\n  }\n" + repeated("  int x;\n", 70) + "  void b() {\n  }\n";
  EXPECT_EQ(report(function_findings({"base/a.cc", "class A {\n" + two + "};\n"})), "");
  EXPECT_EQ(report(function_findings({"base/a.cc", "namespace a {\n" + body + "}\n"})), "");
}

TEST(Functions, AreShortInThisTree) { EXPECT_EQ(findings_of_tree(function_findings), ""); }

TEST(Words, UnfinishedWorkAndMachinePathsAreFound) {
  EXPECT_EQ(report(word_findings({"a.cc",
                                  "// TO"
                                  "DO: later\n"})),
            "a.cc:1: unfinished work: TO"
            "DO\n");
  EXPECT_EQ(report(word_findings({"a.md",
                                  "\ncd /ho"
                                  "me/ana\n"})),
            "a.md:2: a path of one machine: /ho"
            "me/\n");
  EXPECT_EQ(report(word_findings({"a.sh",
                                  "curl pypi"
                                  ".org\n"})),
            "a.sh:1: a registry's host: pypi"
            ".org\n");
}

TEST(Words, HoldInThisTree) { EXPECT_EQ(findings_of_tree(word_findings), ""); }

TEST(Conduct, PrintingLibraryAndSleepingTestAreFound) {
  EXPECT_EQ(
      report(conduct_findings({"tiers/a.cc", "\n  printf(\"x\");\n  snprintf(text, 3, \"x\");\n"})),
      "tiers/a.cc:2: a library prints or ends the process: printf(\n");
  EXPECT_EQ(report(conduct_findings({"tiers/a.cc", "io_uring_queue_exit(&ring);\n_exit(1);\n"})),
            "tiers/a.cc:2: a library prints or ends the process: exit(\n");
  EXPECT_EQ(report(conduct_findings({"tests/base/a_test.cc",
                                     "sleep"
                                     "_for(1s);\n"})),
            "tests/base/a_test.cc:1: a test sleeps: sleep"
            "_for(\n");
  EXPECT_EQ(report(conduct_findings({"tools/a.cc", "printf(\"x\");\n"})), "");
}

TEST(Conduct, HoldsInThisTree) { EXPECT_EQ(findings_of_tree(conduct_findings), ""); }

TEST(Links, DeadLinkIsFound) {
  const TreeFile page{"docs/a.md",
                      "[b](b.md) [c](../c.md#x)\n[d](../docs) [e](https://e) [f](#f)\n"};
  EXPECT_EQ(report(link_findings(page, {page, {"c.md", ""}})),
            "docs/a.md:1: links to b.md, which is not there\n");
}

TEST(Links, HoldInThisTree) {
  EXPECT_EQ(findings_of_tree([](const TreeFile& file) {
              return file.ends_with(".md") ? link_findings(file, this_tree())
                                           : std::vector<std::string>();
            }),
            "");
}

TEST(Citations, OfADecisionThatIsNotThereIsFound) {
  // Written in two halves, so that this file does not find itself.
  const std::string folder =
      "// docs/"
      "adr/";
  const TreeFile file{"base/a.cc", folder + "0001-a.md\n" + folder + "0002-b.md, and more\n"};
  EXPECT_EQ(report(citation_findings(file, {file, {folder.substr(3) + "0001-a.md", ""}})),
            "base/a.cc:2: cites " + folder.substr(3) + "0002-b.md, which is not there\n");
}

TEST(Citations, HoldInThisTree) {
  EXPECT_EQ(
      findings_of_tree([](const TreeFile& file) { return citation_findings(file, this_tree()); }),
      "");
}

TEST(Packages, UnexplainedAndUninstalledOnesAreFound) {
  const TreeFile packages{"p.txt", "# list\nbuild g++ compiles\nbuild cmake builds\n"};
  const TreeFile page{"c.md", "## Packages\n| `g++` | compiles |\n| `ninja` | runs `cmake` |\n"};
  EXPECT_EQ(report(package_findings(packages, page)),
            "c.md does not explain cmake\np.txt does not install ninja\n");
}

TEST(Packages, AreExplainedInThisTree) {
  const TreeFile& packages = file_at(this_tree(), "tools/packages.txt");
  ASSERT_FALSE(packages.text.empty());
  EXPECT_EQ(report(package_findings(packages, file_at(this_tree(), "CONTRIBUTING.md"))), "");
}

}  // namespace
}  // namespace strata::tree

// Templates and what real Jinja2 makes of them, as Hugging Face's transformers configure it
// (tools/template_expectations.py wrote the expected values; nothing here runs Python).
// A file of template_cases/ holds lines `# let NAME {JSON}`, then cases:
//   @@ title
//   the template, without a line break at its end
//   @@ with NAME... {JSON}      variables: the named ones, then those of the object
//   @@ gives                    or `fails` (then a part of the error follows), or `ours` (gives
//   what the text                    Jinja2 does not give, on purpose)
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "tests/engine/template_fixture.h"
#include "tests/tree_paths.h"

namespace strata::engine {
namespace {

using nlohmann::ordered_json;

struct Case {
  std::string title;
  std::string source;
  ordered_json variables;
  bool fails = false;
  std::string expected;
};

class CaseReader {
 public:
  explicit CaseReader(std::istream& in) {
    std::string line;
    while (std::getline(in, line)) take(line);
    if (wanted_) *wanted_ = without_last_break(*wanted_);
  }

  std::vector<Case> cases;

 private:
  void take(const std::string& line) {
    if (!wanted_ && line.starts_with("# let ")) {
      const size_t space = line.find(' ', 6);
      named_[line.substr(6, space - 6)] = ordered_json::parse(line.substr(space + 1));
    } else if (line.starts_with("@@ ")) {
      if (wanted_) *wanted_ = without_last_break(*wanted_);
      wanted_ = nullptr;  // what it points to moves where a case is added
      heading(line.substr(3));
    } else if (wanted_) {
      *wanted_ += line + "\n";
    }
  }

  void heading(const std::string& line) {
    if (line.starts_with("with")) {
      cases.push_back({title_, source_, variables_of(line.substr(4)), false, ""});
    } else if (line == "gives" || line == "ours" || line == "fails") {
      cases.back().fails = line == "fails";
      wanted_ = &cases.back().expected;
    } else {
      title_ = line;
      source_.clear();
      wanted_ = &source_;
    }
  }

  ordered_json variables_of(const std::string& words) const {
    const size_t brace = std::min(words.find('{'), words.size());
    ordered_json all = ordered_json::object();
    std::istringstream names(words.substr(0, brace));
    std::string name;
    while (names >> name) all.update(named_.at(name));
    if (brace < words.size()) all.update(ordered_json::parse(words.substr(brace)));
    return all;
  }

  static std::string without_last_break(std::string text) {
    if (text.ends_with('\n')) text.pop_back();
    return text;
  }

  std::map<std::string, ordered_json> named_;
  std::string title_;
  std::string source_;
  std::string* wanted_ = nullptr;
};

// Compares every case of a file; returns how many there were.
size_t compare(const std::string& name) {
  std::ifstream in(tree_path("tests/engine/template_cases/" + name));
  EXPECT_TRUE(in.is_open()) << name;
  const CaseReader reader(in);
  for (const Case& one : reader.cases) {
    SCOPED_TRACE(one.title + " with " + one.variables.dump().substr(0, 200));
    if (one.fails) {
      const std::string error = testing::error_of(one.source, one.variables);
      EXPECT_NE(error.find(one.expected + " [chat template, line "), std::string::npos) << error;
      continue;
    }
    try {
      EXPECT_EQ(testing::render_source(one.source, one.variables), one.expected);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what() << " [" << error.where() << "]";
    }
  }
  return reader.cases.size();
}

TEST(TemplateCases, LanguageGivesWhatJinja2Gives) { EXPECT_GE(compare("language.txt"), 110u); }

TEST(TemplateCases, ChatsGiveWhatJinja2Gives) { EXPECT_GE(compare("chats.txt"), 50u); }

}  // namespace
}  // namespace strata::engine

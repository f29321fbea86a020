// Two real vocabularies against ids that llama.cpp computed at development time.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "engine/gguf/gguf_file.h"
#include "engine/text/tokenizer.h"
#include "tests/golden/golden_models.h"
#include "tests/tree_paths.h"

namespace strata::golden {
namespace {

using engine::StreamDecoder;
using engine::TokenId;
using engine::Tokenizer;

struct Case {
  std::string kind;  // plain, special or whole
  std::string text;
  std::vector<TokenId> ids;
};

std::string unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char escape = text.at(++i);
    if (escape == 'x') {
      out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += escape == 'n' ? '\n' : escape == 't' ? '\t' : escape;
    }
  }
  return out;
}

/// Two lines a case: kind "text", then the ids.
std::vector<Case> read_cases(const std::string& name) {
  std::ifstream file(tree_path("tests/golden/" + name));
  std::vector<Case> cases;
  for (std::string line, ids; std::getline(file, line);) {
    if (line.starts_with("#") || !std::getline(file, ids)) continue;
    const size_t quote = line.find('"');
    Case item{line.substr(0, quote - 1),
              unescaped(std::string_view(line).substr(quote + 1, line.size() - quote - 2)),
              {}};
    std::istringstream numbers(ids);
    for (TokenId id; numbers >> id;) item.ids.push_back(id);
    cases.push_back(std::move(item));
  }
  return cases;
}

void expect_ids(const std::string& model, const std::string& cases_name, size_t n_cases_min) {
  const auto tokenizer =
      Tokenizer::make(engine::read_tokenizer_spec(engine::GgufFile::open(model)));
  const std::vector<Case> cases = read_cases(cases_name);
  ASSERT_GE(cases.size(), n_cases_min);
  for (const Case& item : cases) {
    engine::EncodeOptions options;
    options.parse_special = item.kind != "plain";
    options.add_special = item.kind == "whole";
    EXPECT_EQ(tokenizer->encode(item.text, options), item.ids) << item.kind << ": " << item.text;
    if (item.kind != "plain") continue;
    StreamDecoder decoder(*tokenizer);
    std::string shown;
    for (const TokenId id : item.ids) shown += decoder.push(id);
    // In SPM vocabularies U+2581 stands for a space, so a text that holds one comes back with a
    // space.
    std::string wanted = item.text;
    const std::string mark = "\xE2\x96\x81";
    const bool is_spm = tokenizer->spec().model == "llama";
    for (size_t at; is_spm && (at = wanted.find(mark)) != std::string::npos;)
      wanted.replace(at, mark.size(), " ");
    shown += decoder.finish();
    EXPECT_EQ(shown, wanted);
  }
}

TEST(TokenizerGolden, SmolLm2GivesTheIdsOfLlamaCpp) {
  STRATA_GOLDEN_MODEL(model, kSmolLm2);
  expect_ids(model, "tokenizer_smollm2.txt", 100);
}

TEST(TokenizerGolden, Gemma3GivesTheIdsOfLlamaCpp) {
  STRATA_GOLDEN_MODEL(model, kGemma3);
  expect_ids(model, "tokenizer_gemma3.txt", 100);
}

}  // namespace
}  // namespace strata::golden

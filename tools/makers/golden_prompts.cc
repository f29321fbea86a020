#include "tools/makers/golden_prompts.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "engine/prompt_tokens.h"
#include "tools/makers/golden_file.h"
#include "tools/makers/ledger_text.h"

namespace strata::makers {
namespace {

struct Ledger {
  const char* name;
  uint32_t n_entries;
};
// Lengths in tokens: SmolLM2, Gemma 3.
constexpr Ledger kLedgers[] = {
    {"ledger_2k", 50},
    {"ledger_7k", 187},
    {"ledger_30k", 860},
};

}  // namespace

std::vector<NamedPrompt> golden_prompts(const std::string& folder,
                                        const engine::Tokenizer& tokenizer, uint64_t n_ctx) {
  std::vector<NamedPrompt> prompts;
  const auto add = [&](const std::string& name, const std::string& text) {
    auto ids = engine::encode_text_prompt(tokenizer, text, true);
    if (ids.size() + kGoldenGreedyTokens <= n_ctx) prompts.push_back({name, std::move(ids)});
  };
  std::error_code failure;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failure))
    if (entry.path().extension() == ".txt") paths.push_back(entry.path());
  if (failure) throw Error(ErrorCode::kIo, failure.message(), folder);
  std::ranges::sort(paths);
  for (const auto& path : paths) {
    std::ifstream input(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(input), {}};
    if (!input) throw Error(ErrorCode::kIo, "cannot read", path.string());
    if (text.ends_with('\n')) text.pop_back();  // the text goes on in its last line
    add(path.stem().string(), text);
  }
  for (const Ledger& ledger : kLedgers) add(ledger.name, ledger_text(ledger.n_entries));
  return prompts;
}

}  // namespace strata::makers

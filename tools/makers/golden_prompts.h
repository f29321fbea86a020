// tools/makers/golden_prompts.h - the prompts of the golden tests: texts in tests/golden/prompts
// and ledgers of three lengths.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace strata::makers {

struct NamedPrompt {
  std::string name;
  std::vector<engine::TokenId> ids;
};

/// Every prompt that leaves room for the greedy answer in a context of n_ctx, encoded as `strata
/// run --raw` would: the texts of `folder` by name, then ledger_2k, ledger_7k, ledger_30k (about as
/// many tokens). Errors: kIo; those of Tokenizer::encode.
std::vector<NamedPrompt> golden_prompts(const std::string& folder,
                                        const engine::Tokenizer& tokenizer, uint64_t n_ctx);

}  // namespace strata::makers

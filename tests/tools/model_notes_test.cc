// What the program says of a file that runs but lacks something.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/engine/small_vocabulary.h"
#include "tests/engine/test_folder.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using engine::testing::SmallModel;
using testing::Outcome;
using testing::run_strata;

/// A BPE model of the 256 bytes and "ab", which names no pre-tokenizer.
SmallModel bpe_model() {
  const engine::TokenizerSpec spec = engine::testing::make_bpe_spec({{"a", "b"}});
  SmallModel model =
      engine::testing::make_small_model({.vocab_size = static_cast<uint32_t>(spec.tokens.size())});
  model.set("tokenizer.ggml.model", spec.model);
  model.set("tokenizer.ggml.tokens", spec.tokens);
  model.set("tokenizer.ggml.merges", spec.merges);
  model.erase_key("tokenizer.ggml.scores");
  return model;
}

/// How often a run that ends well speaks of the pre-tokenizer.
size_t n_notes(const SmallModel& model, const std::string& verb) {
  const engine::testing::TestFolder folder;
  std::vector<std::string> arguments = {verb, "-m", folder.write("m.gguf", model.bytes()), "-p",
                                        "ab"};
  if (verb == "run") arguments.insert(arguments.end(), {"-n", "1"});
  const Outcome outcome = run_strata(arguments);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  size_t n = 0;
  const std::string note = "note: the file does not name its pre-tokenizer (tokenizer.ggml.pre)";
  for (size_t at = 0; (at = outcome.err.find(note, at)) != std::string::npos; ++at) ++n;
  return n;
}

TEST(ModelNotes, ABpeFileWithoutAPreTokenizerIsSaidOnce) {
  SmallModel model = bpe_model();
  for (const std::string verb : {"run", "tokenize"}) EXPECT_EQ(n_notes(model, verb), 1u) << verb;
  model.set("tokenizer.ggml.pre", std::string("gpt-2"));
  for (const std::string verb : {"run", "tokenize"}) EXPECT_EQ(n_notes(model, verb), 0u) << verb;
}

TEST(ModelNotes, OtherVocabulariesNeedNone) {
  EXPECT_EQ(n_notes(engine::testing::make_small_model(), "run"), 0u);
}

}  // namespace
}  // namespace strata::cli

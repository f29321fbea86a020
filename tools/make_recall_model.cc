// make_recall_model OUT [options] - writes a recall model (docs/recall-model.md), and on request a
// text to ask it about, with the questions and their answers on stdout.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <fstream>
#include <string>

#include "base/error.h"
#include "tools/makers/recall_model.h"
#include "tools/makers/recall_text.h"

namespace {

using namespace strata;

constexpr uint32_t kKeys = 11;        // at depths 0, 0.1 .. 1.0
constexpr uint32_t kAnswer = 5;       // words
constexpr uint32_t kSide = 10;        // words that a key's first and second word are taken from
constexpr uint32_t kTokensMin = 512;  // what these passages need, with words between them

makers::RecallTask task_for(const makers::RecallModel& model, uint32_t n_chains, uint64_t seed) {
  if (model.options().key_words == 2) return makers::make_key_value_task(model, kSide, seed);
  if (model.n_hops() > 1 || model.options().asks_by_alias)
    return makers::make_chain_task(model, n_chains, kAnswer, seed);
  return makers::make_recall_task(model, kKeys, kAnswer, seed);
}

void write_text(const makers::RecallModel& model, const std::string& path, uint32_t n_tokens,
                uint32_t n_chains, uint64_t seed) {
  const makers::RecallTask task = task_for(model, n_chains, seed);
  const auto text = makers::make_recall_text(model, n_tokens - 1, task.passages, seed + 1);
  std::ofstream file(path, std::ios::binary);
  file << model.text(text.words);
  file.close();
  if (!file) throw Error(ErrorCode::kIo, "cannot write", path);
  for (const makers::RecallQuestion& question : task.questions)
    fmt::print("{} -> {}\n", model.text(question.ask), model.text(question.answer));
}

makers::RecallOptions variant_named(const std::string& name) {
  if (name == "key-value") return makers::key_value_variant();
  if (name == "multi-hop") return makers::multi_hop_variant();
  return makers::recall_variant();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes a model whose weights are built, not trained: it recalls what a text says.");
  std::string path, text_path, variant = "recall";
  uint32_t n_tokens = 4096, n_chains = 3, vocab_size = 0, n_layers = 0, n_kv_heads = 0, group = 0,
           head_dim = 0;
  uint64_t seed = 1;
  app.add_option("OUT", path, "the GGUF file to write")->required();
  app.add_option("--variant", variant, "where the other options begin")
      ->check(CLI::IsMember({"recall", "key-value", "multi-hop"}));
  app.add_option("--vocab", vocab_size, "tokens; 261 are the vocabulary's own");
  app.add_option("--layers", n_layers, "layers: one more than hops");
  app.add_option("--kv-heads", n_kv_heads, "KV heads: each carries a slice of every word's code");
  app.add_option("--group", group, "query heads per KV head");
  app.add_option("--head-dim", head_dim, "dimensions of a head");
  app.add_option("--seed", seed, "of the words' codes, and of the text");
  app.add_option("--text", text_path, "also write a text to ask about; questions go to stdout");
  app.add_option("--tokens", n_tokens, "length of the text, the begin token included")
      ->check(CLI::Range(kTokensMin, makers::kRecallContext));
  app.add_option("--chains", n_chains, "of multi-hop: questions, of five words each")
      ->check(CLI::Range(1u, 8u));
  CLI11_PARSE(app, argc, argv);
  try {
    makers::RecallOptions options = variant_named(variant);
    if (vocab_size > 0) options.vocab_size = vocab_size;
    if (n_layers > 0) options.n_layers = n_layers;
    if (n_kv_heads > 0) options.n_kv_heads = n_kv_heads;
    if (group > 0) options.group = group;
    if (head_dim > 0) options.head_dim = head_dim;
    options.seed = seed;
    const auto model = makers::RecallModel::make(options);
    model.write(path);
    if (!text_path.empty()) write_text(model, text_path, n_tokens, n_chains, seed);
  } catch (const Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return exit_code(error.code());
  }
  return 0;
}

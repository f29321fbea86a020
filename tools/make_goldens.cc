// make_goldens ids MODEL PROMPTS DIR - writes, for each prompt of the golden tests, DIR/NAME.ids
// (the prompt's token ids) and DIR/NAME.rows (the positions that are compared).
// make_goldens write MODEL PROMPTS DIR NOTE - reads DIR/NAME.logits and prints the golden file;
// NOTE says in its head by what and when they were made.
//
// Between the two, the reference engine continues each prompt greedily by 16 tokens and writes the
// logits of those rows, raw f32 [n_rows, vocab_size]: of the F32 copy of the model file
// (dequantise_gguf), so that no rounding of activations is in the goldens. Any engine will do;
// `dump_logits F32_COPY DIR/NAME.ids DIR/NAME.logits --rows DIR/NAME.rows --greedy 16` is ours.
// PROMPTS is tests/golden/prompts.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/gguf/gguf_file.h"
#include "engine/model_spec.h"
#include "engine/sha256.h"
#include "engine/text/tokenizer.h"
#include "tools/makers/golden_file.h"
#include "tools/makers/golden_prompts.h"

namespace {

using namespace strata;
using makers::GoldenFile;
using makers::GoldenPrompt;
using makers::NamedPrompt;

void write_text(const std::string& path, const std::string& text) {
  std::ofstream output(path, std::ios::binary);
  output << text;
  output.close();
  if (!output) throw Error(ErrorCode::kIo, "cannot write", path);
}

void write_ids(const std::string& folder, const NamedPrompt& prompt) {
  write_text(folder + "/" + prompt.name + ".ids", makers::ids_text(prompt.ids));
  const auto positions = makers::golden_positions(static_cast<uint32_t>(prompt.ids.size()));
  write_text(folder + "/" + prompt.name + ".rows",
             makers::ids_text(std::vector<int32_t>(positions.begin(), positions.end())));
  fmt::print("{} {} tokens\n", prompt.name, prompt.ids.size());
}

GoldenPrompt read_logits(const std::string& folder, const NamedPrompt& prompt,
                         uint32_t vocab_size) {
  const std::string path = folder + "/" + prompt.name + ".logits";
  std::ifstream input(path, std::ios::binary);
  GoldenPrompt golden{.name = prompt.name,
                      .n_tokens = static_cast<uint32_t>(prompt.ids.size()),
                      .ids_sha256 = engine::sha256_hex(makers::ids_text(prompt.ids)),
                      .greedy = {},
                      .rows = {}};
  std::vector<float> logits(vocab_size);
  const auto bytes = static_cast<std::streamsize>(logits.size() * sizeof(float));
  for (const uint32_t pos : makers::golden_positions(golden.n_tokens)) {
    if (!input.read(reinterpret_cast<char*>(logits.data()), bytes))
      throw Error(ErrorCode::kBadFile, fmt::format("has no row of position {}", pos), path);
    golden.rows.push_back(makers::golden_row(pos, logits));
    if (pos + 1 >= golden.n_tokens) golden.greedy.push_back(golden.rows.back().top[0].id);
  }
  return golden;
}

void run(const std::string& verb, const std::string& model, const std::string& prompts_folder,
         const std::string& folder, const std::string& note) {
  const auto file = engine::GgufFile::open(model);
  const auto shape = engine::read_model_spec(file).shape;
  const auto tokenizer = engine::Tokenizer::make(engine::read_tokenizer_spec(file));
  const auto prompts = makers::golden_prompts(prompts_folder, *tokenizer, shape.n_ctx_train);
  if (verb == "ids") {
    for (const NamedPrompt& prompt : prompts) write_ids(folder, prompt);
    return;
  }
  GoldenFile goldens{.model = std::filesystem::path(model).filename().string(), .prompts = {}};
  for (const NamedPrompt& prompt : prompts)
    goldens.prompts.push_back(read_logits(folder, prompt, shape.vocab_size));
  fmt::print("# {}\n{}", note, makers::golden_text(goldens));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc < 2 ? "" : argv[1];
  if (!(verb == "ids" && argc == 5) && !(verb == "write" && argc == 6)) {
    fmt::print(stderr,
               "usage: make_goldens ids MODEL PROMPTS DIR\n"
               "       make_goldens write MODEL PROMPTS DIR NOTE\n");
    return 2;
  }
  try {
    run(verb, argv[2], argv[3], argv[4], argc == 6 ? argv[5] : "");
  } catch (const Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return exit_code(error.code());
  }
  return 0;
}

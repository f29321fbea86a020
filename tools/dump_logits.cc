// dump_logits - teacher-forced logits as raw f32 [n_rows, vocab_size]. Why: to compare with another
// engine's logits over the same ids (compare_logits, make_goldens; docs/measurements.md).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/engine.h"
#include "tools/makers/teacher_forced.h"

namespace {

using namespace strata;

struct Options {
  std::string model, ids, out, rows, cpu_isa;
  std::string k_codec = "f16", v_codec = "f16";
  uint32_t n_greedy = 0;
  uint32_t chunk_rows = 128;
  uint32_t n_threads = 0;
};

/// Numbers below `end`, one or more, as text. Errors: kIo; kUsage.
template <class Number>
std::vector<Number> read_numbers(const std::string& path, uint64_t end) {
  std::ifstream input(path);
  if (!input) throw Error(ErrorCode::kIo, "cannot open", path);
  std::vector<Number> numbers;
  for (int64_t number = 0; input >> number;) {
    if (number < 0 || static_cast<uint64_t>(number) >= end)
      throw Error(ErrorCode::kUsage, fmt::format("wanted 0 .. {}, found {}", end - 1, number),
                  path);
    numbers.push_back(static_cast<Number>(number));
  }
  if (numbers.empty() || !input.eof()) throw Error(ErrorCode::kUsage, "wanted numbers", path);
  return numbers;
}

void run(const Options& options) {
  const auto codec = [](const std::string& name) {
    return name == "q8_0" ? KvCodec::kQ8_0 : KvCodec::kF16;
  };
  const auto file = engine::GgufFile::open(options.model);
  const auto shape = engine::read_model_spec(file).shape;
  const auto ids = read_numbers<int32_t>(options.ids, shape.vocab_size);
  const uint64_t n_ctx = ids.size() + options.n_greedy;
  std::vector<uint32_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), 0u);
  if (!options.rows.empty()) positions = read_numbers<uint32_t>(options.rows, n_ctx);

  auto engine = engine::Engine::open({.model_path = options.model,
                                      .n_ctx = n_ctx,
                                      .k_codec = codec(options.k_codec),
                                      .v_codec = codec(options.v_codec),
                                      .chunk_rows = options.chunk_rows,
                                      .n_threads = options.n_threads,
                                      .cpu_isa = options.cpu_isa,
                                      .rope = {}});
  engine.load({});
  auto sequence = engine.cache().make_sequence();
  std::ofstream output(options.out, std::ios::binary);
  int32_t likeliest = 0;
  const auto on_row = [&](uint32_t pos, std::span<const float> logits) {
    likeliest = static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
    if (!std::ranges::binary_search(positions, pos)) return;
    output.write(reinterpret_cast<const char*>(logits.data()),
                 static_cast<std::streamsize>(logits.size_bytes()));
  };
  std::vector<uint32_t> heard = positions;  // and the rows that the greedy answer hangs on
  for (uint64_t pos = ids.size() - 1; pos < n_ctx; ++pos)
    heard.push_back(static_cast<uint32_t>(pos));
  std::ranges::sort(heard);
  makers::walk_teacher_forced(engine.walk(), sequence, ids, heard, on_row);
  for (uint32_t i = 1; i < options.n_greedy; ++i)
    makers::walk_teacher_forced(engine.walk(), sequence, std::vector{likeliest}, heard, on_row);
  output.close();
  if (!output) throw Error(ErrorCode::kIo, "cannot write", options.out);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Writes teacher-forced logits as raw f32 [n_rows, vocab_size].", "dump_logits");
  app.add_option("MODEL", options.model, "GGUF file")->required();
  app.add_option("IDS", options.ids, "text file of token ids")->required();
  app.add_option("OUT", options.out, "file to write")->required();
  const CLI::IsMember codecs({"f16", "q8_0"});
  app.add_option("K_CODEC", options.k_codec, "f16 or q8_0")->check(codecs);
  app.add_option("V_CODEC", options.v_codec, "f16 or q8_0")->check(codecs);
  app.add_option("--rows", options.rows, "text file of the positions to write, ascending; all");
  app.add_option("--greedy", options.n_greedy,
                 "tokens of an answer to walk too, always the likeliest");
  app.add_option("-b,--batch-size", options.chunk_rows, "tokens read in one step")
      ->check(CLI::Range(1u, 8192u));
  app.add_option("-t,--threads", options.n_threads, "0 = every CPU");
  app.add_option("--cpu-isa", options.cpu_isa, "scalar, avx2, avx512; the widest");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return exit_code(error.code());
  }
  return 0;
}

// tools/bench_tokenize.cc - how fast a model file's tokenizer reads text, and that its time is
// linear: for texts of one letter, words, spaces, newlines and digits the median processor times of
// n and of 2n bytes, their ratio, and MiB/s. Every text must come back from its tokens before a
// time is printed.
//
//   bench_tokenize MODEL... [--mib N] [--repeats N]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "engine/gguf/gguf_file.h"
#include "engine/text/tokenizer.h"

namespace strata {
namespace {

struct TextKind {
  const char* name;
  std::string_view unit;
};
constexpr TextKind kKinds[] = {
    {"one letter", "a"}, {"words", "The quick brown fox jumps over the lazy dog. "},
    {"spaces", " "},     {"newlines", "\n"},
    {"digits", "7"},     {"ideographs", "\xE6\x9D\xB1"},
};

std::string repeated(std::string_view unit, uint64_t bytes) {
  std::string out;
  out.reserve(bytes + unit.size());
  while (out.size() + unit.size() <= bytes) out += unit;
  return out;
}

/// Processor time of this process, which has one thread: what else the machine does counts less.
double seconds_of(const engine::Tokenizer& tokenizer, const std::string& text) {
  const std::clock_t start = std::clock();
  const auto tokens = tokenizer.encode(text, {.add_special = false});
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool comes_back(const engine::Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.decode(tokenizer.encode(text, {.add_special = false})).ends_with(text);
}

/// False where a text does not come back.
bool print_rows(const std::string& model, uint64_t bytes, uint32_t n_repeats) {
  const auto tokenizer =
      engine::Tokenizer::make(engine::read_tokenizer_spec(engine::GgufFile::open(model)));
  std::printf("%s: %s %s, %u tokens; medians of %u\n", model.c_str(),
              tokenizer->spec().model.c_str(), tokenizer->spec().pre.c_str(),
              tokenizer->vocab_size(), n_repeats);
  std::printf("%-12s %12s %12s %8s %10s\n", "text", "n [ms]", "2n [ms]", "ratio", "MiB/s");
  bool is_right = true;
  for (const TextKind& kind : kKinds) {
    const std::string text = repeated(kind.unit, bytes);
    const std::string twice = repeated(kind.unit, 2 * bytes);
    if (!comes_back(*tokenizer, text) || !comes_back(*tokenizer, twice)) {
      std::printf("%-12s does not come back from its tokens\n", kind.name);
      is_right = false;
      continue;
    }
    std::vector<double> once_s, twice_s;
    for (uint32_t i = 0; i < n_repeats; ++i) {
      once_s.push_back(seconds_of(*tokenizer, text));
      twice_s.push_back(seconds_of(*tokenizer, twice));
    }
    const double once = median(once_s), both = median(twice_s);
    std::printf("%-12s %12.2f %12.2f %8.2f %10.1f\n", kind.name, once * 1e3, both * 1e3,
                both / once, static_cast<double>(twice.size()) / both / (1 << 20));
  }
  return is_right;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  std::vector<std::string> models;
  uint32_t n_mib = 1, n_repeats = 5;
  CLI::App app("How fast a tokenizer reads text, and that its time is linear.");
  app.add_option("models", models, "GGUF files")->required();
  app.add_option("--mib", n_mib, "n, in MiB")->check(CLI::Range(1u, 256u));
  app.add_option("--repeats", n_repeats, "runs of each text")->check(CLI::Range(1u, 1000u));
  CLI11_PARSE(app, argc, argv);
  try {
    bool is_right = true;
    for (const std::string& model : models)
      is_right = strata::print_rows(model, uint64_t{n_mib} << 20, n_repeats) && is_right;
    return is_right ? 0 : 1;
  } catch (const strata::Error& error) {
    (void)std::fprintf(stderr, "error: %s (%s)\n", error.what(), error.where().c_str());
    return strata::exit_code(error.code());
  }
}

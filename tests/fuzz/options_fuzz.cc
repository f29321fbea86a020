// Fuzzes everything that reads a user's options: arguments, environment, config file, and the texts
// of sizes, counts, numbers and logit biases. Every input gives settings or a strata::Error that
// says what, where and what to do.
// Run: options_fuzz -max_len=2048 -rss_limit_mb=2048 -malloc_limit_mb=16 -timeout=10 CORPUS_DIR
// The mutator knows the option table's words, so no corpus has to be kept.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "tools/cli/command_line.h"
#include "tools/cli/request_options.h"
#include "tools/cli/value_readers.h"
#include "tools/cli/verb_functions.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using namespace strata::cli;

void hold(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

/// STRATA_X=value lines as an environment.
GetVariable environment_of(std::string_view text) {
  std::map<std::string, std::string> variables;
  for (const std::string& line : lines_of(text)) {
    const size_t equals = line.find('=');
    if (equals != std::string::npos) variables[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

/// What a verb does with its options before it opens a file.
void use(const VerbSyntax& verb, std::span<const RawValues> sources) {
  const Command command = merge_values(sources);
  check_command(verb, command);
  const auto engine = strata::cli::engine_options(command.settings);
  hold(engine.chunk_rows >= 1 && engine.chunk_rows <= 8192, "rows of a chunk");
  hold(engine.n_ctx <= INT32_MAX, "a context of 32-bit positions");
  const auto sampler = sampler_options(command);
  hold(std::isfinite(sampler.temperature), "a finite temperature");
  hold(sampler.top_p >= 0 && sampler.top_p <= 1, "a share");
  for (const auto& [token, bias] : sampler.logit_bias)
    hold(token >= 0 && !std::isnan(bias), "a bias of a token");
}

void read_values(std::string_view text) {
  if (const auto size = read_size(text)) hold(!text.empty(), "a size from nothing");
  const auto count = read_count(text);
  const auto integer = read_integer(text);
  if (count && integer) hold(static_cast<uint64_t>(*integer) == *count, "one number, one value");
  if (integer) hold(read_integer(std::to_string(*integer)) == integer, "an integer comes back");
  if (const auto real = read_real(text)) hold(std::isfinite(*real), "a finite number");
  if (const auto bias = read_logit_bias(text))
    hold(bias->first >= 0 && !std::isnan(bias->second), "a bias of a token");
  (void)read_switch(text);
}

void run(uint8_t mode, const VerbSyntax& verb, std::string_view text) {
  std::vector<RawValues> sources;
  // The text may hold all three sources, parted by a form feed.
  const auto part = [&] {
    const size_t end = std::min(text.find('\f'), text.size());
    const std::string_view taken = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return taken;
  };
  if (mode == 0 || mode == 3)
    sources.push_back(values_from_arguments(verb, lines_of(mode == 3 ? part() : text)));
  if (mode == 1 || mode == 3)
    sources.push_back(values_from_environment(verb, environment_of(mode == 3 ? part() : text)));
  if (mode == 2 || mode == 3) sources.push_back(values_from_config(verb, text, "fuzz.toml"));
  use(verb, sources);
}

/// Words an input may be made of.
const std::vector<std::string>& words() {
  static const std::vector<std::string> known = [] {
    std::vector<std::string> out = {
        "\n",   "\f",   "=",     " = ",    "\"",         "'''",       "[",       "]",     "true",
        "--",   "-",    "32k",   "1.5GiB", "-1",         "1e400",     "15043+1", "2-inf", "nan",
        "0x10", "1_0",  "{a=1}", "[1,2]",  "2026-01-01", "\"\"\"",    "64TiB",   "f16",   "q8_0",
        "yarn", "none", "\\u00", "\\",     "#",          "[[model]]", "[a.b.c]", "65537", "\xFF"};
    for (const OptionSpec& option : option_table()) {
      for (const std::string& flag : option_flags(option)) out.push_back("\n" + flag + "\n");
      out.push_back("\n--" + std::string(option.name) + "=");
      out.push_back("\n" + environment_name(option) + "=");
      out.push_back("\n" + std::string(option.name) + " = ");
      if (!option.default_text.empty()) out.emplace_back(option.default_text);
    }
    for (const char* section : {"model", "rope", "prompt", "sampling", "saved", "output"})
      out.push_back("\n[" + std::string(section) + "]\n");
    return out;
  }();
  return known;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  std::mt19937 random(seed);
  if (size < 2 || random() % 3 == 0) return LLVMFuzzerMutate(data, size, max_size);
  for (unsigned n = 1 + random() % 4; n > 0; --n) {
    const std::string& word = words()[random() % words().size()];
    if (size + word.size() > max_size) break;
    const size_t at = 2 + random() % (size - 1);
    std::memmove(data + at + word.size(), data + at, size - at);
    std::memcpy(data + at, word.data(), word.size());
    size += word.size();
  }
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const VerbSyntax& verb = kSyntaxes[data[1] % std::size(kSyntaxes)];
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (data[0] % 5 == 4) {
    read_values(text);
    return 0;
  }
  try {
    run(data[0] % 5, verb, text);
  } catch (const strata::Error& error) {
    hold(error.what()[0] != '\0', "an error says what");
    hold(!error.where().empty(), "an error says where");
    hold(!error.remedy().empty(), "an error says what to do");
    const int code = strata::exit_code(error.code());
    hold(code == 2, "a wrong option ends with 2");
  }
  return 0;
}

// tools/serve_soak.cc - tries a `strata serve` that runs on this machine: many streaming clients
// for a time, or hostile ones. Exit code 1 where anything was found.
//
//   serve_soak --port N --pid N [--clients 100] [--seconds 600]
//   serve_soak --port N --pid N --hostile 10000 [--slow-patience 30]
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <string>

#include "base/error.h"
#include "tools/soak/hostile.h"
#include "tools/soak/soak.h"

namespace {

struct Options {
  uint16_t port = 0;
  int pid = 0;
  uint32_t seconds = 600, slow_patience_s = 0;
  uint64_t seed = 1, n_hostile = 0;
  strata::soak::SoakOptions soak;
  strata::soak::HostileOptions hostile;
};

/// Prints what came of it; true where nothing was found.
bool try_server(Options& options) {
  strata::soak::Target target;
  target.port = options.port;
  target.process = options.pid;
  if (options.n_hostile > 0) {
    options.hostile.n_cases = options.n_hostile;
    options.hostile.seed = options.seed;
    options.hostile.slow_patience = std::chrono::seconds(options.slow_patience_s);
    const auto report = strata::soak::run_hostile(target, options.hostile);
    std::fputs(strata::soak::text_of(report).c_str(), stdout);
    return report.findings.count() == 0;
  }
  options.soak.duration = std::chrono::seconds(options.seconds);
  options.soak.seed = options.seed;
  const auto report = strata::soak::run_soak(target, options.soak);
  std::fputs(strata::soak::text_of(report).c_str(), stdout);
  return report.findings.count() == 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Tries a `strata serve` that runs on this machine");
  app.add_option("--port", options.port, "of the server, on 127.0.0.1")->required();
  app.add_option("--pid", options.pid, "the server's process")->required();
  app.add_option("--clients", options.soak.n_clients, "that ask at once")
      ->check(CLI::Range(1u, 500u));
  app.add_option("--seconds", options.seconds, "that they ask")->check(CLI::Range(1u, 1000000u));
  app.add_option("--words", options.soak.n_words_max, "of a prompt at most")
      ->check(CLI::Range(8u, 100000u));
  app.add_option("--tokens", options.soak.n_tokens_max, "of an answer at most")
      ->check(CLI::Range(8u, 100000u));
  app.add_option("--hostile", options.n_hostile, "send so many hostile requests instead");
  app.add_option("--slow", options.hostile.n_slow,
                 "clients beside them that send a byte now and then")
      ->check(CLI::Range(0u, 400u));
  app.add_option("--slow-patience", options.slow_patience_s,
                 "seconds within which the server is to end each of those; 0 = not judged");
  app.add_option("--seed", options.seed, "of everything that is drawn");
  CLI11_PARSE(app, argc, argv);
  try {
    return try_server(options) ? 0 : 1;
  } catch (const strata::Error& error) {
    std::fprintf(stderr, "error: %s [%s]\n", error.what(), error.where().c_str());
    return strata::exit_code(error.code());
  }
}

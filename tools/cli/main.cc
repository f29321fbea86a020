// The `strata` program.
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/cli/program.h"
#include "tools/cli/thread_caches.h"

int main(int argc, char** argv) try {
  if (argc > 1 && std::string_view(argv[1]) == "serve")
    strata::cli::restart_without_thread_caches(argv);
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  const auto get = [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  return strata::cli::run_program(arguments, get);
} catch (const std::bad_alloc&) {
  return strata::cli::report_no_memory(false);
}

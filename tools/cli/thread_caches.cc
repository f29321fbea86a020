#include "tools/cli/thread_caches.h"

#include <sys/auxv.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace strata::cli {

void restart_without_thread_caches(char** arguments) {
  constexpr const char* kTunables = "GLIBC_TUNABLES";
  // Of a program with more rights than who starts it glibc may take the variable away: no end.
  if (::getauxval(AT_SECURE) != 0 || std::getenv(kTunables) != nullptr) return;
  std::error_code failure;  // by its own path, since a process is named after that
  const auto program = std::filesystem::read_symlink("/proc/self/exe", failure);
  if (failure || ::setenv(kTunables, "glibc.malloc.tcache_count=0", 1) != 0) return;
  ::execv(program.c_str(), arguments);
}

}  // namespace strata::cli

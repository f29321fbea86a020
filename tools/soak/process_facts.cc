#include "tools/soak/process_facts.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "base/error.h"

namespace strata::soak {

ProcessFacts process_facts(pid_t process) {
  const std::string path = fmt::format("/proc/{}/stat", process);
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line))
    throw Error(ErrorCode::kIo, "the process cannot be looked at", path,
                "name the process of the server (--pid)");
  // The name of the program may hold anything; behind its bracket fields 3 and on are one word each
  // (proc(5)).
  const size_t behind_name = line.rfind(')') + 2;
  std::istringstream fields(line.substr(behind_name));
  std::string field;
  ProcessFacts facts;
  double ticks = 0;
  for (int i = 3; i <= 24 && fields >> field; ++i) {
    if (i == 14 || i == 15) ticks += std::stod(field);
    if (i == 20) facts.n_threads = static_cast<uint32_t>(std::stoul(field));
    if (i == 24)
      facts.resident_bytes = std::stoull(field) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  facts.cpu_s = ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return facts;
}

}  // namespace strata::soak

#include "tools/serve/planned_parallel.h"

#include <algorithm>

#include "base/error.h"

namespace strata::serve {

uint32_t planned_parallel(const std::function<PlannedContext(uint32_t n_parallel)>& plan) {
  for (uint32_t n = kPlannedParallelMax;;) {
    try {
      const PlannedContext planned = plan(n);
      const uint64_t n_most =
          std::min<uint64_t>(planned.n_ctx / kPlannedShareTokens, planned.step_rows / 2);
      if (n <= std::max<uint64_t>(n_most, 1)) return n;
      n = static_cast<uint32_t>(std::max<uint64_t>(n_most, 1));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDoesNotFit || n == 1) throw;
      n /= 2;
    }
  }
}

}  // namespace strata::serve

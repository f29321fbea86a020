
#include <cstdint>

namespace strata::testing {

uint64_t n_allocations();

}  // namespace strata::testing

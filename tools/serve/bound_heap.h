// tools/serve/bound_heap.h - keeps the heap of a server with many threads near what it holds.
#pragma once

namespace strata::serve {

/// Before any thread. Starts the program anew, with the same arguments, where glibc can be told
/// only so (GLIBC_TUNABLES in the environment = somebody has told it, and it stays as it is).
void bound_heap();

}  // namespace strata::serve

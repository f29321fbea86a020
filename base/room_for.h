// base/room_for.h - room in a vector before something is taken that a failed allocation would lose.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace strata {

/// Room for n elements in all, amortised: appending up to that many cannot fail. Errors: bad_alloc.
template <class T>
void make_room_for(std::vector<T>& list, size_t n) {
  if (list.capacity() < n) list.reserve(std::max(n, 2 * list.capacity()));
}

}  // namespace strata

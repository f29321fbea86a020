// base/seconds_since.h - what a steady clock says has passed.
#pragma once

#include <chrono>

namespace strata {

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace strata

// tests/allocation/refused_memory.h - some work, again and again, while another allocation of it is
// refused each time: it fails in a way that a user can be told of, or does without; it leaves
// nothing behind, and done once more it comes to what it always does.
#pragma once

#include <functional>
#include <string>

namespace strata::testing {

struct Work {
  std::string name;
  /// Before each time, while nothing is refused. May be empty.
  std::function<void()> prepare = {};
  /// What it comes to, which is the same every time.
  std::function<std::string()> run;
  /// After each time, however it ended: what is held and may not leak, or is damaged. The same
  /// every time. May be empty.
  std::function<std::string()> left = {};
  /// What it comes to where it did without something: a context that was not saved, say. May be
  /// empty: nothing but the same.
  std::function<bool(const std::string&)> is_enough = {};
  bool keeps_nothing = true;  // neither memory of operator new nor descriptors
};

/// Refuses the k-th allocation and, the next time, all from the k-th on: of every k where they are
/// few, else STRATA_ALLOCATIONS of them (n_default where that is not set), of a seed that is
/// printed where something fails.
void expect_survives_refusals(const Work& work, uint64_t n_default = 60);

/// Descriptors that this process has open.
uint64_t n_open_files();

}  // namespace strata::testing

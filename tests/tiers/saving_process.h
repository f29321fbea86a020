// tests/tiers/saving_process.h - processes of their own that save packs and a session, for tests
// that end them, or their disk, in the middle of it.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "tests/tiers/child_process.h"
#include "tests/tiers/failing_calls.h"
#include "tests/tiers/rows_fixture.h"

namespace strata::tiers {

/// Real calls; fsync as well where asked for, which is most of the time of a save.
class RealCalls : public WatchedCalls {
 public:
  RealCalls(bool has_unnamed, bool syncs) : syncs_(syncs) { has_unnamed_files = has_unnamed; }

 protected:
  int sync_for_real(int descriptor) override { return syncs_ ? ::fsync(descriptor) : 0; }

 private:
  bool syncs_;
};

/// Runs `body` in a process of its own. Its exit code is 1 where a test failed or it threw.
inline pid_t start_process(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  int code = 1;
  try {
    body();
    code = ::testing::Test::HasFailure() ? 1 : 0;
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
  ::_exit(code);
}

inline int wait_for_end(pid_t process) {
  int status = 0;
  EXPECT_EQ(::waitpid(process, &status, 0), process);
  return status;
}

/// Saves trial's text in two packs, rows of the first one, and then the session "book", telling
/// each step as a byte.
inline void save_trial(const std::string& path, uint64_t trial, DurableCalls& calls,
                       const std::function<void(char)>& tell) {
  const auto text = random_text(trial, 500);
  const uint64_t pack_bytes = pack_bytes_max(run_of(small_shape(), text, 0, 256));
  PackDirectory packs = PackDirectory::open(path, {.budget_bytes = 6 * pack_bytes}, calls);
  tell('o');
  auto names = std::vector{save_run(packs, run_of(small_shape(), text, 0, 256))};
  save_rows(packs, names[0], small_rows(), 0, 1);
  names.push_back(save_run(packs, run_of(small_shape(), text, 256, 500)));
  tell('p');
  packs.pin("book", {small_shape().model, std::to_string(trial), text, names});
  tell('s');
}

/// Looks at what save_trial() left where its process or the power ended in its middle, having told
/// so much: what is there is whole, and what was told is there. `before` is what the session held
/// until then. Returns what it holds.
inline std::string look_after_end(const std::string& path, uint64_t trial, const std::string& told,
                                  const std::string& before) {
  WatchedCalls calls;
  PackDirectory packs = PackDirectory::open(path, {}, calls);
  const std::string what = "trial " + std::to_string(trial) + " told " + told + ": ";
  for (const std::string& name : names_in(path))
    demand(is_pack_file_name(name) || !pack_of_rows_file(name).empty() || name == "book.session",
           what + name + " is left");
  demand(problems_of(packs).empty(), what + problems_of(packs));
  const FoundContext found = packs.find(small_shape(), {}, random_text(trial, 500));
  expect_whole(found);
  demand(!::testing::Test::HasFailure(), what + "the blocks are not what was saved");
  demand(found.n_positions == 500 || !told.starts_with("op"), what + "published packs are gone");
  const auto session = packs.session("book");
  const std::string held = session ? session->model_name : "";
  const bool is_this = held == std::to_string(trial);
  demand(is_this || (held == before && !told.starts_with("ops")),
         what + "the session holds '" + held + "' after '" + before + "'");
  return held;
}

struct Pipe {
  std::array<int, 2> ends{};
  Pipe() { EXPECT_EQ(::pipe(ends.data()), 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void tell(char step) { EXPECT_EQ(::write(ends[1], &step, 1), 1); }
  /// What was told, after the teller's end.
  std::string told() {
    std::array<char, 16> steps{};
    tell('.');
    const ssize_t n = ::read(ends[0], steps.data(), steps.size());
    return {steps.data(), static_cast<size_t>(std::max<ssize_t>(n, 0))};
  }
};

}  // namespace strata::tiers

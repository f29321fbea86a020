// tests/tools/eval_fixture.h - a split runner over a model of the zoo or a recall model.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/zoo_fixture.h"
#include "tools/eval/split_runner.h"

namespace strata::eval::testing {

inline Contender contender(const std::string& method, index::Budget budget) {
  return {.method = index::find_method(method),
          .rule = {.budget = budget},
          .method_name = method,
          .budget_text = "asked"};
}

/// A runner with its threads.
class TestRunner {
 public:
  TestRunner(const engine::Model& model, uint64_t n_context, uint64_t n_rest,
             std::vector<double> held_shares = {})
      : pool_(2),
        runner_(model, *cpu_attn::available_kernels().back(), pool_,
                {.chunk_rows = 128,
                 .n_context = n_context,
                 .n_rest = n_rest,
                 .held_shares = std::move(held_shares)}) {}
  SplitRunner& operator*() { return runner_; }
  SplitRunner* operator->() { return &runner_; }

 private:
  ThreadPool pool_;
  SplitRunner runner_;
};

}  // namespace strata::eval::testing

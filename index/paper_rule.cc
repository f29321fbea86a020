#include "index/paper_rule.h"

#include "base/check.h"
#include "base/error.h"

namespace strata::index {
namespace {

std::vector<LayerMode> first_two_dense() { return {LayerMode::kDense, LayerMode::kDense}; }

}  // namespace

Rule paper_rule(Method method) {
  using Kind = Budget::Kind;
  switch (method) {
    case Method::kQuest:
      return {.budget = {Kind::kTokens, 1024},
              .n_sink_blocks = 0,
              .n_window_blocks = 1,
              .layers = first_two_dense()};
    case Method::kCuboid:
      return {.budget = {Kind::kTokens, 2048},
              .n_sink_blocks = 2,
              .n_window_blocks = 2,
              .layers = first_two_dense()};
    case Method::kMean:
      return {.budget = {Kind::kTokens, 2048}, .pool = Pool::kMax, .n_window_blocks = 1};
    case Method::kPq:
      return {.budget = {Kind::kShare, 0.1}, .window_share = 0.5};
    case Method::kRabitq:
    case Method::kRabitqTail:
      return {.budget = {Kind::kTokens, 420}, .n_sink_blocks = 2, .n_window_blocks = 8};
    case Method::kCluster:
    case Method::kClusterTail:
      return {.budget = {Kind::kShare, 0.018}, .n_window_blocks = 2};
    case Method::kSparq:
      return {.budget = {Kind::kTokens, 128}, .n_sink_blocks = 0, .n_window_blocks = 1};
    case Method::kRecent:
      return {.budget = {Kind::kTokens, 1024}, .window_share = 1};
    case Method::kOracle:
      throw Error(ErrorCode::kUsage, "the oracle is no paper's method", "--kv-budget",
                  "name its budget, such as 1024");
  }
  STRATA_CHECK(false, "method %d", static_cast<int>(method));
}

}  // namespace strata::index

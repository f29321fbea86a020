// Why a plan is not in time, and what would make it so.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "engine/byte_text.h"
#include "planner/placement/pins.h"
#include "tools/cli/plan_answer.h"
#include "tools/cli/plan_words.h"

namespace strata::cli {
namespace {

constexpr uint64_t kGrain = uint64_t{64} << 20;  // memory is proposed to so many bytes

struct Limit {
  const char* option;
  const char* what;
  double planner::PlacementProblem::*of_problem;
  double engine::PlacementRequest::*of_request;
  planner::StepTime planner::PlacementPlan::*time;
};
constexpr Limit kLimits[] = {
    {"ttft-max", "the first token", &planner::PlacementProblem::ttft_max_ms,
     &engine::PlacementRequest::ttft_max_ms, &planner::PlacementPlan::prompt},
    {"tpot-max", "a token", &planner::PlacementProblem::tpot_max_ms,
     &engine::PlacementRequest::tpot_max_ms, &planner::PlacementPlan::token}};

/// As an argument of the limit, rounded up.
std::string time_argument(double ms) {
  return ms < 1e4 ? fmt::format("{:.0f}ms", std::ceil(ms * 1.005))
                  : fmt::format("{:.0f}s", std::ceil(ms * 1.005 / 1e3));
}

bool is_in_time(const PlanSubject& subject, const engine::PlacementRequest& request) {
  const auto answer = find_plan(subject, request, false);
  return answer && answer->is_in_time();
}

/// The least of a room, up to `most`, with which there is a plan in time; 0 where there is none.
uint64_t least_room(const PlanSubject& subject, uint64_t engine::PlacementRequest::*room,
                    uint64_t most) {
  engine::PlacementRequest request = subject.request;
  uint64_t lacks = request.*room / kGrain, does = most / kGrain;
  request.*room = does * kGrain;
  if (does <= lacks || !is_in_time(subject, request)) return 0;
  while (does - lacks > std::max<uint64_t>(1, does / 128)) {
    const uint64_t middle = lacks + (does - lacks) / 2;
    request.*room = middle * kGrain;
    (is_in_time(subject, request) ? does : lacks) = middle;
  }
  return does * kGrain;
}

/// What would hold all of it.
uint64_t ample_bytes(const planner::PlacementProblem& problem) {
  const double gb = problem.weights_gb() + problem.kv_gb() + problem.always_weights_gb +
                    problem.dram_fixed_gb + problem.kv_beside_gb + problem.index_gb +
                    problem.stream_slots_gb;
  return static_cast<uint64_t>(gb * 1e9) + 2 * kGrain;
}

std::string memory_remedy(const Command& command, const PlanSubject& subject,
                          const planner::PlacementProblem& problem) {
  std::string text;
  const auto propose = [&](const char* option, uint64_t bytes) {
    if (bytes == 0) return;
    const std::string change = fmt::format("--{} {}", option, engine::size_argument(bytes));
    const std::string_view replaced[] = {option};
    text += fmt::format("{}{} ({})", text.empty() ? "use " : ", or ", change,
                        command_line(command, "plan", kPlan, replaced, change));
  };
  if (problem.has_device)
    propose("hbm", least_room(subject, &engine::PlacementRequest::hbm_bytes,
                              subject.request.device->free_bytes));
  propose("dram", least_room(subject, &engine::PlacementRequest::dram_bytes, ample_bytes(problem)));
  return text;
}

}  // namespace

Error limit_refusal(const Command& command, const PlanSubject& subject, const PlanAnswer& late) {
  std::string what, where, slower;
  for (const Limit& limit : kLimits) {
    const double most = late.problem.*limit.of_problem;
    if (most <= 0) continue;
    engine::PlacementRequest alone = subject.request;
    for (const Limit& other : kLimits)
      if (other.option != limit.option) alone.*other.of_request = 0;
    const auto best = find_plan(subject, alone, false);
    const double ms = best ? (best->plan.*limit.time).ms : 0;
    if (!best || best->is_in_time()) continue;
    what += fmt::format("{}--{} {} cannot be kept: {} takes {} at best", what.empty() ? "" : "; ",
                        limit.option, time_text(most), limit.what, time_text(ms));
    slower += fmt::format("{}--{} {}", slower.empty() ? "" : " ", limit.option, time_argument(ms));
    if (where.empty()) where = command.where(limit.option);
  }
  if (what.empty()) {  // each of them alone can be kept
    what = fmt::format(
        "--ttft-max {} and --tpot-max {} cannot be kept together: nearest is a first token after "
        "{}, then {} per token",
        time_text(late.problem.ttft_max_ms), time_text(late.problem.tpot_max_ms),
        time_text(late.plan.prompt.ms), time_text(late.plan.token.ms));
    where = command.where("tpot-max");
    slower = fmt::format("--ttft-max {} --tpot-max {}",
                         time_argument(std::max(late.plan.prompt.ms, late.problem.ttft_max_ms)),
                         time_argument(std::max(late.plan.token.ms, late.problem.tpot_max_ms)));
  }
  const std::string memory = memory_remedy(command, subject, late.problem);
  if (memory.empty()) what += "; no more memory would do";
  return {ErrorCode::kDoesNotFit, what, where,
          memory.empty() ? "use " + slower : memory + ", or " + slower};
}

}  // namespace strata::cli

#include "tools/cli/plan_answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "engine/byte_text.h"
#include "planner/placement/pins.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

constexpr double kMostBytes = 1ull << 46;  // as of the options of sizes
constexpr double kMostTimes = 1000;

void change_room(const PlanChange& change, engine::PlacementRequest& request) {
  const std::string_view name = change.resource->name;
  uint64_t& bytes = name == "hbm"    ? request.hbm_bytes
                    : name == "dram" ? request.dram_bytes
                                     : request.nvme_bytes;
  const double wanted = change.amount + (change.is_absolute ? 0 : static_cast<double>(bytes));
  bytes = static_cast<uint64_t>(std::clamp(wanted, 0.0, kMostBytes));
}

const planner::PlanResource* resource_of(std::string_view name) {
  for (const planner::PlanResource& resource : planner::plan_resources())
    if (name == resource.name) return &resource;
  return nullptr;
}

/// +20 % = 1.2 times; nothing where that is no share, or nothing would be left.
std::optional<double> read_times(std::string_view text, double sign) {
  if (!text.ends_with('%')) return std::nullopt;
  const auto percent = read_real(text.substr(0, text.size() - 1));
  if (!percent || *percent < 0) return std::nullopt;
  const double times = 1 + sign * *percent / 100;
  if (times <= 0 || times > kMostTimes) return std::nullopt;
  return times;
}

}  // namespace

bool PlanAnswer::is_in_time() const {
  return planner::lateness(problem, plan.prompt.ms, plan.token.ms) == 0;
}

PlanChange read_plan_change(std::string_view text, const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kUsage, fmt::format("{}, found '{}'", what, text), where,
                "write it as dram=+32GiB, hbm=24GiB or nvme_read=+20%");
  };
  const size_t equals = text.find('=');
  PlanChange change{resource_of(text.substr(0, equals))};
  if (equals == std::string_view::npos || change.resource == nullptr) {
    std::string names;
    for (const planner::PlanResource& resource : planner::plan_resources())
      names += fmt::format("{}{}", names.empty() ? "" : ", ", resource.name);
    refuse("--what-if wants PART=CHANGE, a part being one of " + names);
  }
  std::string_view value = text.substr(equals + 1);
  const bool is_signed = value.starts_with('+') || value.starts_with('-');
  const double sign = value.starts_with('-') ? -1 : 1;
  if (is_signed) value.remove_prefix(1);
  if (!change.resource->is_room) {
    const auto times = is_signed ? read_times(value, sign) : std::nullopt;
    if (!times) refuse("--what-if wants how much quicker, such as +20%");
    change.amount = times.value_or(1);
    return change;
  }
  const auto bytes = read_size(value);
  if (!bytes || static_cast<double>(*bytes) > kMostBytes)
    refuse("--what-if wants a size, such as +32GiB (at most 64TiB)");
  change.is_absolute = !is_signed;
  change.amount = sign * static_cast<double>(bytes.value_or(0));
  return change;
}

std::optional<PlanAnswer> find_plan(const PlanSubject& subject,
                                    const engine::PlacementRequest& request, bool with_duals,
                                    std::span<const PlanChange> changes) {
  const auto begin = std::chrono::steady_clock::now();
  engine::PlacementRequest changed = request;
  for (const PlanChange& change : changes)
    if (change.resource->is_room) change_room(change, changed);
  auto problems = engine::placement_problems(subject.model, changed);
  for (const PlanChange& change : changes)
    if (!change.resource->is_room)
      for (planner::PlacementProblem& problem : problems)
        planner::change_resource(*change.resource, change.amount, problem);
  auto plan = planner::plan_placement(problems, with_duals);
  if (!plan) return std::nullopt;
  const auto taken = std::chrono::steady_clock::now() - begin;
  const size_t choice = plan->choice;
  return PlanAnswer{problems[choice], *std::move(plan),
                    std::chrono::duration<double, std::milli>(taken).count()};
}

uint64_t longest_context(const PlanSubject& subject, double tokens_per_s) {
  engine::PlacementRequest request = subject.request;
  const auto rate_of = [&](uint64_t n_ctx) {
    request.n_ctx = n_ctx;
    request.n_out = std::min(subject.request.n_out, n_ctx / 2);
    const auto answer = find_plan(subject, request, false);
    return answer && answer->is_in_time() ? answer->tokens_per_s() : 0;
  };
  const uint64_t most = subject.request.n_ctx;
  if (rate_of(most) >= tokens_per_s) return most;
  uint64_t holds = 0, exceeds = most / kExtentPositions + 1;
  while (exceeds - holds > 1) {
    const uint64_t middle = holds + (exceeds - holds) / 2;
    (rate_of(middle * kExtentPositions) >= tokens_per_s ? holds : exceeds) = middle;
  }
  if (holds > 0) return holds * kExtentPositions;
  const uint64_t least = std::min<uint64_t>(kExtentPositions, most);
  const double rate = rate_of(least);
  if (rate == 0)
    throw Error(
        ErrorCode::kDoesNotFit, fmt::format("not even a context of {} tokens has a plan", least),
        "--min-rate",
        fmt::format("leave --min-rate out and use -c {}: what is missing is said then", least));
  throw Error(ErrorCode::kDoesNotFit,
              fmt::format("{:.3g} tokens/s are not reached: even behind {} tokens it is {:.3g}",
                          tokens_per_s, least, rate),
              "--min-rate", fmt::format("use --min-rate {:.3g}", std::floor(rate * 100) / 100));
}

}  // namespace strata::cli

// Why there is no plan, and the smallest changes with which there would be one.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "engine/byte_text.h"
#include "engine/machine.h"
#include "tools/cli/plan_report.h"

namespace strata::cli {
namespace {

using planner::PlacementProblem;
using planner::Shortage;

constexpr uint64_t kStep = kExtentPositions;  // contexts are proposed in whole extents

uint64_t upper_bytes(double gb) { return static_cast<uint64_t>(std::ceil(gb * 1e9)); }
std::string upper_text(double gb) { return engine::bytes_text(upper_bytes(gb)); }
std::string upper_argument(double gb) { return engine::size_argument(upper_bytes(gb)); }

bool is_plannable(const PlanSubject& subject, const engine::PlacementRequest& request) {
  const auto problems = engine::placement_problems(subject.model, request);
  return std::ranges::any_of(problems,
                             [](const PlacementProblem& p) { return !planner::shortage(p); });
}

bool is_pinned(const PlanSubject& subject) {
  return !subject.request.pins.empty() || subject.request.kv_pin;
}

/// Then a machine without the card takes none of it.
bool is_pinned_to_hbm(const PlanSubject& subject) {
  const auto is_there = [](const planner::TierSet& tiers) {
    return tiers == planner::just(planner::PlanTier::kHbm);
  };
  return subject.request.kv_pin == planner::PlanTier::kHbm ||
         std::ranges::any_of(subject.request.pins, [&](const planner::PiecePins& pieces) {
           return std::ranges::any_of(pieces, is_there);
         });
}

struct SmallerContext {
  uint64_t n_ctx = 0, n_out = 0;
};

/// The largest context in whole extents below the one that was asked for; 0 where none does.
SmallerContext largest_context(const PlanSubject& subject) {
  const auto answer_of = [&](uint64_t n_ctx) { return std::min(subject.request.n_out, n_ctx / 2); };
  engine::PlacementRequest request = subject.request;
  uint64_t fits = 0, exceeds = request.n_ctx / kStep + 1;
  while (exceeds - fits > 1) {
    const uint64_t middle = fits + (exceeds - fits) / 2;
    request.n_ctx = middle * kStep;
    request.n_out = answer_of(request.n_ctx);
    (is_plannable(subject, request) ? fits : exceeds) = middle;
  }
  if (fits * kStep >= subject.request.n_ctx) return {};
  return {fits * kStep, answer_of(fits * kStep)};
}

engine::PlacementRequest unpinned(const engine::PlacementRequest& request) {
  engine::PlacementRequest free = request;
  free.pins.clear();
  free.kv_pin.reset();
  return free;
}

/// By the CPU of this machine, which pins into a card's memory do not survive.
bool is_plannable_without_device(const PlanSubject& subject) {
  engine::PlacementRequest alone =
      is_pinned_to_hbm(subject) ? unpinned(subject.request) : subject.request;
  alone.device.reset();
  alone.hbm_bytes = 0;
  alone.may_stream = alone.may_spill = true;
  alone.dram_bytes = std::min(alone.dram_bytes, engine::available_dram_bytes());
  return is_plannable(subject, alone);
}

/// The problem that lacks least.
PlacementProblem nearest_problem(const PlanSubject& subject,
                                 const engine::PlacementRequest& request) {
  const auto problems = engine::placement_problems(subject.model, request);
  const auto lacking = [](const PlacementProblem& p) {
    const auto lacks = planner::shortage(p);
    if (!lacks) return 0.0;
    const auto beyond = [](const std::optional<double>& wanted, double gb) {
      return wanted ? std::max(0.0, *wanted - gb) : 0;
    };
    return beyond(lacks->hbm_gb, p.hbm_gb) + beyond(lacks->dram_gb, p.dram_gb) +
           beyond(lacks->weights_cap_gb, p.weights_cap_gb) + beyond(lacks->kv_cap_gb, p.kv_cap_gb);
  };
  return *std::ranges::min_element(problems, {}, lacking);
}

/// What is typed instead of the options of these names; a text that leaves them out is empty.
struct Change {
  std::string text;
  std::vector<std::string_view> replaced;
  bool leaves_pins = false;  // they are among the names

  Change with(const Change& other) const {
    Change both{text.empty() ? other.text : text + " " + other.text, replaced};
    both.replaced.insert(both.replaced.end(), other.replaced.begin(), other.replaced.end());
    return both;
  }
};

Change room_change(std::string_view option, double gb) {
  return {fmt::format("--{} {}", option, upper_argument(gb)), {option}};
}

/// The options that must be raised whatever else changes.
Change raised(const Shortage& lacks) {
  Change change;
  const auto add = [&](std::string_view option, const std::optional<double>& gb) {
    if (gb) change = change.with(room_change(option, *gb));
  };
  add("hbm", lacks.hbm_gb);
  add("weights-dram", lacks.weights_cap_gb);
  add("kv-dram", lacks.kv_cap_gb);
  return change;
}

Change without_pins(Change change) {
  change.replaced.insert(change.replaced.end(), {"pin", "n-gpu-layers", "kv-tier"});
  change.leaves_pins = true;
  return change;
}

Change without_device() { return {"--device none", {"device", "hbm"}}; }

/// Rooms that would do, the smallest change first; else a machine without the card, where no pin
/// wants it.
std::vector<Change> room_changes(const PlanSubject& subject, const Shortage& lacks,
                                 bool may_leave_device) {
  const Change must = raised(lacks);
  std::vector<Change> no_device;
  if (lacks.hbm_gb && may_leave_device) no_device.push_back(without_device());
  const auto& device = subject.request.device;
  if (device && lacks.hbm_gb && upper_bytes(*lacks.hbm_gb) > device->free_bytes)
    return no_device;  // the card has no more
  std::vector<Change> changes;
  if (lacks.nvme_gb && lacks.dram_gb && subject.request.kv_pin == planner::PlanTier::kNvme)
    return {must.with(room_change("nvme-budget", *lacks.nvme_gb))
                .with(room_change("dram", *lacks.dram_gb))};
  if (lacks.nvme_gb) changes.push_back(must.with(room_change("nvme-budget", *lacks.nvme_gb)));
  if (lacks.dram_gb) {
    changes.push_back(must.with(room_change("dram", *lacks.dram_gb)));
  } else if (!must.text.empty()) {
    if (!lacks.nvme_gb) changes.push_back(must);
    changes.insert(changes.end(), no_device.begin(), no_device.end());
  }
  return changes;
}

std::vector<Change> changes_of(const PlanSubject& subject, const Shortage& lacks) {
  const bool may_leave_device = lacks.hbm_gb && is_plannable_without_device(subject);
  const bool wants_device = is_pinned_to_hbm(subject);
  std::vector<Change> changes = room_changes(subject, lacks, may_leave_device && !wants_device);
  const engine::PlacementRequest free = unpinned(subject.request);
  if (is_pinned(subject) && is_plannable(subject, free)) changes.push_back(without_pins({}));
  engine::PlacementRequest quantised = subject.request;
  quantised.codecs = {{KvCodec::kQ8_0, KvCodec::kQ8_0}};
  if (subject.model.spec.shape.head_dim % kScaleGroup == 0 && is_plannable(subject, quantised))
    changes.push_back({"-ctk q8_0 -ctv q8_0", {"cache-type-k", "cache-type-v"}});
  if (const SmallerContext smaller = largest_context(subject); smaller.n_ctx > 0) {
    Change change{fmt::format("-c {}", smaller.n_ctx), {"ctx-size"}};
    if (smaller.n_out < subject.request.n_out)
      change = change.with({fmt::format("-n {}", smaller.n_out), {"predict"}});
    changes.push_back(std::move(change));
  }
  if (may_leave_device && wants_device) changes.push_back(without_pins(without_device()));
  if (!changes.empty() || !is_pinned(subject)) return changes;
  // No card has room for what is pinned there, and without pins more is missing.
  if (const auto less = planner::shortage(nearest_problem(subject, free)))
    for (Change& change : room_changes(subject, *less, may_leave_device))
      changes.push_back(without_pins(std::move(change)));
  return changes;
}

std::string remedy(const PlanSubject& subject, const Shortage& lacks, const Command* command) {
  std::string text;
  for (const Change& change : changes_of(subject, lacks)) {
    const bool is_first = text.empty();
    if (!is_first) text += ", or ";
    constexpr const char* kPins = "--pin, -ngl and --kv-tier";
    if (change.text.empty()) {
      text += fmt::format("leave {} out", kPins);
    } else {
      text += (is_first ? "use " : "") + change.text;
      if (change.leaves_pins) text += fmt::format(" without {}", kPins);
    }
    if (is_first && command != nullptr)
      text +=
          fmt::format(" ({})", command_line(*command, "plan", kPlan, change.replaced, change.text));
  }
  return text.empty() ? "use a smaller model, or a machine with more memory" : text;
}

std::string dram_text(const PlanSubject& subject, const PlacementProblem& problem, double needed) {
  const bool passes = problem.may_stream && problem.stream_slots_gb < problem.weights_gb();
  const double for_weights =
      problem.always_weights_gb + (passes ? problem.stream_slots_gb : problem.weights_gb());
  const double for_buffers = problem.dram_fixed_gb;
  if (for_weights + for_buffers > problem.dram_gb)
    return fmt::format(
        "the model alone needs {} of memory, {}: {} for weights and {} for buffers; there is {}",
        upper_text(for_weights + for_buffers),
        problem.may_stream ? "where only two layers of it are there at a time"
                           : "for all of its weights must be there",
        upper_text(for_weights), upper_text(for_buffers), upper_text(problem.dram_gb));
  return fmt::format(
      "a context of {} tokens needs at least {} of memory, where weights are read from the file "
      "and K and V go to disk as far as they may; there is {} (and {} of disk)",
      engine::grouped_number(subject.request.n_ctx), upper_text(needed),
      upper_text(problem.dram_gb), upper_text(problem.nvme_gb));
}

}  // namespace

Error plan_refusal(const PlanSubject& subject, const Command* command) {
  const PlacementProblem problem = nearest_problem(subject, subject.request);
  const auto lacks = planner::shortage(problem);
  if (!lacks)  // an odd block more than any whole one leaves
    return {
        ErrorCode::kDoesNotFit, "no placement of whole layers and blocks was found", "--dram",
        fmt::format("use --dram {}", upper_argument(problem.dram_gb + problem.stream_slots_gb))};
  if (lacks->hbm_gb)
    return {ErrorCode::kDoesNotFit,
            fmt::format("a step needs {} of the device's memory for its buffers, the output head "
                        "and {}; there is {}",
                        upper_text(*lacks->hbm_gb),
                        is_pinned(subject) ? "what is pinned there" : "two layers",
                        upper_text(problem.hbm_gb)),
            "--hbm", remedy(subject, *lacks, command)};
  if (lacks->weights_cap_gb)
    return {ErrorCode::kDoesNotFit,
            fmt::format("weights take at least {} of memory; they may have {}",
                        upper_text(*lacks->weights_cap_gb), upper_text(problem.weights_cap_gb)),
            "--weights-dram", remedy(subject, *lacks, command)};
  if (lacks->kv_cap_gb)
    return {ErrorCode::kDoesNotFit,
            fmt::format("K and V of {} tokens take at least {} of memory; they may have {}",
                        engine::grouped_number(subject.request.n_ctx),
                        upper_text(*lacks->kv_cap_gb), upper_text(problem.kv_cap_gb)),
            "--kv-dram", remedy(subject, *lacks, command)};
  return {ErrorCode::kDoesNotFit, dram_text(subject, problem, lacks->dram_gb.value_or(0)), "--dram",
          remedy(subject, *lacks, command)};
}

}  // namespace strata::cli

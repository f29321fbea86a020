// `strata plan`: what would live where, how fast that would be, and what limits it.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "engine/byte_text.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/plan_answer.h"
#include "tools/cli/plan_page.h"
#include "tools/cli/plan_report.h"
#include "tools/cli/program.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

/// The error's object, with what readers of a plan look for.
std::string refusal_json(const Error& error) {
  auto json = nlohmann::ordered_json::parse(report_error(error).json);
  json["feasible"] = false;
  json["remedy"] = error.remedy();
  return json_line(json);
}

/// With --min-rate: the context is as long as that allows.
void shorten_context(const Command& command, PlanSubject& subject) {
  const double rate = command.settings.min_rate;
  if (!command.is_set("min-rate")) return;
  if (rate <= 0)
    throw Error(ErrorCode::kUsage, "--min-rate wants tokens per second above 0, found 0",
                command.where("min-rate"), "use --min-rate 5, or leave it out");
  subject.request.n_ctx = longest_context(subject, rate);
  subject.request.n_out = std::min(subject.request.n_out, subject.request.n_ctx / 2);
  // A card that is not here runs nothing.
  const bool is_virtual = subject.device.starts_with("virtual:");
  const std::string_view replaced[] = {"ctx-size", "min-rate"};
  subject.notes.push_back(
      fmt::format("{} tokens are the longest context that is answered at {:g} tokens/s: {}",
                  engine::grouped_number(subject.request.n_ctx), rate,
                  command_line(command, is_virtual ? "plan" : "run", is_virtual ? kPlan : kRun,
                               replaced, fmt::format("-c {}", subject.request.n_ctx))));
}

std::vector<PlanChange> changes_of(const Command& command) {
  std::vector<PlanChange> changes;
  for (const std::string& text : command.settings.what_if)
    changes.push_back(read_plan_change(text, command.where("what-if")));
  return changes;
}

/// Where HBM is asked for and there is none.
void check_changes(const Command& command, const PlanSubject& subject,
                   std::span<const PlanChange> changes) {
  for (const PlanChange& change : changes)
    if (change.resource->is_of_device && !subject.request.device)
      throw Error(
          ErrorCode::kUsage,
          fmt::format("--what-if {} is of a device, and none computes", change.resource->name),
          command.where("what-if"), "name a card with --device virtual:NAME or cuda:N");
}

/// Whether there is a plan in time, else why not.
std::optional<Error> refusal_of(const Command& command, const PlanSubject& subject,
                                const std::optional<PlanAnswer>& answer) {
  if (!answer) return plan_refusal(subject, &command);
  if (!answer->is_in_time()) return limit_refusal(command, subject, *answer);
  return std::nullopt;
}

void write_page(const Command& command, const PlanSubject& subject, const PlanAnswer& answer) {
  AnswerSink page = AnswerSink::open(command.settings.html, "the page");
  page.write(plan_page(subject, answer, version_text()));
  page.close();
}

}  // namespace

int run_plan(const Command& command) {
  const Settings& settings = command.settings;
  const std::vector<PlanChange> changes = changes_of(command);
  PlanSubject subject = plan_subject(command, gpu_attn::find_cuda_devices());
  check_changes(command, subject, changes);
  shorten_context(command, subject);
  const auto answer = find_plan(subject, subject.request, /*with_duals=*/true);
  AnswerSink sink = AnswerSink::open("");
  if (const auto refusal = refusal_of(command, subject, answer)) {
    if (!settings.json) throw Error(*refusal);
    sink.write_line(refusal_json(*refusal));
    sink.close();
    return exit_code(refusal->code());
  }
  std::optional<PlanAnswer> then;
  if (!changes.empty()) then = find_plan(subject, subject.request, false, changes);
  if (!settings.html.empty()) write_page(command, subject, *answer);
  if (!settings.save.empty()) save_plan(subject, answer->problem, answer->plan, settings.save);
  if (settings.json) {
    auto json = plan_json(subject, *answer);
    if (!changes.empty()) json["what_if"] = what_if_json(*answer, then);
    sink.write(json_text(json) + "\n");
  } else {
    PlanLook look = terminal_look(STDOUT_FILENO, settings.is_utf8);
    look.explains = settings.explain;
    sink.write(plan_text(subject, *answer, look));
    if (!changes.empty())
      sink.write(what_if_text(fmt::format("{}", fmt::join(settings.what_if, ", ")), *answer, then));
  }
  sink.close();
  return 0;
}

}  // namespace strata::cli

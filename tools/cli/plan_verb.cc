// `strata plan`: what would live where, how fast that would be, and what limits it.
#include <chrono>
#include <nlohmann/json.hpp>

#include "tools/cli/answer_sink.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/placed_plan.h"
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

}  // namespace

int run_plan(const Command& command) {
  const Settings& settings = command.settings;
  const PlanSubject subject = plan_subject(command, gpu_attn::find_cuda_devices());
  const auto begin = std::chrono::steady_clock::now();
  const auto problems = engine::placement_problems(subject.model, subject.request);
  auto plan = planner::plan_placement(problems);
  const auto taken = std::chrono::steady_clock::now() - begin;
  if (!plan && !settings.json) throw plan_refusal(subject);
  AnswerSink sink = AnswerSink::open("");
  if (!plan) {
    const Error refusal = plan_refusal(subject);
    sink.write_line(refusal_json(refusal));
    sink.close();
    return exit_code(refusal.code());
  }
  PlanAnswer answer{problems[plan->choice], *std::move(plan),
                    std::chrono::duration<double, std::milli>(taken).count()};
  if (!settings.save.empty()) save_plan(subject, answer.problem, answer.plan, settings.save);
  if (settings.json) {
    sink.write(json_text(plan_json(subject, answer)) + "\n");
  } else {
    sink.write(plan_text(subject, answer, settings.explain));
  }
  sink.close();
  return 0;
}

}  // namespace strata::cli

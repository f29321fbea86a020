// `strata doctor`: what this machine can do, and what to change where something is missing.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tiers/uring_io.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/doctor.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

const char* level_name(Finding::Level level) {
  switch (level) {
    case Finding::Level::kOk:
      return "ok";
    case Finding::Level::kNote:
      return "note";
    case Finding::Level::kFail:
      return "fail";
  }
  return "";
}

}  // namespace

bool can_run(const std::vector<Finding>& findings) {
  return std::ranges::none_of(findings,
                              [](const Finding& of) { return of.level == Finding::Level::kFail; });
}

std::string findings_json(const std::vector<Finding>& findings) {
  auto list = nlohmann::ordered_json::array();
  for (const Finding& of : findings)
    list.push_back({{"check", of.check},
                    {"ok", of.level != Finding::Level::kFail},
                    {"level", level_name(of.level)},
                    {"found", of.found},
                    {"wanted", of.wanted},
                    {"remedy", of.remedy}});
  return json_text(list) + "\n";
}

std::string findings_text(const std::vector<Finding>& findings) {
  std::string out;
  for (const Finding& of : findings) {
    out += fmt::format("{:<5} {:<15} {}\n", level_name(of.level), of.check, one_line(of.found));
    if (!of.wanted.empty()) out += fmt::format("{:<21} wanted: {}\n", "", one_line(of.wanted));
    if (!of.remedy.empty()) out += fmt::format("{:<21} remedy: {}\n", "", one_line(of.remedy));
  }
  return out + (can_run(findings) ? "Strata can run here.\n" : "Strata cannot run like this.\n");
}

int run_doctor(const Command& command) {
  const Settings& settings = command.settings;
  std::vector<Finding> findings = {look_at_cpu(), look_at_memory(), look_at_nodes(),
                                   look_at_huge_pages()};
  const auto add = [&](std::vector<Finding> more) {
    std::ranges::move(more, std::back_inserter(findings));
  };
  add(look_at_transfers([](uint32_t depth) { return tiers::open_uring_io(depth); }));
  findings.push_back(look_at_spill_folder(settings.nvme, settings.nvme_is_named));
  findings.push_back(look_at_session_folder(settings.session_dir));
  add(look_at_devices(gpu_attn::find_cuda_devices()));
  if (!settings.model.empty()) add(look_at_model(settings.model));
  AnswerSink::open("").write(settings.json ? findings_json(findings) : findings_text(findings));
  return can_run(findings) ? 0 : 1;
}

}  // namespace strata::cli

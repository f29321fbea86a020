// tools/cli/plan_request.h - what `strata plan` plans for: a model, a context, a machine that is
// here or is not.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/gguf/gguf_file.h"
#include "engine/placement_problem.h"
#include "gpu_attn/open_module.h"
#include "tools/cli/command_line.h"

namespace strata::cli {

struct PlanSubject {
  std::unique_ptr<engine::GgufFile> file;  // of `model`; null where that is an engine's
  engine::PlannedModel model;
  engine::PlacementRequest request;
  std::string device;         // "none", "virtual:rtx4090", "cuda:0"
  std::string attention;      // "exact", or the method and its budget
  bool knows_touched = true;  // how much a token attends; false where that depends on the text
  std::string rates_text;     // what the figures are that the plan is priced with
  std::string stale_text;     // why those that are kept are not used, with the command that
                              // measures them again; empty where they are, none are kept, or they
                              // are another number of threads'
  uint64_t sparse_from = engine::kNeverSparse;  // EngineOptions::sparse_from
  std::vector<std::string> notes;
};

/// Reads the head of the model file. `devices` are those of this machine, of which `--device auto`
/// takes one only where something can be placed on it, as Engine::open does.
/// Errors: those of GgufFile::open and read_model_spec; kUsage (options that contradict each
/// other), kUnsupported (what no card can do), kNoDevice.
PlanSubject plan_subject(const Command& command, const gpu_attn::CudaDevices& devices);

/// What an engine that is open runs: its model, which outlives this, its context, its device, and
/// what the rules by hand left it of memory and disk. Rates that cannot be used are assumed ones:
/// nothing is refused here that runs.
PlanSubject plan_subject(const Command& command, const engine::Engine& engine);

}  // namespace strata::cli

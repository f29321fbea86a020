// tools/cli/plan_file.h - a plan as a file: written by `strata plan --save`, edited, compared, and
// given back with `run --plan`. Layers stand as runs ("0-11": "dram"), so that a plan of eighty
// layers is some lines; of layers whose pieces live apart ("12": {"attention": "dram", "ffn":
// "file"}).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/gguf/gguf_file.h"
#include "engine/model_spec.h"
#include "engine/placement.h"

namespace strata::cli {

inline constexpr uint64_t kPlanFileVersion = 1;  // of the file's keys

struct PlanFile {
  // The model it is of; another with the same four could run it as well.
  std::string model, architecture;
  uint32_t n_layers = 0;
  uint64_t weight_bytes = 0;  // of all tensors, as they stand in the model's file
  std::string device;         // "none", "cuda:0", "virtual:rtx4090"
  uint64_t dram_bytes = 0, nvme_bytes = 0, hbm_bytes = 0;  // budgets it was planned within
  engine::Placement placement;
  double ttft_ms = 0, tpot_ms = 0;  // as predicted
  bool is_measured = false;         // by rates that were measured
};

/// The four words by which a plan knows its model.
PlanFile plan_file_of(const engine::GgufFile& file, const engine::ModelSpec& spec);

std::string plan_file_json(const PlanFile& plan);

/// Reads it back: all keys and no other; every layer once; nothing of the placement beyond the
/// budgets of the file. `path` is what messages point at. Errors: kBadFile (key, wanted, found).
PlanFile parse_plan_file(std::string_view text, const std::string& path);

/// Errors: those of parse_plan_file; kIo; kBadFile where it is larger than a plan can be.
PlanFile read_plan_file(const std::string& path);

/// Refuses a plan of another model. Errors: kUsage, with the first word that differs.
void expect_same_model(const PlanFile& plan, const PlanFile& here, const std::string& path);

}  // namespace strata::cli

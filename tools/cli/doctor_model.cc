// tools/cli/doctor_model.cc - whether a model runs on this machine.
#include <fmt/format.h>

#include "engine/byte_text.h"
#include "engine/engine.h"
#include "engine/machine.h"
#include "tiers/file.h"
#include "tools/cli/disk_facts.h"
#include "tools/cli/doctor.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using engine::grouped_number;

Finding failed(std::string check, const Error& error, std::string wanted) {
  std::string found = error.what();
  if (!error.where().empty()) found += fmt::format(" [{}]", error.where());
  return {std::move(check), Finding::Level::kFail, std::move(found), std::move(wanted),
          error.remedy()};
}

Finding look_at_file(const std::string& path, const std::string& root) {
  constexpr const char* kCheck = "model file";
  try {
    const auto file = engine::GgufFile::open(path);
    // Of shards, the first one's disk stands for all.
    const bool is_direct = tiers::File::open_for_reading(path, /*direct=*/true).is_direct();
    const DiskFacts disk = disk_facts(path, root);
    std::string found =
        fmt::format("{}: {}, {}, {}", path, bytes_text(file.file_bytes()), disk.name(),
                    is_direct ? "can be read past the page cache" : "read through the page cache");
    const auto note = [&](std::string wanted) {
      return Finding::note(kCheck, found, std::move(wanted),
                           "copy the file to a solid-state disk of this machine");
    };
    if (disk.is_network()) return note("a disk of this machine");
    if (disk.is_rotating) return note("a solid-state disk: this one rotates");
    return Finding::ok(kCheck, std::move(found));
  } catch (const Error& error) {
    return failed(kCheck, error, "a GGUF file that can be read");
  }
}

/// The weights beside memory, and the context that memory alone holds.
Finding look_at_fit(const std::string& path, const std::string& root) {
  constexpr const char* kCheck = "model";
  try {
    engine::EngineOptions options;
    options.model_path = path;
    const auto engine = engine::Engine::open(options);
    const uint64_t weights = engine.weight_plan().total_bytes();
    const uint32_t n_ctx = engine.context().n_ctx, n_train = engine.spec().shape.n_ctx_train;
    std::string found = fmt::format(
        "weights take {} of {} available; Strata chooses a context of {} tokens (trained for {})",
        bytes_text(weights), bytes_text(engine::available_dram_bytes(root)), grouped_number(n_ctx),
        grouped_number(n_train));
    if (n_ctx >= n_train) return Finding::ok(kCheck, std::move(found));
    return Finding::note(kCheck, std::move(found), "the trained context in memory",
                         fmt::format("-ctk q8_0 -ctv q8_0 nearly doubles it; -c {} puts the rest "
                                     "on disk",
                                     n_train));
  } catch (const Error& error) {
    return failed(kCheck, error, "a model that runs here");
  }
}

}  // namespace

std::vector<Finding> look_at_model(const std::string& path, const std::string& root) {
  std::vector<Finding> findings = {look_at_file(path, root)};
  if (can_run(findings)) findings.push_back(look_at_fit(path, root));
  return findings;
}

}  // namespace strata::cli

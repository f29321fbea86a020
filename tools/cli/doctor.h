// tools/cli/doctor.h - what `strata doctor` looks at: one finding per subject, each with its remedy
// where something is missing. Why apart from the verb: every look takes what it looks at (a root of
// the file system, folders, devices), so tests can show it machines that are not here.
//
// No look changes anything: files that are made to try a disk have no name and go at once. None
// throws for what it finds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "gpu_attn/open_module.h"
#include "tiers/io.h"

namespace strata::cli {

struct Finding {
  enum class Level : uint8_t {
    kOk,
    kNote,  // Strata runs, but slower or with less
    kFail,  // it cannot run
  };
  std::string check;  // "cpu", "spill folder"
  Level level = Level::kOk;
  std::string found, wanted, remedy;  // the latter two empty where nothing is missing

  static Finding ok(std::string check, std::string found);
  static Finding note(std::string check, std::string found, std::string wanted, std::string remedy);
};

Finding look_at_cpu(const std::string& root = "/");
Finding look_at_memory(const std::string& root = "/");
Finding look_at_nodes(const std::string& root = "/");       // of memory (NUMA)
Finding look_at_huge_pages(const std::string& root = "/");  // arenas lie in them

/// Opens a ring of so many transfers, or throws Error.
using OpenRing = std::function<std::unique_ptr<tiers::Io>(uint32_t depth)>;
/// io_uring, and the memory that it may register: two findings, or the first alone.
std::vector<Finding> look_at_transfers(const OpenRing& open_ring, const std::string& root = "/");

/// The folder of the spill file: can a file be made there, written and read back, past the page
/// cache? A folder that `is_named` by the user must do.
Finding look_at_spill_folder(const std::string& folder, bool is_named,
                             const std::string& root = "/");
/// The folder of saved contexts, in the same way.
Finding look_at_session_folder(const std::string& folder, const std::string& root = "/");

/// One finding per device and one per card's link, or why there is no device.
std::vector<Finding> look_at_devices(const gpu_attn::CudaDevices& devices,
                                     const std::string& root = "/");
/// The version of NVIDIA's driver; empty where there is none.
std::string driver_version(const std::string& root = "/");

/// The model file's disk, and whether the model runs here with how much context.
std::vector<Finding> look_at_model(const std::string& path, const std::string& root = "/");

/// Whether Strata can run: no finding is a failure.
bool can_run(const std::vector<Finding>& findings);
/// The list of `doctor --json`.
std::string findings_json(const std::vector<Finding>& findings);
std::string findings_text(const std::vector<Finding>& findings);

}  // namespace strata::cli

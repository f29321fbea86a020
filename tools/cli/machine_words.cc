#include "tools/cli/machine_words.h"

#include "base/error.h"
#include "engine/device.h"
#include "engine/machine.h"
#include "tools/cli/disk_facts.h"
#include "tools/cli/doctor.h"
#include "tools/cli/program.h"

namespace strata::cli {

planner::MachineProfile machine_words(const KernelTable& kernels, uint32_t n_threads,
                                      const std::string& disk_folder, const DeviceFacts* device) {
  planner::MachineProfile words;
  words.cpu = engine::cpu_name();
  words.cpu_isa = kernels.features;
  words.n_threads = n_threads;
  words.written_by = version_text();
  words.dram_bytes = engine::total_dram_bytes();
  if (!disk_folder.empty()) words.disk = disk_facts(disk_folder).name();
  const auto name_device = [&](const DeviceFacts& facts) {
    words.device = facts.name;
    words.driver = driver_version();
  };
  if (device != nullptr) {
    name_device(*device);
  } else if (const auto chosen = engine::open_chosen_device({}, gpu_attn::find_cuda_devices());
             chosen.device) {
    name_device(chosen.device->facts());
  }
  return words;
}

}  // namespace strata::cli

// tools/cli/machine_words.h - what this machine is, in the words that its profile is kept under.
#pragma once

#include <string>

#include "base/device_table.h"
#include "base/kernel_table.h"
#include "planner/machine_profile.h"

namespace strata::cli {

/// A profile without figures. `disk_folder` is that of the spill file; empty = no disk. `device` is
/// the card that is open; where that is null, looks for a CUDA device, some 0.1 s where there is a
/// driver.
planner::MachineProfile machine_words(const KernelTable& kernels, uint32_t n_threads,
                                      const std::string& disk_folder,
                                      const DeviceFacts* device = nullptr);

}  // namespace strata::cli

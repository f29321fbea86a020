// tools/cli/calibrate_disk.h - what a disk gives a plain reader and writer: in order, and for
// requests of several sizes, several in flight. Why bounded: a disk that is a hundred times slower
// than another must not take a hundred times as long.
#pragma once

#include <cstdint>

#include "planner/machine_profile.h"
#include "tools/cli/calibrate.h"
#include "tools/cli/raw_disk.h"

namespace strata::cli {

/// Requests of a pass that is to take so many seconds, where n_probe of them took probe_s: at least
/// those, at most n_full.
uint64_t requests_within(double seconds, uint64_t n_probe, double probe_s, uint64_t n_full);

/// Fills the disk's figures of `profile`. Takes options.disk_s_max for requests of all sizes,
/// beside what single passes take. Errors: kIo, kCancelled.
void calibrate_disk(RawDisk& disk, const CalibrateOptions& options,
                    planner::MachineProfile& profile);

}  // namespace strata::cli

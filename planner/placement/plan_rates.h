// planner/placement/plan_rates.h - the figures of a machine as a plan is priced with them: of a
// measured profile, of a card that is not here, or of none.
#pragma once

#include "base/kv_layout.h"
#include "planner/machine_profile.h"
#include "planner/placement/problem.h"
#include "planner/virtual/device_profile.h"

namespace strata::planner {

/// What a plan is priced with where nothing was measured: two cores of a desktop and an NVMe disk.
/// is_measured() is false.
const MachineProfile& unmeasured_profile();

/// The machine around a card that is not here, and the card. is_measured() is false.
MachineProfile profile_of(const DeviceProfile& device);

/// Of K and V in these codecs. A codec or head_dim that was not measured has the rate of the
/// nearest that was. Without a device none of a card's figures is asked for: `strata calibrate`
/// keeps a card's link and not its kernels. Errors: kBadFile, naming the figure that is missing or
/// 0.
PlanRates rates_of(const MachineProfile& profile, KvCodec k_codec, KvCodec v_codec,
                   uint32_t head_dim, bool has_device);

/// ms of one row through a matrix of `bytes` packed bytes, and of one row of a chunk through one
/// of `flop`. Types that were not measured have the rate of the one that is
/// slowest at just this. Errors: as rates_of().
double gemv_ms(const MachineProfile& profile, TensorType type, double bytes);
double gemm_ms(const MachineProfile& profile, TensorType type, double flop);
/// ms that turning a file's rows into panels takes; where no type was measured, as
/// docs/measurements.md has it.
double pack_ms(const MachineProfile& profile, TensorType type, double bytes);

}  // namespace strata::planner

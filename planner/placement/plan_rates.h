// planner/placement/plan_rates.h - the figures of a machine as a plan is priced with them: of a
// measured profile, of a card that is not here, or of none.
#pragma once

#include <string_view>

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

/// Puts what was measured of a card, its link, copies within its memory and kernels, in place of
/// the figures that `profile` has of one like it. Where kernels were not, those that are bound by
/// its memory go with the copies.
void use_measured_card(const DeviceRates& measured, MachineProfile& profile);

/// Of K and V in these codecs. A codec or head_dim that was not measured has the rate of the
/// nearest that was. Without a device none of a card's figures is asked for: a profile may have its
/// link alone. Errors: kBadFile, naming the figure that is missing or 0.
PlanRates rates_of(const MachineProfile& profile, KvCodec k_codec, KvCodec v_codec,
                   uint32_t head_dim, bool has_device);

/// Bytes of its rows per second that the CPU chooses by with a method's index, where memory gives
/// them in time: of the nearest head_dim that was measured; an estimate of what is left out goes
/// with the method that it adds to. 0 where the method was not measured: it waits for memory.
double scan_rate(const MachineProfile& profile, std::string_view method, uint32_t head_dim);

/// What reading by requests of so many bytes takes, n_in_flight at a time, as a share of what the
/// same bytes take in order by large ones: 1 or more.
double read_share(const MachineProfile& profile, uint64_t request_bytes, uint32_t n_in_flight);

/// ms of one row through a matrix of `bytes` packed bytes, and of one row of a chunk through one
/// of `flop`. A type that was not measured is as quick as unmeasured_profile() has it beside those
/// that were; of several, the slowest of these answers. Errors: as rates_of().
double gemv_ms(const MachineProfile& profile, TensorType type, double bytes);
double gemm_ms(const MachineProfile& profile, TensorType type, double flop);
/// ms of so many values that a prompt's rows write beside their products; 0 where none were
/// measured.
double rows_ms(const MachineProfile& profile, double values);
/// ms that turning a file's rows into panels takes, in the same way; as unmeasured_profile() has it
/// where packing was not measured.
double pack_ms(const MachineProfile& profile, TensorType type, double bytes);

}  // namespace strata::planner

// tiers/simulated_faults.h - what a bad disk may do to a transfer, and how often.
// Source: docs/fault-model.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tiers/io.h"

namespace strata::tiers {

/// One thing that goes wrong with one transfer. A "silent" one completes with kOk.
enum class FaultKind : uint8_t {
  kNone,
  kShortRead,         // a part arrives, and the rest later: kOk, the read was resumed
  kEndedEarly,        // kEndedEarly; a part arrives, and no more comes
  kReadError,         // kDeviceError; some sectors may have arrived
  kBitFlip,           // silent: 1 to bit_flips_max bits differ, in this read only
  kMisdirectedRead,   // silent: the bytes of another place, of the same length
  kShortWrite,        // a part reaches the medium, and the rest later: kOk, the write was resumed
  kWriteError,        // kDeviceError; some sectors may have reached the medium
  kNoSpace,           // kNoSpace; nothing reached the medium
  kTornWrite,         // silent: some sectors of 512 bytes reached the medium, others did not
  kMisdirectedWrite,  // silent: another place was overwritten, this one keeps its old bytes
  kLostWrite,         // silent: the medium keeps the older generation
  kStall,             // completes as it should, SimulatedDisk::stall later
  kHang,              // never completes; neither memory nor medium is touched
  kHangThenMove,      // never completes; the bytes move all the same, SimulatedDisk::stall later
  kDeviceGone,        // kDeviceGone, from this request on
};
inline constexpr size_t kFaultKinds = static_cast<size_t>(FaultKind::kDeviceGone) + 1;

/// "short read", "torn write", ...
std::string_view fault_kind_name(FaultKind kind);
/// Whether this can happen to a transfer of that direction.
bool fault_concerns(FaultKind kind, IoOp op);

/// The probability of each fault per request that it concerns: at most one befalls a request, so
/// the rates of one direction sum to at most 1.
struct SimulatedFaults {
  double short_read = 0;
  double ended_early = 0;
  double read_error = 0;
  double bit_flip = 0;
  double misdirected_read = 0;
  double short_write = 0;
  double write_error = 0;
  double no_space = 0;
  double torn_write = 0;
  double misdirected_write = 0;
  double lost_write = 0;
  double stall = 0;
  double hang = 0;
  double hang_then_move = 0;
  uint32_t bit_flips_max = 3;              // > 0
  uint64_t device_gone_from = UINT64_MAX;  // number of the request, the first is 0
};

/// The sum of the rates that concern `op`.
double fault_rate(const SimulatedFaults& faults, IoOp op);
/// The fault that `unit` (uniform in [0, 1)) stands for.
FaultKind fault_at(const SimulatedFaults& faults, IoOp op, double unit);

}  // namespace strata::tiers

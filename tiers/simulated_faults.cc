#include "tiers/simulated_faults.h"

#include <array>

#include "base/check.h"

namespace strata::tiers {
namespace {

struct FaultRow {
  std::string_view name;
  double SimulatedFaults::*rate;  // null where it is not drawn
  bool on_read;
  bool on_write;
};

using Rates = SimulatedFaults;
constexpr std::array<FaultRow, kFaultKinds> kRows = {{
    {"no fault", nullptr, true, true},
    {"short read", &Rates::short_read, true, false},
    {"ended early", &Rates::ended_early, true, false},
    {"read error", &Rates::read_error, true, false},
    {"bit flip", &Rates::bit_flip, true, false},
    {"misdirected read", &Rates::misdirected_read, true, false},
    {"short write", &Rates::short_write, false, true},
    {"write error", &Rates::write_error, false, true},
    {"no space", &Rates::no_space, false, true},
    {"torn write", &Rates::torn_write, false, true},
    {"misdirected write", &Rates::misdirected_write, false, true},
    {"lost write", &Rates::lost_write, false, true},
    {"stall", &Rates::stall, true, true},
    {"hang", &Rates::hang, true, true},
    {"hang, then move", &Rates::hang_then_move, true, true},
    {"device gone", nullptr, true, true},
}};

const FaultRow& row(FaultKind kind) {
  const auto i = static_cast<size_t>(kind);
  STRATA_CHECK(i < kFaultKinds, "fault kind %zu", i);
  return kRows[i];
}

}  // namespace

std::string_view fault_kind_name(FaultKind kind) { return row(kind).name; }

bool fault_concerns(FaultKind kind, IoOp op) {
  return op == IoOp::kRead ? row(kind).on_read : row(kind).on_write;
}

double fault_rate(const SimulatedFaults& faults, IoOp op) {
  double sum = 0;
  for (size_t i = 0; i < kFaultKinds; ++i) {
    if (kRows[i].rate != nullptr && fault_concerns(static_cast<FaultKind>(i), op))
      sum += faults.*kRows[i].rate;
  }
  return sum;
}

FaultKind fault_at(const SimulatedFaults& faults, IoOp op, double unit) {
  for (size_t i = 0; i < kFaultKinds; ++i) {
    if (kRows[i].rate == nullptr || !fault_concerns(static_cast<FaultKind>(i), op)) continue;
    unit -= faults.*kRows[i].rate;
    if (unit < 0) return static_cast<FaultKind>(i);
  }
  return FaultKind::kNone;
}

}  // namespace strata::tiers

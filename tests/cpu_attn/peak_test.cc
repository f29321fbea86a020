// The loops that ceilings are measured by do the work that they say, and no less.
#include "cpu_attn/peak.h"

#include <gtest/gtest.h>

#include "cpu_attn/kernels.h"

namespace strata::cpu_attn {
namespace {

/// Each of so many rounds adds the same: whole vectors, of whole registers.
TEST(Peak, EveryRoundIsCounted) {
  EXPECT_EQ(peak_loops(CpuIsa::kScalar).f32, nullptr);
  EXPECT_EQ(peak_loops(CpuIsa::kScalar).int8, nullptr);
  for (const KernelTable* table : available_kernels()) {
    const PeakLoops loops = peak_loops(table->isa);
    for (const PeakLoop loop : {loops.f32, loops.int8}) {
      if (loop == nullptr) continue;
      SCOPED_TRACE(table->name);
      EXPECT_EQ(loop(0), 0);
      const double one = loop(1);
      EXPECT_GE(one, 8 * 8);  // a vector of 8 lanes in each of 8 registers
      for (const uint64_t n : {uint64_t{2}, uint64_t{1000}, kPeakRoundsMax})
        EXPECT_EQ(loop(n), one * static_cast<double>(n)) << n;
    }
  }
}

TEST(Peak, ALoopOfBytesDoesFourTimesTheWorkOfALaneOrMore) {
  for (const KernelTable* table : available_kernels()) {
    const PeakLoops loops = peak_loops(table->isa);
    if (loops.int8 == nullptr) continue;
    const double of_bytes = loops.int8(1), of_floats = loops.f32(1);
    EXPECT_GE(of_bytes, 4 * of_floats / 1.0) << table->name;
  }
}

}  // namespace
}  // namespace strata::cpu_attn

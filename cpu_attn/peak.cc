#include "cpu_attn/peak.h"

namespace strata::cpu_attn {

PeakLoops peak_loops(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      return {};
    case CpuIsa::kAvx2:
      return peak_loops_avx2();
    case CpuIsa::kAvx512:
      return peak_loops_avx512();
  }
  return {};
}

}  // namespace strata::cpu_attn

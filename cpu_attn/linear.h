// cpu_attn/linear.h - the linear layers of each instruction set.
// Each function fills `quantize_rows` and `linear` of a table (base/kernel_table.h). Its file is
// compiled for that set, so it may be called only where the CPU has it (kernels.cc looks).
#pragma once

#include "base/kernel_table.h"

namespace strata::cpu_attn {

void fill_linear_scalar(KernelTable& table);
void fill_linear_avx2(KernelTable& table);
void fill_linear_avx512(KernelTable& table);  // F, BW, DQ, VL and VNNI

}  // namespace strata::cpu_attn

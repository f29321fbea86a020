#include "cpu_attn/kernels.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <string>

#include "base/error.h"
#include "cpu_attn/attend.h"
#include "cpu_attn/index.h"
#include "cpu_attn/linear.h"
#include "cpu_attn/row_ops.h"

namespace strata::cpu_attn {
namespace {

// The flags of the *_avx2.cc and *_avx512.cc files (CMakeLists.txt), asked of the CPU and of the
// system's saved registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

/// [has AMX][has BF16][has VBMI]: only the kernels of retrieval use the last two.
constexpr const char* kAvx512Features[2][2][2] = {
    {{"avx512 f bw dq vl vnni", "avx512 f bw dq vl vnni vbmi"},
     {"avx512 f bw dq vl vnni bf16", "avx512 f bw dq vl vnni bf16 vbmi"}},
    {{"avx512 f bw dq vl vnni amx", "avx512 f bw dq vl vnni vbmi amx"},
     {"avx512 f bw dq vl vnni bf16 amx", "avx512 f bw dq vl vnni bf16 vbmi amx"}}};

/// g++ 12 knows no name of AMX to ask for: bits 24 (tiles) and 25 (of bytes) of leaf 7.
bool cpu_has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 24 & 3) == 3;
}

struct Tables {
  KernelTable scalar{};
  KernelTable avx2{};
  KernelTable avx512{};
  std::array<const KernelTable*, 3> available{};
  size_t n_available = 0;

  Tables() {
    scalar.isa = CpuIsa::kScalar;
    scalar.name = "scalar";
    scalar.features = "scalar";
    fill_linear_scalar(scalar);
    fill_attend_scalar(scalar);
    fill_row_ops_scalar(scalar);
    fill_index_scalar(scalar);
    add(scalar);
    if (has_avx2()) {
      avx2.isa = CpuIsa::kAvx2;
      avx2.name = "avx2";
      avx2.features = "avx2 fma f16c";
      fill_linear_avx2(avx2);
      fill_attend_avx2(avx2);
      fill_row_ops_avx2(avx2);
      fill_index_avx2(avx2);
      add(avx2);
    }
    if (has_avx512()) {
      avx512.isa = CpuIsa::kAvx512;
      avx512.name = "avx512";
      fill_linear_avx512(avx512);
      fill_attend_avx512(avx512);
      fill_row_ops_avx512(avx512);
      fill_index_avx512(avx512);
      const bool has_bf16 = __builtin_cpu_supports("avx512bf16") != 0;
      const bool has_vbmi = __builtin_cpu_supports("avx512vbmi") != 0;
      if (has_bf16) fill_index_digest_avx512bf16(avx512);
      if (has_vbmi) fill_index_pq_avx512vbmi(avx512);
      const bool has_amx = amx_is_permitted();
      if (has_amx) fill_linear_avx512amx(avx512);
      avx512.features = kAvx512Features[has_amx][has_bf16][has_vbmi];
      add(avx512);
    }
  }
  void add(const KernelTable& table) { available[n_available++] = &table; }
};

const Tables& tables() {
  static const Tables all;
  return all;
}

}  // namespace

bool amx_is_permitted() {
  // ARCH_REQ_XCOMP_PERM of asm/prctl.h since Linux 5.16, and the number of the tiles' state.
  constexpr long kRequestState = 0x1023, kTileData = 18;
  static const bool is_permitted =
      has_avx512() && cpu_has_amx() && syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
  return is_permitted;
}

std::span<const KernelTable* const> available_kernels() {
  return {tables().available.data(), tables().n_available};
}

const KernelTable& choose_kernels(std::string_view isa_name) {
  const auto available = available_kernels();
  if (isa_name.empty()) return *available.back();
  std::string names;
  for (const KernelTable* table : available) {
    if (isa_name == table->name) return *table;
    names += names.empty() ? "" : ", ";
    names += table->name;
  }
  const bool is_known = isa_name == "avx2" || isa_name == "avx512";
  throw Error(
      ErrorCode::kUsage,
      is_known ? "this CPU has no kernels for instruction set '" + std::string(isa_name) +
                     "'; it has: " + names
               : "unknown instruction set '" + std::string(isa_name) + "'; this CPU has: " + names,
      "--cpu-isa", "leave the option out to use the widest set");
}

}  // namespace strata::cpu_attn

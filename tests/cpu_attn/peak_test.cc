// The loops that ceilings are measured by do the work that they say, and no less.
#include "cpu_attn/peak.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cpu_attn/kernels.h"
#include "cpu_attn/linear.h"
#include "tests/cpu_attn/weak_symbols.h"
#include "tests/sanitizer.h"
#include "tests/tree_paths.h"

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

TEST(Peak, EveryRoundOfTilesIsCounted) {
  if (!amx_is_permitted()) GTEST_SKIP() << "this CPU has no AMX, or the system keeps it";
  EXPECT_EQ(peak_int8_tiles()(0), 0);
  for (const uint64_t n : {uint64_t{1}, uint64_t{1000}, kPeakRoundsMax})
    EXPECT_EQ(peak_int8_tiles()(n), 4.0 * 16 * 16 * 64 * static_cast<double>(n)) << n;
}

TEST(Peak, ALoopOfBytesDoesFourTimesTheWorkOfALaneOrMore) {
  for (const KernelTable* table : available_kernels()) {
    const PeakLoops loops = peak_loops(table->isa);
    if (loops.int8 == nullptr) continue;
    const double of_bytes = loops.int8(1), of_floats = loops.f32(1);
    EXPECT_GE(of_bytes, 4 * of_floats / 1.0) << table->name;
  }
}

/// The path of an object of this build, or "".
std::string object_path(const std::string& file_name) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(build_path("cpu_attn")))
    if (entry.path().filename() == file_name) return entry.path().string();
  return "";
}

/// Instructions of the loop of `function` that has `wanted` in it: from where its last jump goes
/// back to, up to that jump.
std::vector<std::string> loop_of(const std::string& object, const std::string& function,
                                 const std::string& wanted) {
  std::istringstream lines(output_of("objdump -d --no-show-raw-insn '" + object + "'"));
  std::vector<std::pair<uint64_t, std::string>> code;  // of the function: address, instruction
  bool is_inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with(">:")) is_inside = line.find(function) != std::string::npos;
    if (const size_t colon = line.find(":\t"); is_inside && colon != std::string::npos)
      code.emplace_back(std::stoull(line.substr(0, colon), nullptr, 16), line.substr(colon + 2));
  }
  for (size_t end = 0; end < code.size(); ++end) {
    const std::string& jump = code[end].second;
    if (!jump.starts_with('j')) continue;
    const uint64_t to = std::stoull(jump.substr(jump.find_first_of(" \t")), nullptr, 16);
    std::vector<std::string> loop;
    for (size_t i = 0; i < end && to <= code[end].first; ++i)
      if (code[i].first >= to) loop.push_back(code[i].second);
    const auto has_wanted = [&](const std::string& at) { return at.starts_with(wanted); };
    if (std::ranges::any_of(loop, has_wanted)) return loop;
  }
  return {};
}

/// A ceiling that waits for the first cache is none. The multiplications that the code has are
/// those that the loop says it does.
TEST(Peak, LoopsMultiplyInRegistersAlone) {
  if (sanitizer::kAny) GTEST_SKIP() << "its code is not what is measured; the release suite judges";
  struct Loop {
    CpuIsa isa;
    PeakLoop PeakLoops::*loop;
    const char *file, *function, *instruction;
    uint32_t n_products;  // of one instruction
  };
  constexpr Loop kLoops[] = {
      {CpuIsa::kAvx2, &PeakLoops::f32, "peak_avx2.cc.o", "peak_f32", "vfmadd", 8},
      {CpuIsa::kAvx2, &PeakLoops::int8, "peak_avx2.cc.o", "peak_int8", "vpmaddubsw", 32},
      {CpuIsa::kAvx512, &PeakLoops::f32, "peak_avx512.cc.o", "peak_f32", "vfmadd", 16},
      {CpuIsa::kAvx512, &PeakLoops::int8, "peak_avx512.cc.o", "peak_int8", "vpdpbusd", 64},
  };
  for (const Loop& of : kLoops) {
    SCOPED_TRACE(std::string(of.file) + " " + of.function);
    uint32_t n_instructions = 0;
    for (const std::string& at : loop_of(object_path(of.file), of.function, of.instruction)) {
      if (at.starts_with(of.instruction)) ++n_instructions;
      EXPECT_EQ(at.find('('), std::string::npos) << at << " touches memory";
    }
    EXPECT_GT(n_instructions, 0u) << "found no loop: is objdump there?";
    for (const KernelTable* table : available_kernels())
      if (table->isa == of.isa) {
        EXPECT_EQ(std::fmod(n_instructions * of.n_products, (peak_loops(of.isa).*of.loop)(1)), 0);
      }
  }
  uint32_t n_tiles = 0;
  for (const std::string& at :
       loop_of(object_path("peak_avx512amx.cc.o"), "peak_int8", "tdpbssd")) {
    if (at.starts_with("tdpbssd")) ++n_tiles;
    EXPECT_EQ(at.find('('), std::string::npos) << at << " touches memory";
  }
  EXPECT_EQ(n_tiles, 4u);
}

}  // namespace
}  // namespace strata::cpu_attn

#include "cpu_attn/kernels.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/cpu_attn/weak_symbols.h"
#include "tests/sanitizer.h"
#include "tests/tree_paths.h"

namespace strata::cpu_attn {
namespace {

TEST(Kernels, TheScalarTableIsAlwaysThereAndTheWidestIsTheDefault) {
  const auto available = available_kernels();
  ASSERT_FALSE(available.empty());
  EXPECT_STREQ(available.front()->name, "scalar");
  EXPECT_EQ(&choose_kernels(), available.back());
  for (const KernelTable* table : available) EXPECT_EQ(&choose_kernels(table->name), table);
}

TEST(Kernels, AnUnknownSetIsRefusedWithTheNamesOfThisCpu) {
  try {
    choose_kernels("neon");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(
        std::string(error.what()).find("unknown instruction set 'neon'; this CPU has: scalar"),
        std::string::npos);
    EXPECT_EQ(error.where(), "--cpu-isa");
  }
}

TEST(Kernels, ObjectsWithTheirOwnFlagsDefineNoWeakSymbol) {
  if (sanitizer::kAny)
    GTEST_SKIP() << "a sanitizer adds weak data symbols of its own; the release suite judges";
  EXPECT_EQ(weak_symbols_in(build_path("cpu_attn"), "strata::cpu_attn::"), "");
}

}  // namespace
}  // namespace strata::cpu_attn

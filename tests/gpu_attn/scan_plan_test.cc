// The gates of kernels are told by hand what shared memory a scan is launched with.
#include "gpu_attn/scan_plan.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "tests/tree_paths.h"

namespace strata::gpu_attn {
namespace {

template <class Plan>
std::string entry_of() {
  return "\"scan_codes/scan_codes_kernel<ScanPlan<" + std::to_string(Plan::kChunks) + "u, " +
         std::to_string(Plan::kKeys) + "u, " + std::to_string(Plan::kTiles) +
         "u>>\": " + std::to_string(scan_shared_bytes_max<Plan>());
}

TEST(ScanPlan, TheGatesKnowTheMostSharedMemoryOfALaunch) {
  std::ifstream file(tree_path("tests/gpu_gates/expected.json"));
  const std::string table{std::istreambuf_iterator<char>(file), {}};
  for (const std::string& entry : {entry_of<ScanPlan<1, 2, 1>>(), entry_of<ScanPlan<1, 2, 2>>(),
                                   entry_of<ScanPlan<1, 1, 1>>(), entry_of<ScanPlan<1, 1, 2>>(),
                                   entry_of<ScanPlan<2, 1, 1>>(), entry_of<ScanPlan<2, 1, 2>>()})
    EXPECT_TRUE(table.find(entry + ",\n") != std::string::npos ||
                table.find(entry + "\n") != std::string::npos)
        << entry;
}

}  // namespace
}  // namespace strata::gpu_attn

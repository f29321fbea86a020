// Fuzzes the reader of machine profiles: any bytes as the file. Wanted: strata::Error that says
// what, where and what to do, or a profile whose every rate a plan may divide by, and which is the
// same after it was written and read again.
// Run: profile_fuzz -max_len=4096 -rss_limit_mb=2048 -malloc_limit_mb=64 -timeout=10 CORPUS_DIR
//      tests/fuzz/seeds/profile_fuzz
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "tools/cli/machine_profile_file.h"

namespace {

using strata::planner::MachineProfile;

void hold(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

void hold_rate(double rate) { hold(std::isfinite(rate) && rate > 0, "a rate to divide by"); }

void hold_time(double us) { hold(std::isfinite(us) && us >= 0, "a time"); }

void check(const MachineProfile& profile) {
  hold_rate(profile.dram_read_bytes_per_s);
  hold_rate(profile.dram_copy_bytes_per_s);
  for (const auto& of : profile.linear) {
    hold_rate(of.gemv_bytes_per_s);
    hold_rate(of.gemm_flops);
    hold_rate(of.pack_bytes_per_s);
  }
  for (const auto& of : profile.attend) {
    hold_rate(of.decode_bytes_per_s);
    hold_rate(of.prefill_flops);
    hold_time(of.decode_layer_us);
  }
  hold_time(profile.step_cost.step_us);
  hold_time(profile.step_cost.layer_us);
  hold_rate(profile.step_cost.row_values_per_s);
  for (const auto& of : profile.disk_read) hold_rate(of.bytes_per_s);
  if (!profile.disk.empty()) {
    hold_rate(profile.disk_read_bytes_per_s);
    hold_rate(profile.disk_write_bytes_per_s);
    hold_rate(profile.disk_alone.bytes_per_s);
  }
  for (const auto& of : profile.pairs)
    for (const double share : {of.first_share, of.second_share})
      hold(share > 0 && share <= 1, "a share");
  if (profile.gpu.hbm_bytes > 0) hold_rate(profile.gpu.host_to_device.bytes_per_s);
  hold(profile.n_threads > 0, "a thread");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  MachineProfile profile;
  try {
    profile = strata::cli::parse_machine_profile(text, "fuzz.json");
  } catch (const strata::Error& error) {
    hold(error.code() == strata::ErrorCode::kBadFile, "a bad file");
    hold(error.what()[0] != '\0' && error.where() == "fuzz.json", "an error says what and where");
    hold(!error.remedy().empty(), "an error says what to do");
    return 0;
  }
  check(profile);
  const std::string written = strata::cli::machine_profile_json(profile);
  const MachineProfile again = strata::cli::parse_machine_profile(written, "again.json");
  hold(strata::cli::machine_profile_json(again) == written, "the same after writing and reading");
  return 0;
}

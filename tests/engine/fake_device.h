// tests/engine/fake_device.h - a device table over host memory that fails where a test says so.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/device_table.h"

namespace strata::engine::testing {

/// What the one fake machine does and has done. Errors are CUDA's numbers, or those of
/// gpu_attn/cuda_errors.h.
struct FakeMachine {
  std::vector<uint32_t> capabilities = {90};  // of its devices
  std::map<std::string, int> errors;          // by the table's name of a function: what it returns
  std::map<std::string, uint64_t> calls;      // by that name
  int64_t n_live = 0;                         // devices, buffers, pins, streams, events and graphs
};

/// Set anew by each test.
FakeMachine& fake_machine();

const DeviceTable& fake_table();

}  // namespace strata::engine::testing

// gpu_attn/open_module.h - finds the CUDA module and asks it for devices. Why at run time: one
// program for machines with and without a card; all of CUDA lies in the module. What can be wrong
// (no module, another version's, no driver, an old one, no card) is a reason, never an error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/device_table.h"

namespace strata::gpu_attn {

inline constexpr char kCudaModuleName[] = "strata_cuda.so";

struct CudaDevices {
  const DeviceTable* table = nullptr;  // null: no device can be used; lasts as long as the process
  uint32_t n_devices = 0;
  std::string module;  // the path it was opened at, if it was
  std::string reason;  // why there is none: "no CUDA device: ..."
};

/// Where the module is looked for, in order: beside the program, in the library folder of an
/// installation, where this build made it.
std::vector<std::string> cuda_module_paths();

/// What a table says of the devices of this machine.
CudaDevices count_devices(const DeviceTable& table, const std::string& module = "");

/// Opens the first of `paths` that exists and counts; it stays open. Blocks for the driver's start,
/// some 0.1 s.
CudaDevices find_cuda_devices(const std::vector<std::string>& paths = cuda_module_paths());

}  // namespace strata::gpu_attn

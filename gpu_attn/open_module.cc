#include "gpu_attn/open_module.h"

#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace strata::gpu_attn {
namespace {

namespace fs = std::filesystem;

CudaDevices none(const std::string& reason, const std::string& module = "") {
  CudaDevices devices;
  devices.module = module;
  devices.reason = "no CUDA device: " + reason;
  return devices;
}

std::string joined(const std::vector<std::string>& paths) {
  std::string text;
  for (const std::string& path : paths) text += (text.empty() ? "" : ", ") + path;
  return text;
}

/// The table of a module, or null and why. The module is never closed: its runtime has
/// registered itself with the process, and threads may be inside the driver.
const DeviceTable* open_table(const std::string& path, std::string& reason) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* words = dlerror();
    reason = "the CUDA module cannot be loaded: " + std::string(words != nullptr ? words : path);
    return nullptr;
  }
  const auto function = reinterpret_cast<DeviceTableFunction>(dlsym(library, kDeviceTableSymbol));
  if (function == nullptr) {
    reason = path + " is no CUDA module of Strata";
    return nullptr;
  }
  const DeviceTable* table = function(kDeviceAbi);
  if (table == nullptr || table->abi != kDeviceAbi || table->table_bytes != sizeof(DeviceTable)) {
    reason = path + " belongs to another version of Strata";
    return nullptr;
  }
  return table;
}

}  // namespace

std::vector<std::string> cuda_module_paths() {
  std::vector<std::string> paths;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path folder = program.parent_path();
  if (!error) paths.push_back((folder / kCudaModuleName).string());
#ifdef STRATA_MODULE_FOLDER_FROM_PROGRAM
  if (!error)
    paths.push_back(
        (folder / STRATA_MODULE_FOLDER_FROM_PROGRAM / kCudaModuleName).lexically_normal().string());
#endif
#ifdef STRATA_BUILT_MODULE_FOLDER
  paths.push_back(std::string(STRATA_BUILT_MODULE_FOLDER) + "/" + kCudaModuleName);
#endif
  return paths;
}

CudaDevices count_devices(const DeviceTable& table, const std::string& module) {
  CudaDevices devices;
  const int error = table.count(&devices.n_devices);
  if (error != 0) {
    const bool is_old = table.status(error) == DeviceStatus::kOldDriver;
    const std::string words = table.message(error);
    return none(is_old ? "the NVIDIA driver is too old: " + words : words, module);
  }
  if (devices.n_devices == 0) return none("the machine has none", module);
  devices.table = &table;
  devices.module = module;
  return devices;
}

CudaDevices find_cuda_devices(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    // A name without a slash would be looked for in the system's folders.
    const fs::path absolute = fs::absolute(path, error);
    std::string reason;
    const DeviceTable* table = open_table(error ? path : absolute.string(), reason);
    return table == nullptr ? none(reason, path) : count_devices(*table, path);
  }
  return none("the CUDA module is not installed (looked for " + joined(paths) + ")");
}

}  // namespace strata::gpu_attn

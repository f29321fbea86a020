// A CUDA module that is wrong in the way that FAKE_KIND says, or right ("works").
#include <cstring>
#include <string_view>

#include "base/device_table.h"

namespace strata {
namespace {

constexpr std::string_view kKind = FAKE_KIND;

int count(uint32_t* n_devices) {
  *n_devices = kKind == "works" ? 2 : 0;
  if (kKind == "no_device") return 100;
  return kKind == "old_driver" ? 35 : 0;
}

DeviceStatus status(int error) {
  return error == 35 ? DeviceStatus::kOldDriver : DeviceStatus::kNoDevice;
}

const char* message(int error) { return error == 35 ? "old words" : "none there"; }

DeviceTable make_table() {
  DeviceTable table{};
  table.abi = kDeviceAbi;
  table.table_bytes = sizeof(DeviceTable) - (kKind == "other_size" ? 8 : 0);
  table.count = count;
  table.status = status;
  table.message = message;
  return table;
}

}  // namespace
}  // namespace strata

#ifdef FAKE_HAS_SYMBOL
extern "C" const strata::DeviceTable* strata_device_table(uint32_t abi) {
  static const strata::DeviceTable table = strata::make_table();
  return strata::kKind == "other_abi" || abi != strata::kDeviceAbi ? nullptr : &table;
}
#else
extern "C" const strata::DeviceTable* another_function(uint32_t) {
  static const strata::DeviceTable table = strata::make_table();
  return &table;
}
#endif

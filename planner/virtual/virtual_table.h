// planner/virtual/virtual_table.h - the virtual device as a DeviceTable: what drives a card drives
// it unchanged. open() knows the profiles by their place in device_profiles(); who wants other
// options makes a VirtualDevice and hands out its pointer.
#pragma once

#include "base/device_table.h"
#include "planner/virtual/virtual_device.h"

namespace strata::planner {

const DeviceTable& virtual_table();

/// The pointer that the table's functions take.
Device* as_device(VirtualDevice& device);
/// Of a pointer that open() or as_device() gave.
VirtualDevice& virtual_device(Device* device);

}  // namespace strata::planner

// planner/virtual/kernel_cost.h - what a device operation reads, writes, moves and computes, by
// formula from its arguments. Why: a virtual device charges a kernel for it, and orders it by it.
//
// Each formula counts every byte once, as if the caches held what is read again inside a kernel;
// the weights of a product of many rows are written and read again in f16 (base/device_kernels.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/device_kernels.h"
#include "planner/virtual/access_log.h"

namespace strata::planner {

enum class FlopUnit : uint8_t {
  kF32,
  kInt8,
  kF16Tensor,
  kAttendTensor,  // the same, of attention: what it gets of them differs
};

/// Bytes that an operation touches, and how many move: fewer where it reads some rows of a table,
/// more where it passes over a buffer twice.
struct TouchedRange {
  ByteRange range = {};
  uint64_t moved_bytes = 0;
};

struct KernelCost {
  const char* name = "";
  uint64_t flop = 0;  // multiply and add count as two
  FlopUnit unit = FlopUnit::kF32;
  bool is_gemv = false;  // a product of few rows
  std::vector<TouchedRange> reads = {};
  std::vector<TouchedRange> writes = {};  // what is written in part stands among the reads too

  uint64_t bytes() const;
};

KernelCost kernel_cost(const DeviceEmbedArgs& args);
KernelCost kernel_cost(const DeviceNormArgs& args);
KernelCost kernel_cost(const DeviceQuantizeArgs& args);
KernelCost kernel_cost(const DeviceLinearArgs& args);
/// Of the first three below the tables of blocks and the positions, of the last three the lists are
/// read here, when the operation starts.
KernelCost kernel_cost(const DeviceRotateArgs& args);
KernelCost kernel_cost(const DeviceAttendArgs& args);
KernelCost kernel_cost(const DevicePrefillArgs& args);
KernelCost kernel_cost(const DeviceCopyBlocksArgs& args);
KernelCost kernel_cost(const DeviceSetWordsArgs& args);
KernelCost kernel_cost(const DeviceScanArgs& args);
KernelCost kernel_cost(const DeviceMergeArgs& args);
KernelCost kernel_cost(const DeviceActivateArgs& args);
KernelCost kernel_cost(const DeviceArgmaxArgs& args);

/// What kernel_cost() reads itself, in stages: where one lies is known from the bytes of those
/// before it. Nothing behind the last one, and for the other operations.
template <class Args>
std::vector<ByteRange> tables_of(const Args&, uint32_t) {
  return {};
}
std::vector<ByteRange> tables_of(const DeviceRotateArgs& args, uint32_t stage);
std::vector<ByteRange> tables_of(const DeviceAttendArgs& args, uint32_t stage);
std::vector<ByteRange> tables_of(const DevicePrefillArgs& args, uint32_t stage);
std::vector<ByteRange> tables_of(const DeviceCopyBlocksArgs& args, uint32_t stage);
std::vector<ByteRange> tables_of(const DeviceSetWordsArgs& args, uint32_t stage);
std::vector<ByteRange> tables_of(const DeviceScanArgs& args, uint32_t stage);

}  // namespace strata::planner

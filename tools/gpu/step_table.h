// tools/gpu/step_table.h - a device's table whose operations are looked at as a step queues them:
// timed one by one, or predicted. Why: where the time of a step goes is asked of the operations
// that it really queues, on a card and on a virtual device alike.
//
// An operation's time is that between an event before it and one after it on its stream: its launch
// is in it, and the events keep it from the next one's start. So the sum of all is more than the
// step takes without events; how much more says how little lies between the kernels.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/device_table.h"

namespace strata::gpu_bench {

/// Operations of one name: "attend", "linear 14336 14336 x 4096".
struct OperationTime {
  std::string name;
  uint32_t n_calls = 0;
  double us = 0;       // of all calls
  uint64_t bytes = 0;  // by formula; those of virtual devices alone
  uint64_t flop = 0;
};

/// The table made last is the one that its functions know: they are given no other.
class StepTable {
 public:
  /// Of a virtual device without bytes, kernels are given the host's memory that a copy brought
  /// what they read positions from: the formulas of their cost look at it.
  StepTable(const DeviceTable& of, Device* device, bool is_virtual = false);
  ~StepTable();
  StepTable(const StepTable&) = delete;
  StepTable& operator=(const StepTable&) = delete;

  const DeviceTable& table() const { return table_; }

  /// What is queued from here on is timed.
  void begin();
  /// Waits; `operations` are those since begin(), in the order of their first calls. Returns 0 or
  /// the device's error number.
  int end(DeviceStream* stream, std::vector<OperationTime>* operations);

 private:
  struct Call {
    uint64_t operation;
    DeviceEvent* begin;
    DeviceEvent* end;
  };
  struct Copied {
    const std::byte* from;
    uint64_t bytes;
  };

  template <class Args, int (*DeviceKernels::*kOperation)(DeviceStream*, const Args&)>
  static int kernel(DeviceStream* stream, const Args& args);
  static int copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes);
  uint64_t find(const std::string& name);
  int record(DeviceStream* stream, DeviceEvent** event);
  template <class Run>
  int run(DeviceStream* stream, const std::string& name, const Run& run);
  const uint32_t* source_of(const uint32_t* positions) const;
  void forget_calls();

  static StepTable* current_;
  StepTable* before_;
  const DeviceTable& device_table_;
  Device* device_;
  bool is_virtual_;
  bool is_timing_ = false;
  DeviceTable table_;
  std::vector<OperationTime> operations_;
  std::vector<Call> calls_;
  std::map<const std::byte*, Copied> copies_;  // by where they went
};

}  // namespace strata::gpu_bench

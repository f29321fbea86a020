// tests/gpu_attn/deferred_table.h - a device that does work as late, or other streams' work as
// early, as events allow. Why: a device whose streams are never behind shows no missing wait.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>

#include "base/device_table.h"

namespace strata::gpu_test {

/// Which streams run on when the host waits for one.
enum class DeferredOrder : uint8_t {
  kOthersFirst,  // all others, as far as they come
  kOthersLast,   // the others only where the one waits for them
};

/// One at a time: its functions know no other. Work is queued and runs on the device's own table
/// when the host waits for a stream; the host may wait for nothing else. No captures.
class DeferredTable {
 public:
  DeferredTable(const DeviceTable& device, DeferredOrder order);
  ~DeferredTable();
  DeferredTable(const DeferredTable&) = delete;
  DeferredTable& operator=(const DeferredTable&) = delete;

  const DeviceTable& table() const { return table_; }

 private:
  struct Event {
    uint64_t n_recorded = 0;  // by calls
    uint64_t n_done = 0;
  };
  struct Operation {
    std::function<int()> run;  // empty: waits for the event
    const Event* event = nullptr;
    uint64_t n_wanted = 0;
  };
  struct Stream {
    DeviceStream* own = nullptr;
    std::deque<Operation> operations;
  };

  template <class Args, int (*DeviceKernels::*kOperation)(DeviceStream*, const Args&)>
  static int kernel(DeviceStream* stream, const Args& args);
  static Stream& of(DeviceStream* stream) { return *reinterpret_cast<Stream*>(stream); }
  static Event& of(DeviceEvent* event) { return *reinterpret_cast<Event*>(event); }
  static int create_stream(Device* device, DeviceStream** stream);
  static int destroy_stream(DeviceStream* stream);
  static int create_event(Device* device, DeviceEvent** event);
  static int destroy_event(DeviceEvent* event);
  static int copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes);
  static int fill(DeviceStream* stream, void* to, uint8_t value, uint64_t bytes);
  static int record(DeviceStream* stream, DeviceEvent* event);
  static int await(DeviceStream* stream, DeviceEvent* event);
  static int wait_stream(DeviceStream* stream);
  static bool can_go_on(const Stream& stream);
  static int run_next(Stream& stream);
  int run_others(const Stream& but);
  int run_all_of(Stream& stream);

  static DeferredTable* current_;
  const DeviceTable& device_;
  DeferredOrder order_;
  DeviceTable table_;
  std::list<std::unique_ptr<Stream>> streams_;
};

}  // namespace strata::gpu_test

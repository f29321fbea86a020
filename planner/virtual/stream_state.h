// planner/virtual/stream_state.h - what stands behind the streams, events and graphs of a virtual
// device.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "planner/virtual/access_log.h"
#include "planner/virtual/kernel_cost.h"
#include "planner/virtual/virtual_clock.h"

namespace strata::planner {

class VirtualDevice;
struct VirtualStream;

/// One recording of an event.
struct Moment {
  bool is_over = false;
  VirtualTime time{};
  VectorClock clock = {};                    // of all before it
  std::vector<VirtualStream*> waiting = {};  // streams that stand at it
  uint64_t capture = 0;                      // number of the capture it stands in; 0 = none
};

/// A kernel: what it costs, known when it starts, and what it does, if anything.
struct KernelCall {
  const char* name = "";
  std::function<std::vector<ByteRange>(uint32_t stage)> tables = {};  // as tables_of()
  std::function<KernelCost()> cost = {};
  std::function<int()> effect = {};  // may be empty
};

enum class TaskKind : uint8_t { kCopy, kFill, kKernel, kRecord, kAwait };

/// An entry of a stream's queue.
struct Task {
  TaskKind kind = TaskKind::kKernel;
  uint64_t called = 0;  // number of the call that asked for it
  Access by = {};
  VectorClock clock = {};
  ByteRange from = {}, to = {};
  uint8_t value = 0;
  KernelCall kernel = {};
  std::shared_ptr<Moment> moment = {};
  bool is_in_graph = false;
  // Of a copy from the host: what its source held when the copy was asked for, and who had written
  // it last.
  std::optional<uint64_t> asked_hash = {};
  uint64_t asked_write = 0;
  // From the start on.
  VirtualTime begin{};
  KernelCost cost = {};
  std::optional<uint64_t> source_hash = {};
  uint32_t n_parts = 0;  // under way
  bool is_sound = true;  // no hazard was found: bytes may be touched
};

/// What is queued between begin_capture() and end_capture().
struct Capture {
  struct Item {
    uint32_t lane;
    Task task;
  };
  uint64_t number = 0;
  std::vector<Item> items;
  std::vector<VirtualStream*> streams;  // by lane; the first is where the capture began
  std::vector<VectorClock> clocks;      // by lane
};

struct VirtualStream {
  VirtualDevice* device = nullptr;
  uint32_t line = 0;  // of the vector clocks
  bool is_alive = true;
  bool is_running = false;  // the first task is under way
  VectorClock clock;
  std::deque<Task> tasks;
  Capture* capture = nullptr;
  uint32_t capture_lane = 0;
};

struct VirtualEvent {
  VirtualDevice* device = nullptr;
  bool is_alive = true;
  std::shared_ptr<Moment> moment;  // null: never recorded
};

struct VirtualGraph {
  VirtualDevice* device = nullptr;
  bool is_alive = true;
  std::vector<Capture::Item> items;
  std::vector<VirtualStream*> streams;  // of lanes 1 and up; the device's
};

}  // namespace strata::planner

// planner/virtual/virtual_device.h - a graphics card, its link, the DRAM and the disk beside it, in
// virtual time. Why: schedules, budgets and predictions for cards that are not there, and a judge
// of the program that drives a card: whatever the timing, an operation that no event orders, a
// buffer used again too soon or memory used after its release is named.
//
// What runs: kernels one after another, whatever their streams; a copy engine for each direction,
// first come first served; the host, whose calls take no time but for waits, queries and work. A
// kernel takes its launch and the longest of bytes / bandwidth, operations / peak and, where its
// pointers lie in pinned memory, the link. A copy takes alpha + bytes / rate, in chunks of 1 MiB.
// Copies, kernels that read pinned memory, the disk and the CPU share DRAM (shared_flows.h).
//
// Adversary: when an operation starts, what it will write becomes 0xFF, and what it writes is there
// when it ends; a source is hashed when a copy from the host is asked for, at its start and at its
// end. Every range is checked against places taken and pinned and against the order that streams
// and events make (access_log.h). The first hazard is the answer of every later call.
//
// Not modelled: the host's time to queue, kernels side by side, caches, HBM traffic of copies,
// clocks that sink with heat. Calls come from one thread.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/device_table.h"
#include "base/trace.h"
#include "planner/virtual/access_log.h"
#include "planner/virtual/device_memory.h"
#include "planner/virtual/device_profile.h"
#include "planner/virtual/shared_flows.h"
#include "planner/virtual/stream_state.h"
#include "planner/virtual/virtual_clock.h"
#include "planner/virtual/virtual_error.h"
#include "planner/virtual/virtual_nvme.h"

namespace strata::planner {

struct VirtualDeviceOptions {
  double reserve_share = 0.05;                   // of HBM: what a desktop and the driver take
  uint64_t context_bytes = uint64_t{512} << 20;  // of the driver's context
  uint64_t hbm_bytes_max = 0;                    // of what is left; 0 = all
  uint64_t pinned_bytes_max = 0;                 // 0 = three quarters of the profile's DRAM
  // Memory has bytes, which copies and effects move: for what is small. Else addresses lead
  // nowhere; tables and positions that kernels read lie in pinned memory that is there.
  bool has_bytes = true;
  // Give kernels their effect when they end: each is called with the same arguments and this
  // stream. Null: outputs stay 0xFF.
  const DeviceKernels* effects = nullptr;
  DeviceStream* effects_stream = nullptr;
  std::vector<NvmeFault> nvme_faults = {};
  Trace* trace = nullptr;  // kernels and host work as operations, transfers as reads and writes
};

/// Work of the CPU that the host waits for.
struct HostWork {
  const char* name = "";
  uint64_t dram_bytes = 0;
  double bytes_per_s = 0;  // of the CPU alone; DRAM may give less
  std::vector<ByteRange> reads = {}, writes = {};
};

/// Parts of the machine, in the order in which the first of equals is named.
enum class Part : uint8_t { kLinkIn, kLinkOut, kNvme, kDram, kCpu, kGpu };
inline constexpr size_t kParts = 6;
const char* part_name(Part part);  // "link in", "DRAM"

/// Seconds of full use of each part until a time: bytes over the rate for lanes, time at work for
/// the CPU and the GPU (waits of kernels for the link not included).
struct Usage {
  VirtualTime time{};
  std::array<double, kParts> busy_s{};
};

struct BusyPart {
  Part part = Part::kGpu;
  double share = 0;  // of the time between the two usages
};
BusyPart busiest_part(const Usage& from, const Usage& to);

class VirtualDevice {
 public:
  explicit VirtualDevice(const DeviceProfile& profile, VirtualDeviceOptions options = {});
  ~VirtualDevice();
  VirtualDevice(const VirtualDevice&) = delete;
  VirtualDevice& operator=(const VirtualDevice&) = delete;

  // The functions of base/device_table.h, in its order. Destroying a stream, event or graph is
  // setting its is_alive; what is queued goes on.
  int facts(DeviceFacts* facts) const;
  int allocate(uint64_t bytes, void** memory);
  int release(void* memory);
  int pin(void* memory, uint64_t bytes, void** mapped);
  int unpin(void* memory);
  int create_stream(VirtualStream** stream);
  int create_event(VirtualEvent** event);
  int copy(VirtualStream* stream, void* to, const void* from, uint64_t bytes);
  int fill(VirtualStream* stream, void* to, uint8_t value, uint64_t bytes);
  int record(VirtualStream* stream, VirtualEvent* event);
  int await(VirtualStream* stream, VirtualEvent* event);
  int query(VirtualEvent* event, bool* is_done);
  int wait_event(VirtualEvent* event);
  int wait_stream(VirtualStream* stream);
  int elapsed_ms(VirtualEvent* begin, VirtualEvent* end, float* ms) const;
  int begin_capture(VirtualStream* stream);
  int end_capture(VirtualStream* stream, VirtualGraph** graph);
  int launch_graph(VirtualStream* stream, VirtualGraph* graph);
  int queue_kernel(VirtualStream* stream, KernelCall kernel);

  // What no card's driver has.
  /// The host works and waits for the end.
  int host_work(const HostWork& work);
  /// Reads of the disk into DRAM; `from`, where not null, is what it holds there. `read` is for
  /// wait_read(), once.
  int start_read(void* to, const void* from, uint64_t bytes, uint64_t* read);
  int wait_read(uint64_t read, NvmeOutcome* outcome, uint64_t* bytes);

  const DeviceProfile& profile() const { return profile_; }
  const VirtualDeviceOptions& options() const { return options_; }
  const VirtualClock& clock() const { return clock_; }
  const DeviceMemory& memory() const { return memory_; }
  const std::vector<Hazard>& hazards() const { return hazards_; }
  /// The first hazard's number, or 0.
  int error() const { return hazards_.empty() ? 0 : number_of(hazards_.front().error); }
  Usage usage();

 private:
  // One task at a time, in the order in which they came to stand first in their streams.
  struct TaskEngine {
    std::deque<VirtualStream*> waiting;
    bool is_busy = false;
  };
  struct Read {
    Access by;
    VectorClock clock;
    ByteRange to;
    const void* from = nullptr;
    bool is_over = false;
    NvmeOutcome outcome = NvmeOutcome::kOk;
    uint64_t bytes = 0;
  };

  // virtual_device.cc
  uint32_t take_line();
  Access host_access(const char* name);
  std::string place_text(const ByteRange& range) const;
  std::string access_text(const Access& access) const;
  void report(VirtualError error, std::string text);
  bool check_place(const ByteRange& range, const Access& by, uint64_t called);
  bool check_order(const ByteRange& range, bool writes, const Access& by, const VectorClock& clock);
  void add_trace(TraceKind kind, const char* name, uint32_t index, VirtualTime begin,
                 uint64_t bytes, uint64_t detail);
  void end_read(uint64_t read, VirtualTime begin, NvmeOutcome outcome, uint64_t bytes);

  // device_tasks.cc
  int refusal(const VirtualStream* stream) const;
  int queue(VirtualStream& stream, Task task);
  void run(VirtualStream& stream);
  TaskEngine& engine_of(const Task& task);
  void serve(TaskEngine& engine);
  void begin(VirtualStream& stream);
  void check_tables(Task& task);
  void check(Task& task);
  void check_source(Task& task);
  void poison_outputs(const Task& task) const;
  void start_copy(VirtualStream& stream, Lane lane, double alpha_us);
  void start_chunk(VirtualStream& stream, Lane lane, uint64_t left);
  void start_kernel(VirtualStream& stream);
  void end_part(VirtualStream& stream);
  void end(VirtualStream& stream);
  void apply(Task& task);

  // device_capture.cc
  int keep(VirtualStream& stream, Task task);

  VirtualDeviceOptions options_;
  const DeviceProfile& profile_;
  VirtualClock clock_;
  SharedFlows flows_;
  VirtualNvme nvme_;
  DeviceMemory memory_;
  AccessLog log_;
  std::vector<Hazard> hazards_;
  std::vector<std::unique_ptr<VirtualStream>> streams_;
  std::vector<std::unique_ptr<VirtualEvent>> events_;
  std::vector<std::unique_ptr<VirtualGraph>> graphs_;
  std::vector<std::unique_ptr<Capture>> captures_;  // open ones
  TaskEngine copies_in_, copies_out_, kernels_;
  VectorClock host_clock_;
  bool host_is_working_ = false;
  uint32_t n_lines_ = 1;              // 0 is the host
  std::vector<uint32_t> free_lines_;  // of reads that were waited for
  std::map<uint64_t, Read> reads_;
  uint64_t n_calls_ = 0;
  uint64_t n_operations_ = 0;
  uint64_t n_captures_ = 0;
  uint64_t n_reads_ = 0;
  double gpu_busy_s_ = 0;
  double cpu_busy_s_ = 0;
};

}  // namespace strata::planner

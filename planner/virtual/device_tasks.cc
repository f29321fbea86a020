// The queues of a virtual device: what its streams hold, when it starts, what is checked, when it
// ends.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/step_plan.h"
#include "planner/virtual/virtual_device.h"

namespace strata::planner {
namespace {

constexpr uint32_t kHostLine = 0;
constexpr uint64_t kCopyLabel = 4, kKernelLabel = 5, kLinkLabel = 6;
constexpr uint64_t kChunkBytes = uint64_t{1} << 20;
constexpr VirtualTime kQueryTime{1000};  // so that a host that asks in a loop sees time go by

ByteRange range_of(const void* begin, uint64_t bytes) {
  return {reinterpret_cast<uint64_t>(begin), bytes};
}

uint64_t label_of(uint64_t kind, const Task& task) { return kind << 56 | task.by.number; }

}  // namespace

/// Why nothing may be queued on a stream, or 0.
int VirtualDevice::refusal(const VirtualStream* stream) const {
  if (stream == nullptr) return number_of(VirtualError::kDefaultStream);
  if (!stream->is_alive) return number_of(VirtualError::kGone);
  return error();
}

int VirtualDevice::create_stream(VirtualStream** stream) {
  *stream = nullptr;
  if (error() != 0) return error();
  streams_.push_back(std::make_unique<VirtualStream>());
  *stream = streams_.back().get();
  (*stream)->device = this;
  (*stream)->line = n_lines_++;
  return 0;
}

int VirtualDevice::create_event(VirtualEvent** event) {
  *event = nullptr;
  if (error() != 0) return error();
  events_.push_back(std::make_unique<VirtualEvent>());
  *event = events_.back().get();
  (*event)->device = this;
  return 0;
}

int VirtualDevice::copy(VirtualStream* stream, void* to, const void* from, uint64_t bytes) {
  if (const int number = refusal(stream); number != 0) return number;
  if (bytes == 0) return 0;
  Task task{.kind = TaskKind::kCopy, .from = range_of(from, bytes), .to = range_of(to, bytes)};
  const bool is_out = !memory_.is_device(task.to.begin);
  const bool is_in = !memory_.is_device(task.from.begin);
  if (is_in && is_out) return number_of(VirtualError::kHostCopy);
  if (is_in || is_out) {
    const MemoryKind kind = memory_.find(is_in ? task.from : task.to).kind;
    if (kind != MemoryKind::kPinned) return number_of(VirtualError::kPageableCopy);
  }
  task.by.name = is_in ? "copy in" : is_out ? "copy out" : "copy";
  if (is_in && memory_.has_bytes() && stream->capture == nullptr) {
    task.asked_write = log_.last_write(task.from);
    const bool is_being_written = std::ranges::any_of(streams_, [&](const auto& other) {
      return other->is_running && other->tasks.front().by.number == task.asked_write;
    });
    if (!is_being_written) task.asked_hash = bytes_hash(task.from);
  }
  return queue(*stream, std::move(task));
}

int VirtualDevice::fill(VirtualStream* stream, void* to, uint8_t value, uint64_t bytes) {
  if (const int number = refusal(stream); number != 0) return number;
  if (bytes == 0) return 0;
  Task task{.kind = TaskKind::kFill, .to = range_of(to, bytes), .value = value};
  task.by.name = "fill";
  return queue(*stream, std::move(task));
}

int VirtualDevice::queue_kernel(VirtualStream* stream, KernelCall kernel) {
  if (const int number = refusal(stream); number != 0) return number;
  Task task{.kind = TaskKind::kKernel};
  task.by.name = kernel.name;
  task.kernel = std::move(kernel);
  return queue(*stream, std::move(task));
}

int VirtualDevice::record(VirtualStream* stream, VirtualEvent* event) {
  if (const int number = refusal(stream); number != 0) return number;
  if (!event->is_alive) return number_of(VirtualError::kGone);
  event->moment = std::make_shared<Moment>();
  Task task{.kind = TaskKind::kRecord};
  task.by.name = "record";
  task.moment = event->moment;
  return queue(*stream, std::move(task));
}

/// An event that was never recorded holds nothing up, as in CUDA.
int VirtualDevice::await(VirtualStream* stream, VirtualEvent* event) {
  if (const int number = refusal(stream); number != 0) return number;
  if (!event->is_alive) return number_of(VirtualError::kGone);
  if (event->moment == nullptr) return 0;
  Task task{.kind = TaskKind::kAwait};
  task.by.name = "await";
  task.moment = event->moment;
  return queue(*stream, std::move(task));
}

int VirtualDevice::query(VirtualEvent* event, bool* is_done) {
  if (!event->is_alive) return number_of(VirtualError::kGone);
  const auto& moment = event->moment;
  if (moment != nullptr && moment->capture != 0) return number_of(VirtualError::kInCapture);
  clock_.run_until(clock_.now() + kQueryTime);
  *is_done = moment == nullptr || moment->is_over;
  if (*is_done && moment != nullptr) join(host_clock_, moment->clock);
  return error();
}

int VirtualDevice::wait_event(VirtualEvent* event) {
  if (!event->is_alive) return number_of(VirtualError::kGone);
  const auto moment = event->moment;
  if (moment == nullptr) return error();
  if (moment->capture != 0) return number_of(VirtualError::kInCapture);
  while (!moment->is_over) STRATA_CHECK(clock_.run_next(), "an event that does not come");
  join(host_clock_, moment->clock);
  return error();
}

int VirtualDevice::wait_stream(VirtualStream* stream) {
  if (stream == nullptr) return number_of(VirtualError::kDefaultStream);
  if (!stream->is_alive) return number_of(VirtualError::kGone);
  if (stream->capture != nullptr) return number_of(VirtualError::kInCapture);
  while (!stream->tasks.empty()) STRATA_CHECK(clock_.run_next(), "a stream that does not end");
  join(host_clock_, stream->clock);
  return error();
}

int VirtualDevice::elapsed_ms(VirtualEvent* begin, VirtualEvent* end, float* ms) const {
  for (const VirtualEvent* event : {begin, end}) {
    if (!event->is_alive) return number_of(VirtualError::kGone);
    if (event->moment == nullptr || !event->moment->is_over)
      return number_of(VirtualError::kNotRecorded);
  }
  const VirtualTime time = end->moment->time - begin->moment->time;
  *ms = static_cast<float>(std::chrono::duration<double, std::milli>(time).count());
  return error();
}

/// Puts a task behind the others of its stream, or into the capture that the stream is in.
int VirtualDevice::queue(VirtualStream& stream, Task task) {
  if (task.called == 0) task.called = ++n_calls_;
  if (stream.capture != nullptr || (task.moment != nullptr && task.moment->capture != 0))
    return keep(stream, std::move(task));
  join(stream.clock, host_clock_);
  if (task.kind == TaskKind::kAwait) join(stream.clock, task.moment->clock);
  advance(stream.clock, stream.line);
  task.by.line = stream.line;
  task.by.epoch = known(stream.clock, stream.line);
  task.by.number = ++n_operations_;
  task.clock = stream.clock;
  if (task.kind == TaskKind::kRecord) task.moment->clock = stream.clock;
  advance(host_clock_, kHostLine);
  stream.tasks.push_back(std::move(task));
  run(stream);
  return error();
}

/// Starts what stands first in a stream that waits for nothing.
void VirtualDevice::run(VirtualStream& stream) {
  while (!stream.is_running && !stream.tasks.empty()) {
    Task& task = stream.tasks.front();
    if (task.kind == TaskKind::kRecord) {
      const std::shared_ptr<Moment> moment = task.moment;
      moment->is_over = true;
      moment->time = clock_.now();
      stream.tasks.pop_front();
      for (VirtualStream* waiting : std::exchange(moment->waiting, {})) {
        waiting->is_running = false;
        run(*waiting);
      }
    } else if (task.kind == TaskKind::kAwait) {
      if (task.moment->is_over) {
        stream.tasks.pop_front();
        continue;
      }
      task.moment->waiting.push_back(&stream);
      stream.is_running = true;
    } else {
      stream.is_running = true;
      TaskEngine& engine = engine_of(task);
      engine.waiting.push_back(&stream);
      serve(engine);
    }
  }
}

VirtualDevice::TaskEngine& VirtualDevice::engine_of(const Task& task) {
  if (task.kind != TaskKind::kCopy) return kernels_;
  if (!memory_.is_device(task.from.begin)) return copies_in_;
  return memory_.is_device(task.to.begin) ? kernels_ : copies_out_;
}

void VirtualDevice::serve(TaskEngine& engine) {
  if (engine.is_busy || engine.waiting.empty()) return;
  engine.is_busy = true;
  VirtualStream& stream = *engine.waiting.front();
  engine.waiting.pop_front();
  begin(stream);
}

void VirtualDevice::begin(VirtualStream& stream) {
  Task& task = stream.tasks.front();
  task.begin = clock_.now();
  const uint64_t bytes = task.to.bytes;
  if (task.kind == TaskKind::kCopy)
    task.cost = {.name = task.by.name, .reads = {{task.from, bytes}}, .writes = {{task.to, bytes}}};
  else if (task.kind == TaskKind::kFill)
    task.cost = {.name = task.by.name, .writes = {{task.to, bytes}}};
  check(task);
  if (task.is_sound && memory_.has_bytes()) {
    check_source(task);
    poison_outputs(task);
  }
  TaskEngine& engine = engine_of(task);
  if (&engine == &copies_in_) return start_copy(stream, Lane::kLinkIn, profile_.in_alpha_us.value);
  if (&engine == &copies_out_)
    return start_copy(stream, Lane::kLinkOut, profile_.out_alpha_us.value);
  start_kernel(stream);
}

/// Whether what the cost of a kernel is computed from may be read here.
void VirtualDevice::check_tables(Task& task) {
  for (uint32_t stage = 0; task.is_sound; ++stage) {
    const std::vector<ByteRange> tables = task.kernel.tables(stage);
    if (tables.empty()) return;
    for (const ByteRange& table : tables) {
      if (table.bytes == 0 || !task.is_sound) continue;
      task.is_sound = check_place(table, task.by, task.called) &&
                      check_order(table, false, task.by, task.clock);
      if (!task.is_sound || memory_.has_bytes() || !memory_.is_device(table.begin)) continue;
      report(VirtualError::kNoBytes, access_text(task.by) + " reads a table, " + place_text(table) +
                                         ", on a device without bytes");
      task.is_sound = false;
    }
  }
}

/// Places and order of everything that a task touches. A kernel's ranges are asked for here: its
/// tables are what they are when it starts.
void VirtualDevice::check(Task& task) {
  if (task.kind == TaskKind::kKernel) {
    check_tables(task);
    if (task.is_sound) task.cost = task.kernel.cost();
  }
  for (const auto* touched : {&task.cost.reads, &task.cost.writes})
    for (const TouchedRange& of : *touched)
      task.is_sound = check_place(of.range, task.by, task.called) && task.is_sound;
  for (const TouchedRange& of : task.cost.reads)
    task.is_sound = check_order(of.range, false, task.by, task.clock) && task.is_sound;
  for (const TouchedRange& of : task.cost.writes)
    task.is_sound = check_order(of.range, true, task.by, task.clock) && task.is_sound;
}

/// Of a copy: the source is what it was when the copy was asked for, unless another operation has
/// written it since.
void VirtualDevice::check_source(Task& task) {
  if (task.kind != TaskKind::kCopy) return;
  task.source_hash = bytes_hash(task.from);
  if (!task.asked_hash || *task.asked_hash == *task.source_hash) return;
  if (log_.last_write(task.from) != task.asked_write) return;
  report(VirtualError::kSourceChanged, "the source of " + access_text(task.by) + ", " +
                                           place_text(task.from) +
                                           ", was written while the copy stood in its queue");
}

void VirtualDevice::poison_outputs(const Task& task) const {
  std::map<uint64_t, uint64_t> read;  // begin -> end, those that touch as one
  std::vector<ByteRange> sorted;
  sorted.reserve(task.cost.reads.size());
  for (const TouchedRange& of : task.cost.reads) sorted.push_back(of.range);
  std::ranges::sort(sorted, {}, &ByteRange::begin);
  for (const ByteRange& range : sorted) {
    if (!read.empty() && read.rbegin()->second >= range.begin)
      read.rbegin()->second = std::max(read.rbegin()->second, range.end());
    else
      read.emplace_hint(read.end(), range.begin, range.end());
  }
  for (const TouchedRange& write : task.cost.writes) {
    const auto after = read.lower_bound(write.range.end());
    const bool is_read = after != read.begin() && std::prev(after)->second > write.range.begin;
    if (!is_read) memory_.poison(write.range);
  }
}

void VirtualDevice::start_copy(VirtualStream& stream, Lane lane, double alpha_us) {
  Task& task = stream.tasks.front();
  task.n_parts = 1;
  clock_.at(clock_.now() + from_us(alpha_us), label_of(kCopyLabel, task),
            [this, &stream, lane, bytes = task.to.bytes] { start_chunk(stream, lane, bytes); });
}

void VirtualDevice::start_chunk(VirtualStream& stream, Lane lane, uint64_t left) {
  const uint64_t bytes = std::min(left, kChunkBytes);
  flows_.start(flow_over(bytes, lane, Lane::kDram), [this, &stream, lane, left, bytes] {
    if (left > bytes) return start_chunk(stream, lane, left - bytes);
    end_part(stream);
  });
}

void VirtualDevice::start_kernel(VirtualStream& stream) {
  Task& task = stream.tasks.front();
  double hbm_bytes = 0;
  uint64_t in_bytes = 0;
  uint64_t out_bytes = 0;
  for (const TouchedRange& of : task.cost.reads) {
    if (memory_.is_device(of.range.begin))
      hbm_bytes += static_cast<double>(of.moved_bytes);
    else
      in_bytes += of.moved_bytes;
  }
  for (const TouchedRange& of : task.cost.writes) {
    if (memory_.is_device(of.range.begin))
      hbm_bytes += static_cast<double>(of.moved_bytes);
    else
      out_bytes += of.moved_bytes;
  }
  const double flop_rate = task.cost.unit == FlopUnit::kF32         ? profile_.f32_rate()
                           : task.cost.unit == FlopUnit::kInt8      ? profile_.int8_rate()
                           : task.cost.unit == FlopUnit::kF16Tensor ? profile_.f16_tensor_rate()
                                                                    : profile_.attend_rate();
  const double hbm_rate = task.cost.is_gemv ? profile_.gemv_rate() : profile_.hbm_rate();
  const Figure& launch = task.is_in_graph ? profile_.graph_launch_us : profile_.launch_us;
  const VirtualTime time =
      from_us(launch.value) + std::max(duration_of(hbm_bytes, hbm_rate),
                                       duration_of(static_cast<double>(task.cost.flop), flop_rate));
  gpu_busy_s_ += std::chrono::duration<double>(time).count();
  task.n_parts = 1;
  const auto cross = [&](Lane lane, uint64_t bytes, double alpha_us) {
    if (bytes == 0) return;
    ++task.n_parts;
    clock_.at(
        clock_.now() + from_us(alpha_us), label_of(kLinkLabel, task), [this, &stream, lane, bytes] {
          flows_.start(flow_over(bytes, lane, Lane::kDram), [this, &stream] { end_part(stream); });
        });
  };
  cross(Lane::kLinkIn, in_bytes, profile_.in_alpha_us.value);
  cross(Lane::kLinkOut, out_bytes, profile_.out_alpha_us.value);
  clock_.at(clock_.now() + time, label_of(kKernelLabel, task),
            [this, &stream] { end_part(stream); });
}

void VirtualDevice::end_part(VirtualStream& stream) {
  if (--stream.tasks.front().n_parts == 0) end(stream);
}

void VirtualDevice::end(VirtualStream& stream) {
  Task& task = stream.tasks.front();
  if (task.is_sound && memory_.has_bytes()) apply(task);
  TaskEngine& engine = engine_of(task);
  if (&engine == &kernels_)
    add_trace(TraceKind::kOperation, task.by.name, kNoLayer, task.begin, task.cost.bytes(),
              task.cost.flop);
  else
    add_trace(&engine == &copies_in_ ? TraceKind::kRead : TraceKind::kWrite, task.by.name,
              &engine == &copies_in_ ? 0 : 1, task.begin, task.to.bytes, task.by.number);
  stream.tasks.pop_front();
  stream.is_running = false;
  engine.is_busy = false;
  run(stream);
  serve(engine);
}

/// What the task does to bytes, at its end.
void VirtualDevice::apply(Task& task) {
  std::byte* to = pointer_to(task.to.begin);
  if (task.kind == TaskKind::kFill) {
    std::memset(to, task.value, task.to.bytes);
  } else if (task.kind == TaskKind::kCopy) {
    if (bytes_hash(task.from) != *task.source_hash)
      report(VirtualError::kSourceChanged, "the source of " + access_text(task.by) + ", " +
                                               place_text(task.from) +
                                               ", was written while the copy ran");
    std::memmove(to, pointer_to(task.from.begin), task.to.bytes);
  } else if (task.kernel.effect) {
    const int number = task.kernel.effect();
    if (number != 0)
      report(VirtualError::kEffectFailed,
             access_text(task.by) + " gave error " + std::to_string(number));
  }
}

}  // namespace strata::planner

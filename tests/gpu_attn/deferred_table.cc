#include "tests/gpu_attn/deferred_table.h"

#include <stdexcept>

namespace strata::gpu_test {

DeferredTable* DeferredTable::current_ = nullptr;

template <class Args, int (*DeviceKernels::*kOperation)(DeviceStream*, const Args&)>
int DeferredTable::kernel(DeviceStream* stream, const Args& args) {
  DeviceStream* own = of(stream).own;
  of(stream).operations.push_back(
      {.run = [own, args] { return (current_->device_.kernels.*kOperation)(own, args); }});
  return 0;
}

DeferredTable::DeferredTable(const DeviceTable& device, DeferredOrder order)
    : device_(device), order_(order), table_(device) {
  if (current_ != nullptr) throw std::logic_error("two deferred tables");
  current_ = this;
  table_.create_stream = create_stream;
  table_.destroy_stream = destroy_stream;
  table_.create_event = create_event;
  table_.destroy_event = destroy_event;
  table_.copy = copy;
  table_.fill = fill;
  table_.record = record;
  table_.await = await;
  table_.wait_stream = wait_stream;
  DeviceKernels& k = table_.kernels;
  k = {};
  k.embed = kernel<DeviceEmbedArgs, &DeviceKernels::embed>;
  k.norm = kernel<DeviceNormArgs, &DeviceKernels::norm>;
  k.linear = kernel<DeviceLinearArgs, &DeviceKernels::linear>;
  k.rotate = kernel<DeviceRotateArgs, &DeviceKernels::rotate>;
  k.attend = kernel<DeviceAttendArgs, &DeviceKernels::attend>;
  k.merge = kernel<DeviceMergeArgs, &DeviceKernels::merge>;
  k.prefill = kernel<DevicePrefillArgs, &DeviceKernels::prefill>;
  k.activate = kernel<DeviceActivateArgs, &DeviceKernels::activate>;
  k.argmax = kernel<DeviceArgmaxArgs, &DeviceKernels::argmax>;
}

DeferredTable::~DeferredTable() { current_ = nullptr; }

int DeferredTable::create_stream(Device* device, DeviceStream** stream) {
  auto made = std::make_unique<Stream>();
  const int error = current_->device_.create_stream(device, &made->own);
  *stream = reinterpret_cast<DeviceStream*>(made.get());
  current_->streams_.push_back(std::move(made));
  return error;
}

int DeferredTable::destroy_stream(DeviceStream* stream) {
  if (stream == nullptr) return 0;
  const int error = current_->device_.destroy_stream(of(stream).own);
  current_->streams_.remove_if([stream](const auto& one) { return one.get() == &of(stream); });
  return error;
}

int DeferredTable::create_event(Device*, DeviceEvent** event) {
  *event = reinterpret_cast<DeviceEvent*>(new Event);
  return 0;
}

int DeferredTable::destroy_event(DeviceEvent* event) {
  delete &of(event);
  return 0;
}

int DeferredTable::copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
  DeviceStream* own = of(stream).own;
  of(stream).operations.push_back(
      {.run = [=] { return current_->device_.copy(own, to, from, bytes); }});
  return 0;
}

int DeferredTable::fill(DeviceStream* stream, void* to, uint8_t value, uint64_t bytes) {
  DeviceStream* own = of(stream).own;
  of(stream).operations.push_back(
      {.run = [=] { return current_->device_.fill(own, to, value, bytes); }});
  return 0;
}

int DeferredTable::record(DeviceStream* stream, DeviceEvent* event) {
  Event* of_event = &of(event);
  const uint64_t number = ++of_event->n_recorded;
  of(stream).operations.push_back({.run = [of_event, number] {
    of_event->n_done = number;
    return 0;
  }});
  return 0;
}

int DeferredTable::await(DeviceStream* stream, DeviceEvent* event) {
  of(stream).operations.push_back(
      {.run = {}, .event = &of(event), .n_wanted = of(event).n_recorded});
  return 0;
}

bool DeferredTable::can_go_on(const Stream& stream) {
  if (stream.operations.empty()) return false;
  const Operation& next = stream.operations.front();
  return next.run || next.event->n_done >= next.n_wanted;
}

/// What it queues on the device's own stream has ended when it returns.
int DeferredTable::run_next(Stream& stream) {
  const Operation next = std::move(stream.operations.front());
  stream.operations.pop_front();
  if (!next.run) return 0;
  if (const int error = next.run(); error != 0) return error;
  return current_->device_.wait_stream(stream.own);
}

int DeferredTable::run_others(const Stream& but) {
  for (bool has_run = true; has_run;) {
    has_run = false;
    for (const auto& other : streams_) {
      if (order_ == DeferredOrder::kOthersLast && can_go_on(but)) return 0;
      if (other.get() == &but || !can_go_on(*other)) continue;
      if (const int error = run_next(*other); error != 0) return error;
      has_run = true;
    }
  }
  return 0;
}

int DeferredTable::run_all_of(Stream& stream) {
  while (!stream.operations.empty()) {
    if (order_ == DeferredOrder::kOthersFirst || !can_go_on(stream))
      if (const int error = run_others(stream); error != 0) return error;
    if (!can_go_on(stream)) throw std::runtime_error("a stream waits for what never comes");
    if (const int error = run_next(stream); error != 0) return error;
  }
  return 0;
}

int DeferredTable::wait_stream(DeviceStream* stream) { return current_->run_all_of(of(stream)); }

}  // namespace strata::gpu_test

// Graphs of a virtual device: what streams are given between the two ends of a capture is kept with
// the lanes it came by, and queued again by every launch.
#include <algorithm>
#include <map>

#include "planner/virtual/virtual_device.h"

namespace strata::planner {

int VirtualDevice::begin_capture(VirtualStream* stream) {
  if (const int number = refusal(stream); number != 0) return number;
  if (stream->capture != nullptr) return number_of(VirtualError::kInCapture);
  captures_.push_back(std::make_unique<Capture>());
  Capture& capture = *captures_.back();
  capture.number = ++n_captures_;
  capture.streams.push_back(stream);
  capture.clocks.emplace_back();
  stream->capture = &capture;
  stream->capture_lane = 0;
  return 0;
}

/// Keeps a task of a capture. A stream joins one by awaiting an event that was recorded in it; an
/// event of outside cannot be awaited in it unless it has happened.
int VirtualDevice::keep(VirtualStream& stream, Task task) {
  if (task.kind == TaskKind::kAwait) {
    const uint64_t number = task.moment->capture;
    if (number == 0) return task.moment->is_over ? 0 : number_of(VirtualError::kInCapture);
    const auto of = std::ranges::find(captures_, number, [](const auto& c) { return c->number; });
    if (of == captures_.end()) return number_of(VirtualError::kInCapture);
    Capture& capture = **of;
    if (stream.capture == nullptr) {
      stream.capture = &capture;
      stream.capture_lane = static_cast<uint32_t>(capture.streams.size());
      capture.streams.push_back(&stream);
      capture.clocks.emplace_back();
    }
    if (stream.capture != &capture) return number_of(VirtualError::kInCapture);
    join(capture.clocks[stream.capture_lane], task.moment->clock);
  }
  Capture& capture = *stream.capture;
  const uint32_t lane = stream.capture_lane;
  advance(capture.clocks[lane], lane);
  if (task.kind == TaskKind::kRecord) {
    task.moment->capture = capture.number;
    task.moment->clock = capture.clocks[lane];
  }
  capture.items.push_back({lane, std::move(task)});
  return 0;
}

int VirtualDevice::end_capture(VirtualStream* stream, VirtualGraph** graph) {
  *graph = nullptr;
  if (const int number = refusal(stream); number != 0) return number;
  if (stream->capture == nullptr || stream->capture_lane != 0)
    return number_of(VirtualError::kInCapture);
  const auto of =
      std::ranges::find(captures_, stream->capture, [](const auto& c) { return c.get(); });
  const std::unique_ptr<Capture> capture = std::move(*of);
  captures_.erase(of);
  bool is_joined = true;
  for (uint32_t lane = 0; lane < capture->streams.size(); ++lane) {
    capture->streams[lane]->capture = nullptr;
    is_joined = is_joined && known(capture->clocks[0], lane) == known(capture->clocks[lane], lane);
  }
  if (!is_joined) return number_of(VirtualError::kUnjoinedCapture);
  graphs_.push_back(std::make_unique<VirtualGraph>());
  *graph = graphs_.back().get();
  (*graph)->device = this;
  (*graph)->items = std::move(capture->items);
  for (size_t lane = 1; lane < capture->streams.size(); ++lane) {
    VirtualStream* own = nullptr;
    create_stream(&own);
    (*graph)->streams.push_back(own);
  }
  return error();
}

int VirtualDevice::launch_graph(VirtualStream* stream, VirtualGraph* graph) {
  if (const int number = refusal(stream); number != 0) return number;
  if (!graph->is_alive) return number_of(VirtualError::kGone);
  if (stream->capture != nullptr) return number_of(VirtualError::kInCapture);
  std::map<const Moment*, std::shared_ptr<Moment>> moments;  // of the capture -> of this launch
  for (const Capture::Item& item : graph->items) {
    Task task = item.task;
    task.is_in_graph = true;
    if (task.moment != nullptr) {
      auto& moment = moments[task.moment.get()];
      if (moment == nullptr) moment = std::make_shared<Moment>();
      task.moment = moment;
    }
    VirtualStream& lane = item.lane == 0 ? *stream : *graph->streams[item.lane - 1];
    if (const int number = queue(lane, std::move(task)); number != 0) return number;
  }
  return error();
}

}  // namespace strata::planner

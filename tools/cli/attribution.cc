#include "tools/cli/attribution.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace strata::cli {
namespace {

using std::chrono::nanoseconds;

struct Interval {
  nanoseconds begin{}, end{};
  uint32_t layer = kNoLayer;
};

bool is_transfer(const TraceEvent& event) {
  return event.kind == TraceKind::kRead || event.kind == TraceKind::kWrite;
}

nanoseconds length_of(const TraceEvent& event) { return event.end - event.begin; }

template <class List, class Key, class Member>
auto& entry_of(List& list, const Key& key, Member member) {
  auto found = std::ranges::find(list, key, member);
  if (found == list.end()) {
    found = list.insert(list.end(), typename List::value_type());
    (*found).*member = key;
  }
  return *found;
}

/// Times in which something of the resource was in flight, none of them overlapping.
std::vector<Interval> united(const std::vector<TraceEvent>& events, Resource resource) {
  std::vector<Interval> all, out;
  for (const TraceEvent& event : events)
    if (is_transfer(event) && event.resource == resource) all.push_back({event.begin, event.end});
  std::ranges::sort(all, {}, &Interval::begin);
  for (const Interval& next : all)
    if (out.empty() || out.back().end < next.begin)
      out.push_back(next);
    else
      out.back().end = std::max(out.back().end, next.end);
  return out;
}

/// What of a step is not a transfer, with every moment of it given to one layer.
class StepReader {
 public:
  StepReader(Attribution& out, const TraceEvent& step) : out_(out), step_(step) {
    found_.first_pos = step.detail;
    found_.n_rows = step.index;
    layers_.push_back({step.begin, step.end, kNoLayer});
  }

  /// Operations and waits in the order of their begins, an outer one before an inner one.
  void add(const TraceEvent& event) {
    while (!open_.empty() && open_.back()->end <= event.begin) open_.pop_back();
    const TraceEvent* outer = open_.empty() ? nullptr : open_.back();
    const bool is_wait = event.kind == TraceKind::kWait;
    const uint32_t layer = is_wait && outer != nullptr ? outer->index
                           : is_wait                   ? layers_.back().layer
                                                       : event.index;
    if (outer == nullptr) begin_layer(layer, event);
    TimeShares own;
    if (is_wait)
      own.waited[static_cast<uint32_t>(event.resource)] = length_of(event);
    else
      own.cpu = length_of(event);
    if (outer == nullptr) {  // an inner one's bytes are not of DRAM
      own.bytes = event.bytes;
      own.flop = event.detail;
    }
    give(layer, is_wait && outer != nullptr ? outer->name : event.name, own);
    if (outer != nullptr) {
      TimeShares inner;
      inner.cpu = -length_of(event);
      give(outer->index, outer->name, inner);
    }
    if (!is_wait) open_.push_back(&event);
  }

  /// Transfers last, when the layers of all moments are known.
  void add_busy(const std::vector<Interval>& busy, Resource resource) {
    auto first = std::ranges::lower_bound(busy, step_.begin, {}, &Interval::end);
    for (const Interval& layer : layers_) {
      while (first != busy.end() && first->end <= layer.begin) ++first;
      TimeShares own;
      for (auto at = first; at != busy.end() && at->begin < layer.end; ++at)
        own.busy[static_cast<uint32_t>(resource)] +=
            std::min(at->end, layer.end) - std::max(at->begin, layer.begin);
      give(layer.layer, "", own);
    }
  }

  /// Its time goes into the sums over steps as well.
  StepShares finish() {
    for (const Interval& layer : layers_) {
      TimeShares own;
      own.rest = layer.end - layer.begin;
      give(layer.layer, "", own);
    }
    std::ranges::sort(found_.layers, {}, &LayerShares::layer);
    for (const LayerShares& layer : found_.layers)
      entry_of(out_.layers, layer.layer, &LayerShares::layer).time.add(layer.time);
    return std::move(found_);
  }

 private:
  /// Outermost events: their time is of their layer, and so is what follows until the next.
  void begin_layer(uint32_t layer, const TraceEvent& event) {
    if (layers_.back().layer != layer) {
      layers_.back().end = event.begin;
      layers_.push_back({event.begin, step_.end, layer});
    }
    TimeShares inside;
    inside.rest = -length_of(event);
    give(layer, "", inside);
  }

  void give(uint32_t layer, std::string_view stage, const TimeShares& time) {
    found_.time.add(time);
    entry_of(found_.layers, layer, &LayerShares::layer).time.add(time);
    if (!stage.empty()) entry_of(out_.stages, stage, &StageShares::name).time.add(time);
  }

  Attribution& out_;
  const TraceEvent& step_;
  StepShares found_;
  std::vector<const TraceEvent*> open_;
  std::vector<Interval> layers_;  // without a gap from the step's begin to its end
};

}  // namespace

nanoseconds TimeShares::waited_in_all() const {
  nanoseconds sum{};
  for (const nanoseconds of : waited) sum += of;
  return sum;
}

void TimeShares::add(const TimeShares& more) {
  cpu += more.cpu;
  rest += more.rest;
  for (uint32_t i = 0; i < kResources; ++i) {
    waited[i] += more.waited[i];
    busy[i] += more.busy[i];
  }
  bytes += more.bytes;
  flop += more.flop;
}

uint64_t Attribution::n_rows() const {
  uint64_t n = 0;
  for (const StepShares& step : steps) n += step.n_rows;
  return n;
}

Attribution attribute(const Trace& trace) {
  const std::vector<TraceEvent> events = trace.events();
  std::vector<TraceEvent> steps, walked;
  const nanoseconds known_from = trace.n_dropped() > 0 ? events.front().end : nanoseconds::min();
  for (const TraceEvent& event : events) {
    if (event.begin < known_from) continue;
    if (event.kind == TraceKind::kStep && std::string_view(event.name) == "step")
      steps.push_back(event);
    if (event.kind == TraceKind::kOperation || event.kind == TraceKind::kWait)
      walked.push_back(event);
  }
  std::ranges::sort(walked, [](const TraceEvent& a, const TraceEvent& b) {
    return std::tuple(a.begin, b.end, a.kind) < std::tuple(b.begin, a.end, b.kind);
  });
  const std::array<Resource, 2> disks = {Resource::kWeightDisk, Resource::kKvDisk};
  const std::array<std::vector<Interval>, 2> transfers = {united(events, disks[0]),
                                                          united(events, disks[1])};
  Attribution out;
  for (const TraceEvent& step : steps) {
    StepReader reader(out, step);
    for (auto at = std::ranges::lower_bound(walked, step.begin, {}, &TraceEvent::begin);
         at != walked.end() && at->begin < step.end; ++at)
      reader.add(*at);
    for (size_t i = 0; i < disks.size(); ++i) reader.add_busy(transfers[i], disks[i]);
    out.steps.push_back(reader.finish());
    out.all.add(out.steps.back().time);
  }
  std::ranges::sort(out.layers, {}, &LayerShares::layer);
  return out;
}

}  // namespace strata::cli

#include "tests/gpu_emu/stream_capture.h"

#include <algorithm>
#include <utility>

#include "tests/gpu_emu/launch.h"

namespace strata::gpu_emu {

Capture::Capture(Queue& first) : first_(first), known_{{&first, {}}}, queues_{&first} {
  first.capture = this;
}

void Capture::add(const Queue& queue, Operation operation) {
  ++known_.at(&queue)[&queue];
  operations_.push_back(std::move(operation));
}

void Capture::join(Queue& queue, const Known& event) {
  if (queue.capture == nullptr) {
    queue.capture = this;
    queues_.push_back(&queue);
  }
  Known& known = known_[&queue];
  for (const auto& [other, n] : event) known[other] = std::max(known[other], n);
}

bool Capture::is_whole() const {
  const Known& of_first = known_.at(&first_);
  return std::ranges::all_of(known_, [&](const auto& entry) {
    const auto& [queue, known] = entry;
    const auto own = known.find(queue);
    const auto seen = of_first.find(queue);
    return own == known.end() || (seen != of_first.end() && seen->second == own->second);
  });
}

std::vector<Operation> Capture::end() {
  for (Queue* queue : queues_) queue->capture = nullptr;
  queues_.clear();
  return std::move(operations_);
}

}  // namespace strata::gpu_emu

// tests/gpu_emu/stream_capture.h - work that is kept for a graph instead of being done, and which
// streams take part. As in CUDA a stream joins a capture by awaiting an event of it, and the first
// stream must have awaited all that the others were given when the capture ends.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace strata::gpu_emu {

struct Queue;

/// Returns 0 or an error number of the device.
using Operation = std::function<int()>;

/// How many operations of each stream are known to have come before.
using Known = std::map<const Queue*, uint64_t>;

class Capture {
 public:
  explicit Capture(Queue& first);

  /// Keeps an operation of `queue`, which takes part.
  void add(const Queue& queue, Operation operation);

  /// What an event that is recorded on `queue` now stands for.
  Known known_to(const Queue& queue) const { return known_.at(&queue); }
  /// `queue` comes after an event of this capture; it takes part from now on.
  void join(Queue& queue, const Known& event);

  bool is_open() const { return !queues_.empty(); }
  bool is_first(const Queue& queue) const { return &queue == &first_; }
  /// Whether the first stream knows of all operations.
  bool is_whole() const;
  /// Takes the operations; no stream takes part any longer.
  std::vector<Operation> end();

 private:
  Queue& first_;
  std::map<const Queue*, Known> known_;  // by the streams that take part
  std::vector<Queue*> queues_;
  std::vector<Operation> operations_;
};

}  // namespace strata::gpu_emu

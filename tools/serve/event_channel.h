// tools/serve/event_channel.h - the events of one order, from the engine's thread to the one that
// takes them. What is not taken in time is joined: progress to the latest, text to one event. So a
// client that does not read holds up nobody, and never costs more memory than its answer.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "tools/serve/answer_service.h"

namespace strata::serve {

/// Threads: any; one takes.
class EventChannel {
 public:
  /// The events of a kind come in the order of AnswerEvent::Kind; after the last one, or leave(),
  /// what is told is dropped.
  void tell(AnswerEvent event);
  bool wait_next(AnswerEvent& out, std::chrono::milliseconds timeout);
  /// There was no memory to tell the last event: who takes gets a kError in its place, which is
  /// made where it is taken.
  void end_untold();
  /// Nobody listens any more.
  void leave();
  bool is_left() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<AnswerEvent> prompt_, text_, end_;
  bool is_untold_ = false;  // the last event
  bool is_left_ = false;
};

}  // namespace strata::serve

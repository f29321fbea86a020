// tools/serve/order_desk.h - where orders change hands: everybody's threads lay them down, the
// engine's takes them, and who waits for an end is told.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/answer_scheduler.h"
#include "engine/layer_blocks.h"
#include "tools/serve/answer_service.h"
#include "tools/serve/open_order.h"
#include "tools/serve/queue_places.h"
#include "tools/serve/slot_job.h"

namespace strata::serve {

struct ArrivedOrder {
  std::shared_ptr<OpenOrder> open;
  engine::AnswerTask task;
};

/// What the engine's thread and all others share. Streams may outlive the service.
struct OrderDesk {
  explicit OrderDesk(QueuePlaces of) : places(std::move(of)) {}
  std::mutex mutex;
  std::condition_variable wanted;  // an order, a cancellation, an end: the engine's thread looks
  std::condition_variable ended;   // an order, a job, the thread: who drains or waits looks
  std::vector<ArrivedOrder> arrived;
  std::vector<std::shared_ptr<SlotJob>> jobs;
  bool has_left = false;  // somebody has cancelled
  bool asks_layers = false;
  std::chrono::steady_clock::time_point next_look;  // at the layers, not before
  std::vector<engine::LayerBlocks> layers;
  bool takes_orders = true;
  bool ends = false;
  bool has_ended = false;  // the engine's thread has nothing left to do
  QueuePlaces places;      // of orders that have not ended
  ServiceCounts counts;
  std::vector<std::string> notices;

  void look_for_left() {
    {
      const std::lock_guard lock(mutex);
      has_left = true;
    }
    wanted.notify_one();
  }
};

}  // namespace strata::serve

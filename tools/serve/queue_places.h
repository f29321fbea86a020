// tools/serve/queue_places.h - which orders are taken: as many as are answered at a time, and a
// bounded queue behind them, which no asker fills alone where there are several and it has two
// places or more; each further one finds half of what is left.
// Source: an asker's bound is what is free of the queue, as a port's is of the buffer that it
// shares (Choudhury, Hahne: Dynamic Queue Length Thresholds for Shared-Memory Packet Switches,
// 1998), with a factor of 1. So an order that was taken is never given up for another's.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace strata::serve {

/// An asker may have as many orders waiting as places of the queue are free: of 64, one alone gets
/// 32, and two that both want more get a third each. An asker without a name may fill the queue.
/// Threads: one at a time.
class QueuePlaces {
 public:
  QueuePlaces(uint32_t n_parallel, uint32_t n_queued_max)
      : n_parallel_(n_parallel), n_queued_max_(n_queued_max) {}

  /// Whether the asker's next order may be taken. Errors: kBusy.
  void check_free(const std::string& asker) const;
  /// An order is taken; it begins to be answered, once at most; it has ended.
  void take(const std::string& asker);
  void begin(const std::string& asker);
  void end(const std::string& asker, bool has_begun);
  /// Orders that were taken and have not ended.
  uint64_t n_open() const { return n_open_; }

 private:
  uint64_t n_waiting_of(const std::string& asker) const;
  void leave_queue(const std::string& asker);

  uint32_t n_parallel_, n_queued_max_;
  uint64_t n_open_ = 0, n_begun_ = 0;
  std::map<std::string, uint64_t> n_not_begun_;  // by asker; those that have any
};

}  // namespace strata::serve

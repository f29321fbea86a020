// engine/pack_publisher.h - gives packs and their index rows their names on a thread of its own,
// which waits for the disk, so that nobody else has to. The thread has the directory once more for
// itself: who looks something up waits for no name.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/disk_patience.h"
#include "tiers/pack_directory.h"

namespace strata::engine {

struct PublishedCounts {
  uint64_t tokens = 0;  // in packs that have their name
  uint64_t bytes = 0;
  uint64_t rows_bytes = 0;  // of index rows
  uint64_t replaced_packs = 0;
};

/// One caller at a time, beside the thread, but for problem(), wait_named() and
/// while_none_is_named().
class PackPublisher {
 public:
  /// Whoever waits looks at `cancel`, about ten times a second, and leaves with Error(kCancelled)
  /// where it is set; null = nobody looks. Errors: kOutOfMemory (no thread).
  explicit PackPublisher(tiers::PackDirectory directory, const std::atomic<bool>* cancel = nullptr);
  /// Waits for no disk: a thread in the middle of a system call is left to end by itself, and what
  /// has no name yet is dropped.
  ~PackPublisher();
  PackPublisher(const PackPublisher&) = delete;
  PackPublisher& operator=(const PackPublisher&) = delete;

  /// Seals the pack and gives it its name. Dropped where an earlier one had a problem: what would
  /// continue that could not be found.
  void add(tiers::PackWriter writer);
  /// As a pack; but what goes wrong with rows holds no pack up.
  void add(tiers::RowsWriter writer);
  /// A pack that the disk did not give, and whose text is saved anew by what was added before it.
  /// Where all of that gets its name, it is counted and, where that holds all of it, goes
  /// (PackDirectory::discard_replaced). No problem where it stays.
  void add_replaced(std::string pack, bool is_held);
  /// Waits until every pack has its name or a problem. Errors: kIo where the disk does not answer
  /// within `wait_max`; kCancelled.
  void wait(std::chrono::milliseconds wait_max) { wait_named(n_given(), wait_max, cancel_); }
  /// How many packs and rows add() has taken, and add_replaced().
  uint64_t n_given() const;
  /// Waits until that many of them have their name or a problem. Errors: as wait(). Threads: any,
  /// where it holds a share of this.
  void wait_named(uint64_t n_given, std::chrono::milliseconds wait_max,
                  const std::atomic<bool>* cancel);
  /// The caller's directory, for what calls no disk. Errors: kIo where what was asked of it before
  /// has not ended.
  tiers::PackDirectory& directory();
  /// Calls `use` with it, on a thread of its own, for what takes no lock of it. Where the disk does
  /// not answer for silence_max, or this is stopped, `use` goes on by itself, so all that it refers
  /// to must be its own, and nothing more is asked before it has ended. Errors: kIo, kCancelled,
  /// kOutOfMemory (do_patiently); those of `use`.
  void ask(std::function<void(tiers::PackDirectory&)> use, std::chrono::milliseconds silence_max);
  /// As ask(), while the thread is between two packs: for what takes the lock of the directory,
  /// which the thread holds meanwhile. Errors: kIo as wait(); those of ask().
  void between_packs(std::function<void(tiers::PackDirectory&)> use,
                     std::chrono::milliseconds wait_max, std::chrono::milliseconds silence_max);

  /// Calls `use` while the thread is between two packs, as between_packs(), for a directory of the
  /// caller's. Threads: any, where it holds a share of this. Errors: kIo, kCancelled as wait();
  /// those of `use`.
  void while_none_is_named(const std::function<void()>& use, std::chrono::milliseconds wait_max,
                           const std::atomic<bool>* cancel);

  /// Why a pack did not get its name; empty where all did.
  std::string problem() const;
  void set_problem(const std::string& problem);  // the first one stays
  /// Why index rows did not get their name; empty where all did.
  std::string rows_problem() const;
  void set_rows_problem(const std::string& problem);
  PublishedCounts counts() const;

 private:
  struct State;
  static void run(const std::shared_ptr<State>& state);
  static PublishedCounts publish(State& state, tiers::PackWriter writer);
  static PublishedCounts publish(State& state, tiers::RowsWriter writer);
  struct Replaced;
  static PublishedCounts publish(State& state, Replaced replaced);
  struct Own;
  std::shared_ptr<Own> own_;      // what is asked of it holds it too
  std::shared_ptr<State> state_;  // the thread holds it too
  const std::atomic<bool>* cancel_;
};

}  // namespace strata::engine

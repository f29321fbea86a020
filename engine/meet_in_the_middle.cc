#include "engine/meet_in_the_middle.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/check.h"
#include "base/error.h"

namespace strata::engine {
namespace {

using std::chrono::nanoseconds;

constexpr nanoseconds kWorthMeeting = std::chrono::milliseconds(500);  // less is hardly noticed
// What is computed takes the processor from checking and copying what is read.
constexpr uint64_t kShareMin = 16;
constexpr uint32_t kSampleRows = 32;  // of the first step, which measures
// After so many the disk is not asked any more: what it loses costs more than what it brings.
constexpr uint32_t kLostMax = 4;

/// Reads the extents of a sequence that are not in DRAM, the last positions first.
class BackReader {
 public:
  BackReader(KvCache& cache, ThreadPool& pool, const Sequence& sequence)
      : store_(cache.store()), pool_(pool) {
    for (uint32_t extent = sequence.n_pos() / kExtentPositions; extent-- > 0;)
      for (const tiers::ExtentId id : cache.away_extents(sequence, extent * kExtentPositions))
        reads_.push_back({id, extent * kExtentPositions});
  }
  /// The transfers in flight own their frames; they are only given up here.
  ~BackReader() {
    while (n_taken_ < n_fetched_) store_.release(reads_[n_taken_++].extent);
  }
  BackReader(const BackReader&) = delete;
  BackReader& operator=(const BackReader&) = delete;

  uint32_t n_left() const { return static_cast<uint32_t>(reads_.size() - n_taken_); }
  /// From here on everything is in DRAM, or lost.
  uint32_t loaded_from() const {
    return n_left() == 0 ? 0 : reads_[n_taken_].first_pos + kExtentPositions;
  }
  /// Nothing before `computed_end` is read from now on. Takes what has come; waits only
  /// for the second read of an extent that came back wrong.
  void go_on(uint32_t computed_end) {
    store_.poll();
    while (n_taken_ < n_fetched_ && store_.has_arrived(reads_[n_taken_].extent)) take_next();
    fetch(computed_end);
  }
  /// Waits for the next n.
  void wait_for(uint32_t n) {
    for (fetch(0); n > 0 && n_taken_ < n_fetched_; --n) {
      take_next();
      fetch(0);
    }
  }

 private:
  struct Read {
    tiers::ExtentId extent;
    uint32_t first_pos;
  };
  void fetch(uint32_t computed_end) {
    while (n_fetched_ < reads_.size() && n_lost_ < kLostMax &&
           reads_[n_fetched_].first_pos + kExtentPositions > computed_end &&
           store_.fetch(reads_[n_fetched_].extent, tiers::ReadTarget::kFrame))
      ++n_fetched_;
    store_.poll();
  }
  void take_next() {
    const tiers::ExtentId extent = reads_[n_taken_].extent;
    try {
      store_.take({&extent, 1}, pool_);
    } catch (const tiers::LostExtent&) {
      ++n_lost_;
    }
    store_.release(extent);
    ++n_taken_;
  }

  tiers::BlockStore& store_;
  ThreadPool& pool_;
  std::vector<Read> reads_;
  size_t n_fetched_ = 0;
  size_t n_taken_ = 0;
  uint32_t n_lost_ = 0;
};

/// Both ends of one restore.
class Restore {
 public:
  Restore(Walk& walk, Sequence& sequence, uint32_t chunk_rows)
      : walk_(walk),
        cache_(walk.cache()),
        sequence_(sequence),
        chunk_rows_(std::min(chunk_rows, walk.max_rows())),
        front_(cache_.make_sequence(sequence.chain_at(0))),
        back_(cache_, walk.pool(), sequence) {
    front_.drop_index();  // its blocks become those of the sequence, which has its own
  }

  bool is_worth_it();
  void run(const std::function<bool(uint64_t done)>& on_chunk);
  Meeting meet();

 private:
  nanoseconds now() const { return cache_.store().transfers()->io().now(); }
  nanoseconds step(uint32_t n_rows);

  Walk& walk_;
  KvCache& cache_;
  Sequence& sequence_;
  uint32_t chunk_rows_;
  Sequence front_;
  BackReader back_;
};

/// Computes the next rows while the back is read. Nothing is computed where the back comes first.
nanoseconds Restore::step(uint32_t n_rows) {
  std::vector<StepRow> rows;
  for (uint32_t i = front_.n_pos(); i < front_.n_pos() + n_rows; ++i)
    rows.push_back({&front_, sequence_.tokens()[i], false});
  const nanoseconds start = now();
  bool has_met = false;
  walk_.set_between_operations([&] {
    back_.go_on(front_.n_pos());
    has_met = back_.loaded_from() <= front_.n_pos();
    if (has_met) throw Error(ErrorCode::kCancelled, "the disk came first");
  });
  try {
    walk_.step(rows);
  } catch (...) {
    walk_.set_between_operations({});
    if (!has_met) throw;
  }
  walk_.set_between_operations({});
  return now() - start;
}

bool Restore::is_worth_it() {
  const nanoseconds start = now();
  const uint32_t n_probe = std::min(cache_.store().transfers()->n_frames(), back_.n_left());
  cache_.store().set_cancel(walk_.cancel());  // a step sets it itself
  try {
    back_.wait_for(n_probe);
  } catch (...) {
    cache_.store().set_cancel(nullptr);
    throw;
  }
  cache_.store().set_cancel(nullptr);
  const nanoseconds per_read = (now() - start) / std::max(n_probe, 1u);
  if (per_read * back_.n_left() < kWorthMeeting) return false;
  const uint32_t n_rows = std::min(kSampleRows, chunk_rows_);
  const nanoseconds per_row = step(n_rows) / n_rows;
  const nanoseconds reading = per_read * back_.n_left();
  const nanoseconds computing =
      per_row * (back_.loaded_from() - std::min(back_.loaded_from(), front_.n_pos()));
  return reading > per_row * chunk_rows_ && reading * (kShareMin - 1) > computing;
}

void Restore::run(const std::function<bool(uint64_t done)>& on_chunk) {
  while (front_.n_pos() < back_.loaded_from()) {
    step(std::min(chunk_rows_, back_.loaded_from() - front_.n_pos()));
    const uint64_t loaded = sequence_.n_pos() - back_.loaded_from();
    if (on_chunk && !on_chunk(std::min<uint64_t>(front_.n_pos() + loaded, sequence_.n_pos())))
      throw Error(ErrorCode::kCancelled, "reading the prompt was stopped");
  }
}

/// Puts what was computed where nothing has come from the disk.
Meeting Restore::meet() {
  const uint32_t from = back_.loaded_from();
  const uint32_t end = std::min(front_.n_pos() / kExtentPositions * kExtentPositions, from);
  cache_.share_blocks(sequence_, front_, 0, end, false);
  return {.computed_tokens = end, .loaded_tokens = sequence_.n_pos() - from};
}

/// The blocks of the sequence, a second set of windows, and a step.
bool has_room(const KvCache& cache, const Sequence& sequence, uint32_t chunk_rows) {
  const tiers::BlockPool& pool = cache.pool();
  const uint64_t wanted =
      kv_bytes_for_context(cache.shape(), cache.layout().k_codec, cache.layout().v_codec,
                           uint64_t{sequence.n_pos()} + chunk_rows, chunk_rows);
  return wanted <= uint64_t{pool.n_free()} * pool.block_bytes();
}

}  // namespace

Meeting meet_in_the_middle(Walk& walk, Sequence& sequence, uint32_t chunk_rows,
                           const std::function<bool(uint64_t done)>& on_chunk) {
  KvCache& cache = walk.cache();
  if (!cache.store().has_away() || cache.store().has_spill() ||
      !has_room(cache, sequence, walk.max_rows()))
    return {};
  const auto start = std::chrono::steady_clock::now().time_since_epoch();
  Meeting meeting;
  {
    Restore restore(walk, sequence, chunk_rows);
    if (!restore.is_worth_it()) return {};
    try {
      restore.run(on_chunk);
    } catch (...) {
      restore.meet();
      throw;
    }
    meeting = restore.meet();
  }
  if (Trace* trace = walk.trace())
    trace->add({.kind = TraceKind::kStep,
                .index = meeting.computed_tokens,
                .name = "meet in the middle",
                .begin = start,
                .end = std::chrono::steady_clock::now().time_since_epoch(),
                .detail = meeting.computed_tokens});
  return meeting;
}

}  // namespace strata::engine

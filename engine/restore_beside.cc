#include "engine/restore_beside.h"

#include <algorithm>

#include "engine/store_cancel.h"

namespace strata::engine {
namespace {

// After so many the disk is not asked any more: what it loses costs more than what it brings.
constexpr size_t kLostMax = 4;

}  // namespace

bool RestoreBeside::is_possible(const KvCache& cache) {
  return cache.store().has_away() && !cache.store().has_spill();
}

RestoreBeside::RestoreBeside(KvCache& cache, ThreadPool& pool, const Sequence& sequence,
                             const std::atomic<bool>* cancel)
    : cache_(cache),
      pool_(pool),
      sequence_(sequence),
      n_extents_left_(sequence.n_pos() / kExtentPositions),
      cancel_(cancel) {}

RestoreBeside::~RestoreBeside() {
  for (const tiers::ExtentId extent : fetched_) cache_.store().release(extent);
}

bool RestoreBeside::go_on() {
  if (std::chrono::steady_clock::now() >= until_) return false;
  const StoreCancel cancel(cache_.store(), cancel_);
  cache_.store().poll();
  while (!fetched_.empty() && cache_.store().has_arrived(fetched_.front()))
    if (!take_front()) return true;
  fetch();
  // Where all that can be read into is another's for now, nothing is on its way although something
  // is left.
  return !fetched_.empty() || n_extents_left_ > 0;
}

/// False where waiting was stopped: the extent stays at the front.
bool RestoreBeside::take_front() {
  tiers::BlockStore& store = cache_.store();
  const tiers::ExtentId extent = fetched_.front();
  bool is_of_use = true;
  try {
    store.take({&extent, 1}, pool_);
    is_of_use = store.n_missing({&extent, 1}) == 0;
  } catch (const tiers::LostExtent&) {
    lost_.push_back(extent);
    is_of_use = lost_.size() < kLostMax;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    return false;
  }
  store.release(extent);
  fetched_.pop_front();
  if (!is_of_use)
    n_extents_left_ = 0;  // of what is only read for as long as it is held, nothing is
  return true;
}

/// What is away is asked for anew, since a repair of another sequence may have changed it.
void RestoreBeside::fetch() {
  tiers::BlockStore& store = cache_.store();
  const size_t n_max = std::max(1u, store.transfers()->n_frames() / 2);
  for (; n_extents_left_ > 0; --n_extents_left_) {
    const uint32_t first_pos = (n_extents_left_ - 1) * kExtentPositions;
    for (const tiers::ExtentId extent : cache_.away_extents(sequence_, first_pos)) {
      if (std::ranges::find(fetched_, extent) != fetched_.end()) continue;
      if (std::ranges::find(lost_, extent) != lost_.end()) continue;
      if (fetched_.size() >= n_max || !store.fetch(extent)) return store.poll();
      fetched_.push_back(extent);
    }
  }
  store.poll();
}

}  // namespace strata::engine

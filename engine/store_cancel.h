// engine/store_cancel.h - a flag that ends waits for the disk, for the time of a scope.
#pragma once

#include <atomic>

#include "tiers/block_store.h"

namespace strata::engine {

/// While it lives, waits for the disk are left where the flag is set; null = nobody looks. Not for
/// ever: who saves what a stopped step has left reads all of it.
class StoreCancel {
 public:
  StoreCancel(tiers::BlockStore& store, const std::atomic<bool>* flag) : store_(store) {
    store_.set_cancel(flag);
  }
  ~StoreCancel() { store_.set_cancel(nullptr); }
  StoreCancel(const StoreCancel&) = delete;
  StoreCancel& operator=(const StoreCancel&) = delete;

 private:
  tiers::BlockStore& store_;
};

}  // namespace strata::engine

// index/recent_selector.h - StreamingLLM (arXiv 2309.17453): sinks and the most recent blocks, and
// no index. The floor that every method of retrieval must beat.
#pragma once

#include <memory>

#include "index/selector.h"

namespace strata::index {

/// Estimates that grow with the position, so that any budget is spent on the latest blocks.
class RecentSelector : public Selector {
 public:
  void open_blocks(uint32_t end_block) override { n_blocks_ = end_block; }
  void observe(StreamIdx, uint32_t, const std::byte*) override {}
  uint32_t n_blocks() const override { return n_blocks_; }
  uint64_t scratch_floats(uint32_t) const override { return 0; }
  void estimate(const EstimateArgs& args) const override;
  uint64_t held_bytes(uint64_t) const override { return 0; }
  void truncate(uint32_t n_blocks) override {
    n_blocks_ = n_blocks < n_blocks_ ? n_blocks : n_blocks_;
  }
  std::unique_ptr<Selector> fork() const override {
    return std::make_unique<RecentSelector>(*this);
  }
  uint64_t extent_row_bytes() const override { return 0; }
  std::span<const std::byte> rows(StreamIdx, uint32_t) const override { return {}; }
  void load_segment(StreamIdx, uint32_t, std::span<const std::byte>) override {}

 private:
  uint32_t n_blocks_ = 0;
};

}  // namespace strata::index

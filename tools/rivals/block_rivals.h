// tools/rivals/block_rivals.h - rivals that choose whole blocks by index/choose.h: the methods of
// index/ itself, and estimates that the papers make of other bytes.
#pragma once

#include "base/host_memory.h"
#include "base/kernel_table.h"
#include "index/choose.h"
#include "index/method.h"
#include "tools/rivals/judge.h"

namespace strata::rivals {

/// The case's sinks and window, shares of a group's queries summed.
index::Rule rule_of(index::Budget budget);

/// Estimated logarithms of the weights of blocks, [n_rows, stride]; a row is a query.
struct BlockWeights {
  std::vector<float> values = {};
  uint32_t n_rows = 0;
  uint64_t stride = 0;
};

/// Chooses by weights that a derived class estimates; all queries of the group attend the same.
class BlockRival : public Rival {
 public:
  std::vector<Attended> attend(uint32_t stream, uint32_t step) override;

 protected:
  BlockRival(const TraceCase& on, const KernelTable& kernels, index::Budget budget)
      : on_(on), chooser_(kernels, rule_of(budget)) {}
  virtual BlockWeights estimate(uint32_t stream, uint32_t step) = 0;
  /// What stands for the blocks that are not among `chosen`; by default nothing.
  virtual void estimate_rest(uint32_t /*stream*/, uint32_t /*step*/,
                             const BlockWeights& /*weights*/,
                             const std::vector<uint32_t>& /*chosen*/,
                             std::vector<Attended>& /*heads*/) {}

  const TraceCase& on_;

 private:
  index::Chooser chooser_;
};

/// A method of index/. Budget::Kind::kLogGap takes what lies within so many nats of the largest, as
/// InfiniGen's budget does; that averages the count over a layer's heads, this has each head's own.
class MethodRival : public BlockRival {
 public:
  /// Errors: those of index::SelectorSource.
  MethodRival(const TraceCase& on, const KernelTable& kernels, index::Method method,
              index::Budget budget);
  IndexBytes bytes() const override;

 protected:
  BlockWeights estimate(uint32_t stream, uint32_t step) override;
  void estimate_rest(uint32_t stream, uint32_t step, const BlockWeights& weights,
                     const std::vector<uint32_t>& chosen, std::vector<Attended>& heads) override;

 private:
  std::vector<Partial> tail_of(uint32_t stream, const BlockWeights& weights,
                               const std::vector<bool>& is_kept);

  index::SelectorSource source_;
  std::unique_ptr<index::Selector> selector_;
  HostMemory scratch_, tail_scratch_;
  uint64_t read_bytes_ = 0;  // of the index, by all estimates
  uint32_t n_estimates_ = 0;
};

}  // namespace strata::rivals

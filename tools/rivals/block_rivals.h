// tools/rivals/block_rivals.h - rivals that choose whole blocks by index/choose.h: the methods of
// index/ itself, and estimates that the papers make of other bytes.
#pragma once

#include <optional>

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

/// A method of index/. With Budget::Kind::kLogGap its budget is InfiniGen's: what lies within so
/// many nats of the largest.
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
};

/// SparQ (arXiv 2312.04985, section 3, step 1): q . k by the n_dims dimensions where the group's
/// queries are largest in sum, times what the others' absolute values leave: 1 / sqrt(|q_n|_1 /
/// |q|_1). K lies dimension-major in a block, so nothing is kept besides. Its mean of all values
/// (step 3) is in the tail of docs/adr/0014-tail.md.
class PartialProducts : public BlockRival {
 public:
  PartialProducts(const TraceCase& on, const KernelTable& kernels, index::Budget budget,
                  uint32_t n_dims)
      : BlockRival(on, kernels, budget), n_dims_(n_dims) {}
  IndexBytes bytes() const override { return {.read = 2.0 * n_dims_}; }

 protected:
  BlockWeights estimate(uint32_t stream, uint32_t step) override;

 private:
  uint32_t n_dims_;
};

}  // namespace strata::rivals

// index/choose.h - from estimated weights to the blocks that are attended: pooling over the query
// group, the budget, residency. The same for every method.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/kernel_table.h"

namespace strata::index {

/// How many blocks a token may attend. Sinks, window and the open blocks count towards tokens and
/// share; they are always attended.
struct Budget {
  enum class Kind : uint8_t {
    kTokens,  // value positions
    kShare,   // value in (0, 1] of the context
    kMass,    // the fewest blocks with an estimated share >= value of the weight, in (0, 1]
    kLogGap,  // blocks whose weight for some query is within value nats of that query's largest
  };
  Kind kind = Kind::kShare;
  double value = 1.0;
};

/// How the queries of a group (and the rows of a step) agree. Each query's weights are first made
/// shares of its own total by softmax.
enum class Pool : uint8_t { kSum, kMax };

/// What the KV heads of a full layer attend in a selected step.
enum class LayerMode : uint8_t {
  kIndex,  // what the index chooses
  kDense,  // all of it
  kReuse,  // the blocks that the full layer before it attends (TidalDecode, OmniKV)
};

struct Rule {
  Budget budget;
  Pool pool = Pool::kSum;
  uint32_t n_sink_blocks = 1;    // the first blocks, always attended
  uint32_t n_window_blocks = 4;  // the last full blocks before the step, always attended
  // As many more of these as make so much of a budget of tokens or of a share, sinks and open
  // blocks counted: [0, 1]. What probes call window is n_window_blocks.
  double window_share = 0;
  // Resident blocks may stand in for absent ones as long as the pooled share that this gives up is
  // at most this part of what was chosen beside sinks and window; 0 = residency has no say. Above 0
  // a choice, and with it an answer, depends on what is in DRAM, or has a copy on a device: law L1
  // does not hold for it (docs/adr/0016-near-blocks.md).
  double residency_tolerance = 0;
  std::vector<LayerMode> layers = {};  // by number; those beyond its end are kIndex

  LayerMode mode_of(uint32_t layer) const {
    return layer < layers.size() ? layers[layer] : LayerMode::kIndex;
  }
};

struct ChooseArgs {
  std::span<const float> log_weights;  // [n_queries, weight_stride], of all full blocks
  uint64_t weight_stride = 0;
  uint32_t n_queries = 0;
  uint32_t n_blocks = 0;                    // full blocks before the step
  uint32_t n_positions = 0;                 // of the context, the step's included
  std::span<const uint64_t> resident = {};  // bit per block; empty: residency has no say
};

struct Choice {
  std::vector<uint32_t> blocks;  // ascending; sinks and window among them
  double estimated_share = 0;    // of the pooled weight of all candidates; 1 where all are chosen
};

/// Memory that choosing needs again and again, so that a step allocates nothing once warm.
class Chooser {
 public:
  Chooser(const KernelTable& kernels, const Rule& rule);
  const Rule& rule() const { return rule_; }
  /// Reserves for contexts of n_blocks and calls of n_queries.
  void reserve(uint32_t n_blocks, uint32_t n_queries);
  /// Ties go to the earlier block, so that a choice does not depend on threads. Valid until the
  /// next call.
  const Choice& choose(const ChooseArgs& args);

 private:
  uint32_t window_blocks(const ChooseArgs& args) const;
  void take_largest(uint32_t first, uint32_t end, uint32_t n);
  void keep_largest(uint32_t bucket, uint32_t n);
  void list_candidates(uint32_t first, uint32_t end);
  void append_others(uint32_t first, uint32_t end);
  uint32_t count_for_mass(double mass, double always, double total);
  uint32_t count_in_gap(double gap, const ChooseArgs& args);
  void find_largest(const ChooseArgs& args);
  void prefer_resident(uint32_t n, std::span<const uint64_t> resident, double allowed_loss);

  const KernelTable* kernels_;
  Rule rule_;
  Choice choice_;
  std::vector<float> pooled_;  // [n_blocks]
  // Of the candidates, those that are neither sinks nor in the window: the chosen ones, then the
  // others where these have a say.
  std::vector<uint32_t> order_;
  std::vector<uint32_t> edge_;  // bits of the shares in the bucket that the budget ends in
  std::vector<float> largest_;  // [n_queries]
};

}  // namespace strata::index

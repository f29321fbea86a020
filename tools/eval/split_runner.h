// tools/eval/split_runner.h - the protocol by which approximate attention is judged: a context is
// read once, exactly; what follows it (a question and its answer, the end of a text) goes through a
// method's index on a fork, its K and V computed under the method as well. Why: a question that was
// read exactly has already found its answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/walk.h"

namespace strata::eval {

/// A method and what it may read.
struct Contender {
  index::Method method = index::Method::kOracle;
  index::Rule rule;
  std::string method_name, budget_text;  // as they were asked for
  bool reads_sparsely = false;           // the context too, from Options::sparse_from on
};

/// The K and V that selecting layers read, counted by the walk.
struct KvRead {
  uint64_t steps = 0;
  uint64_t positions = 0;          // attended, of a KV head of a layer
  uint64_t context_positions = 0;  // that exact attention would have attended
  uint64_t kv_bytes = 0;
  uint64_t index_bytes = 0;  // of index rows

  void add(const KvRead& other);
  double share() const;
};

/// Takes the probe away again, also where a step fails.
class ProbeScope {
 public:
  ProbeScope(engine::Walk& walk, engine::AttentionProbe* probe) : walk_(walk) {
    walk_.set_probe(probe);
  }
  ProbeScope(const ProbeScope&) = delete;
  ProbeScope& operator=(const ProbeScope&) = delete;
  ~ProbeScope() { walk_.set_probe(nullptr); }

 private:
  engine::Walk& walk_;
};

class SplitRunner {
 public:
  struct Options {
    KvCodec k_codec = KvCodec::kF16;
    KvCodec v_codec = KvCodec::kF16;
    uint32_t chunk_rows = 512;
    uint64_t n_context = 0;  // positions read exactly, at most
    uint64_t n_rest = 0;     // positions after them, at most
    // Probes take memory to hold so much of K and V (MissingMetrics); none: all of it.
    std::vector<double> held_shares = {};
    // Contenders that do read the context from this position on themselves, by selected chunks.
    uint64_t sparse_from = engine::kNeverSparse;
    const std::atomic<bool>* cancel = nullptr;  // as Walk::set_cancel
  };
  using OnRead = std::function<void(uint64_t done, uint64_t total)>;

  /// What a runner takes besides the weights, with the larger of the indexes of `contenders` and,
  /// where it probes, one of exact weights beside it.
  static uint64_t memory_bytes(const ModelShape& shape, const Options& options,
                               std::span<const Contender> contenders, bool probes,
                               uint32_t n_threads);

  /// Reserves K and V for the context and the rest. Errors: kOutOfMemory.
  SplitRunner(const engine::Model& model, const KernelTable& kernels, ThreadPool& pool,
              const Options& options);

  /// Reads a context in place of the one before. Errors: those of Walk::step.
  void read(std::span<const int32_t> tokens, const OnRead& on_read = {});

  /// From now on sequences go on by the contender's index, or exactly where it is null; what is
  /// read is counted from 0. Sequences of the contender before are gone by then. Errors:
  /// kOutOfMemory.
  void use(const Contender* contender);
  /// A sequence that continues the context, which the contender reads first where it is to. Errors:
  /// kDoesNotFit (index memory); those of Walk::step.
  engine::Sequence start();
  /// The logits after the last of `tokens`, valid until the next call. Errors: those of Walk::step.
  std::span<const float> feed(engine::Sequence& sequence, std::span<const int32_t> tokens);

  /// Of the contender since use().
  KvRead kv_read() const;
  /// Of an index of the context, codebooks and keys that wait for one included, per position; 0
  /// where the method keeps none.
  double index_bytes_per_position() const;

  const index::Rule& rule() const { return rule_; }
  std::span<const double> held_shares() const { return options_.held_shares; }
  engine::KvCache& cache() { return cache_; }
  const engine::KvCache& cache() const { return cache_; }
  engine::Walk& walk() { return walk_; }
  const KernelTable& kernels() const { return kernels_; }
  /// An index of the exact weights for a sequence of this runner. Errors: kOutOfMemory.
  std::unique_ptr<index::SelectorSource> make_source(index::Method method) const;

 private:
  engine::Sequence read_sparsely();

  const KernelTable& kernels_;
  Options options_;
  engine::KvCache cache_;
  engine::Walk walk_;
  engine::Sequence text_;
  std::unique_ptr<index::SelectorSource> source_;
  bool reads_sparsely_ = false;                  // the contender
  std::optional<engine::Sequence> sparse_text_;  // the context as it has read it
  index::Rule rule_;
  engine::Attention attention_ = engine::Attention::kExact;
};

}  // namespace strata::eval

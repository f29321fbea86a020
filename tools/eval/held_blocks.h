// tools/eval/held_blocks.h - a memory that holds only part of K and V: which chosen blocks it would
// lack, so that a file is asked for them. Why: a probe wants all of K and V in DRAM, and what a
// small memory misses depends on nothing but the choices.   Source: docs/adr/0009-single-blocks.md.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <tuple>
#include <vector>

namespace strata::eval {

/// Slots of one block each, for all streams; empty at first. Who leaves is found by a clock: the
/// hand goes round, past slots used since it came by last.
class HeldBlocks {
 public:
  /// n_slots >= 1.
  HeldBlocks(uint32_t n_streams, uint64_t n_slots);
  bool holds(uint32_t stream, uint32_t block) const;
  /// All of a stream's `chosen` blocks are used, and held until the next call where there are as
  /// many slots. Gives those that were not held, in order; valid until the next call.
  std::span<const uint32_t> use(uint32_t stream, std::span<const uint32_t> chosen);
  /// As if the step had made them: held, and not missed.
  void put(uint32_t stream, uint32_t block);

 private:
  struct Slot {
    uint32_t stream = 0, block = 0;
    bool is_taken = false, is_used = false;
  };
  std::vector<std::vector<uint32_t>> slots_of_;  // per stream and block; kNoSlot: not held
  std::vector<Slot> slots_;
  uint64_t hand_ = 0;
  std::vector<uint32_t> missing_;
};

/// As HeldBlocks, but the block of the least weight leaves, by the exact weights of the last step
/// of its stream. No engine knows those of blocks that it does not attend: what recency is judged
/// beside. Until the next use() of its stream a block that was put weighs 1.
class WeighedBlocks {
 public:
  /// n_slots >= 1.
  WeighedBlocks(uint32_t n_streams, uint64_t n_slots) : held_(n_streams), n_slots_(n_slots) {}
  /// `weights` [blocks of the stream]. How many of `chosen` were not held.
  uint64_t use(uint32_t stream, std::span<const uint32_t> chosen, std::span<const double> weights);
  void put(uint32_t stream, uint32_t block);

 private:
  void make_room();

  std::vector<std::map<uint32_t, double>> held_;            // per stream: weights of blocks
  std::set<std::tuple<double, uint32_t, uint32_t>> order_;  // weight, stream, block: who may leave
  uint64_t n_slots_, n_held_ = 0;
};

}  // namespace strata::eval

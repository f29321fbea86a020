// tools/rivals/sampled_keys.h - MagicPIG: keys are drawn by hashing, so that likely ones are drawn
// often, and each that is drawn counts for those like it that are not.
// Source: MagicPIG (arXiv 2410.16179, sections 4 and 5, and its code):
//   p = 1 - arccos(cos(q, k)) / pi, a key's chance to lie on a query's side of a random plane; keys
//   less their mean. n_planes planes make the hash of a table. Drawn is what shares the hash of at
//   least two of n_tables tables, with the chance
//   w = 1 - (1 - P)^n - n P (1 - P)^(n - 1), P = p^n_planes, n = n_tables,
//   and counts 1 / (w + 1e-4) times, whose sum is right on average but for the 1e-4.
// Its defaults are 10 planes and 150 tables; it leaves layers 0 and 16 dense, which is not done
// here, nor are its own sinks (4) and window (64): those of all methods stand in for them.
#pragma once

#include "tools/rivals/judge.h"

namespace strata::rivals {

struct HashShape {
  uint32_t n_planes = 10;  // up to 16
  uint32_t n_tables = 150;
};

/// The chance that a key with this cosine to a query is drawn.
double draw_chance(double cosine, const HashShape& shape);

class SampledKeys : public Rival {
 public:
  static constexpr double kLeastChance = 1e-4;  // added to w

  SampledKeys(const TraceCase& on, const HashShape& shape, uint64_t seed);
  std::vector<Attended> attend(uint32_t stream, uint32_t step) override;
  /// Kept: a number of 4 bytes for each key in each table. Read: the numbers that queries meet,
  /// once where several meet them in the same table.
  IndexBytes bytes() const override;

 private:
  struct Stream {
    std::vector<float> planes;     // [n_tables, n_planes, head_dim]
    std::vector<float> centred;    // [n_candidates, head_dim]
    std::vector<float> lengths;    // [n_candidates]
    std::vector<uint16_t> hashes;  // [n_tables, n_candidates]
  };
  uint16_t hash(const Stream& of, uint32_t table, const float* vector) const;

  const TraceCase& on_;
  HashShape shape_;
  std::vector<Stream> streams_;
  uint64_t n_met_ = 0, n_asked_ = 0;  // numbers, and KV heads that asked
};

}  // namespace strata::rivals

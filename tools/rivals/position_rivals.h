// tools/rivals/position_rivals.h - exact choices of single positions: what no index of positions
// can beat, and what of a choice is left some steps later.
#pragma once

#include <utility>

#include "tools/rivals/judge.h"

namespace strata::rivals {

/// The n candidates with the largest values, ascending; of equals the earlier ones. `values` begin
/// with the first candidate.
std::vector<uint32_t> largest_positions(const TraceCase& on, std::span<const double> values,
                                        uint32_t n);

/// Shares of the candidates' weight, of the queries of a group summed. [n_candidates]
std::vector<double> pooled_shares(const TraceCase& on, uint32_t stream, uint32_t step,
                                  double score_error = 0);

/// The positions of most weight, for each query head (what a graph of keys looks for:
/// RetrievalAttention, arXiv 2409.10516) or for the group. With a score_error, by scores that err
/// so many nats, independently and normally: as codes of keys would choose them.
class BestPositions : public Rival {
 public:
  BestPositions(const TraceCase& on, uint32_t budget, bool is_of_group, double score_error = 0)
      : on_(on), budget_(budget), is_of_group_(is_of_group), score_error_(score_error) {}
  std::vector<Attended> attend(uint32_t stream, uint32_t step) override;
  IndexBytes bytes() const override { return {}; }

 private:
  const TraceCase& on_;
  uint32_t budget_;
  bool is_of_group_;
  double score_error_;
};

/// A choice that is made every n steps and attended until the next one. With attends_all a step
/// that chooses attends everything, and the exact choice is RecycledAttention's, which keeps no
/// index: all of K and V, attended once in n steps, is what its choice costs.
class RepeatedChoice : public Rival {
 public:
  RepeatedChoice(const TraceCase& on, std::unique_ptr<Rival> chooser, uint32_t every,
                 bool attends_all)
      : on_(on), chooser_(std::move(chooser)), every_(every), attends_all_(attends_all) {}
  std::vector<Attended> attend(uint32_t stream, uint32_t step) override;
  IndexBytes bytes() const override;

 private:
  const TraceCase& on_;
  std::unique_ptr<Rival> chooser_;
  uint32_t every_;
  bool attends_all_;
  std::vector<Attended> kept_;
};

}  // namespace strata::rivals

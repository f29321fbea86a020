// tools/rivals/events.h - EM-LLM: what is retrieved are events, runs of positions that belong
// together, instead of blocks of 32.
// Source: EM-LLM (arXiv 2407.09450, section 3.2): events begin where a token was surprising, then
//   each boundary moves, between the one before and its old place, to where the modularity of the
//   graph of key products is largest; 8 to 128 positions; representatives as InfLLM's.
// What differs: a trace holds no logits, so that surprise is not known; events begin 32 positions
//   apart and a boundary moves both ways, which is the paper's own comparison "fixed, refined by
//   modularity". Products are cosines. A KV head has its own events. There is no contiguity buffer
//   (neighbours of what was retrieved); events go by their share for each position until the budget
//   is full, where the paper takes the k of the largest product.
#pragma once

#include "tools/rivals/judge.h"

namespace strata::rivals {

inline constexpr uint32_t kEventMin = 8, kEventMax = 128;

/// Modularity of the two communities [first, cut) and [cut, end) of the complete graph of keys,
/// edges weighing their cosines.
double modularity(const TraceCase& on, uint32_t stream, uint32_t first, uint32_t cut, uint32_t end);

/// Where the events of the candidates begin, and last their end.
std::vector<uint32_t> event_bounds(const TraceCase& on, uint32_t stream);

class EventRival : public Rival {
 public:
  /// By exact weights (what the shape of events is worth alone), or by representatives' products.
  /// Errors: those of local_scores() where by representatives.
  EventRival(const TraceCase& on, uint32_t budget, bool is_exact);
  std::vector<Attended> attend(uint32_t stream, uint32_t step) override;
  /// A representative for each event, and 2 bytes where it begins.
  IndexBytes bytes() const override;

 private:
  std::vector<double> pooled(uint32_t stream, uint32_t step) const;

  const TraceCase& on_;
  uint32_t budget_;
  bool is_exact_;
  std::vector<std::vector<uint32_t>> bounds_;                     // per stream
  std::vector<std::vector<std::vector<float>>> representatives_;  // per stream and event
};

}  // namespace strata::rivals

#include "tools/makers/teacher_forced.h"

#include <algorithm>

#include "base/check.h"

namespace strata::makers {
namespace {

struct WantedRows {
  std::span<const uint32_t> positions;  // still to come
  const OnRow& on_row;

  bool contains(uint32_t pos) const { return std::ranges::binary_search(positions, pos); }
  void hear(uint32_t pos, std::span<const float> logits) {
    if (positions.empty() || positions.front() != pos) return;
    on_row(pos, logits);
    positions = positions.subspan(1);
  }
};

/// Walks one step from position `begin` on; the last row's logits are wanted where `ends`. Returns
/// how many rows had logits.
uint32_t walk_step(engine::Walk& walk, engine::Sequence& sequence, std::span<const int32_t> ids,
                   bool ends, WantedRows& wanted) {
  const uint32_t begin = sequence.n_pos();
  std::vector<engine::StepRow> rows;
  for (uint32_t i = 0; i < ids.size(); ++i)
    rows.push_back(
        {&sequence, ids[i], wanted.contains(begin + i) || (ends && i + 1 == ids.size())});
  walk.step(rows);
  uint32_t n_logits = 0;
  for (uint32_t i = 0; i < rows.size(); ++i)
    if (rows[i].wants_logits) wanted.hear(begin + i, walk.logits(n_logits++));
  return n_logits;
}

}  // namespace

std::vector<int32_t> walk_teacher_forced(engine::Walk& walk, engine::Sequence& sequence,
                                         std::span<const int32_t> ids,
                                         std::span<const uint32_t> positions, uint32_t n_greedy,
                                         const OnRow& on_row) {
  STRATA_CHECK(!ids.empty() && sequence.n_pos() == 0, "%zu ids after %u", ids.size(),
               sequence.n_pos());
  WantedRows wanted{positions, on_row};
  uint32_t n_logits = 0;
  for (size_t done = 0; done < ids.size();) {
    const size_t n = std::min<size_t>(walk.max_rows(), ids.size() - done);
    done += n;
    n_logits = walk_step(walk, sequence, ids.subspan(done - n, n), done == ids.size(), wanted);
  }
  std::vector<int32_t> greedy;
  while (greedy.size() < n_greedy) {
    const auto logits = walk.logits(n_logits - 1);
    greedy.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
    if (greedy.size() < n_greedy)
      n_logits = walk_step(walk, sequence, std::span(&greedy.back(), 1), true, wanted);
  }
  return greedy;
}

}  // namespace strata::makers

#include "tools/makers/teacher_forced.h"

#include <algorithm>
#include <vector>

namespace strata::makers {

void walk_teacher_forced(engine::Walk& walk, engine::Sequence& sequence,
                         std::span<const int32_t> ids, std::span<const uint32_t> positions,
                         const OnRow& on_row) {
  std::vector<engine::StepRow> rows;
  while (!ids.empty()) {
    const uint32_t begin = sequence.n_pos();
    const auto n = static_cast<uint32_t>(std::min<size_t>(walk.max_rows(), ids.size()));
    rows.clear();
    for (uint32_t i = 0; i < n; ++i)
      rows.push_back({&sequence, ids[i], std::ranges::binary_search(positions, begin + i)});
    walk.step(rows);
    uint32_t n_heard = 0;
    for (uint32_t i = 0; i < n; ++i)
      if (rows[i].wants_logits) on_row(begin + i, walk.logits(n_heard++));
    ids = ids.subspan(n);
  }
}

}  // namespace strata::makers

#include "index/selector.h"

#include <cstring>

#include "base/check.h"

namespace strata::index {

void Selector::copy_segment(StreamIdx stream, uint32_t segment, std::span<std::byte> out) const {
  STRATA_CHECK(segment < n_segments(stream) && out.size() == segment_bytes(),
               "segment %u of %u, %zu bytes", segment, n_segments(stream), out.size());
  if (codebook_bytes() > 0)
    std::memcpy(out.data(), codebook(stream, segment).data(), codebook_bytes());
  std::byte* to = out.data() + codebook_bytes();
  for (uint32_t i = 0; i < segment_extents(); ++i, to += extent_row_bytes()) {
    const auto from = rows(stream, segment * segment_extents() + i);
    STRATA_CHECK(from.size() == extent_row_bytes(), "%zu bytes of rows", from.size());
    std::memcpy(to, from.data(), from.size());
  }
}

void Selector::estimate_tail(const TailArgs&) const {
  STRATA_CHECK(false, "this method keeps no mean values");
}

}  // namespace strata::index

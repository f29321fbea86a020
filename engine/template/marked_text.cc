#include "engine/template/marked_text.h"

#include <algorithm>

namespace strata::engine::jinja {

MarkedText::MarkedText(std::string bytes, bool is_user) : bytes_(std::move(bytes)) {
  if (is_user) mark(0, bytes_.size());
}

void MarkedText::mark(size_t begin, size_t end) {
  if (begin >= end) return;
  if (!user_.empty() && user_.back().end == begin) {
    user_.back().end = end;
  } else {
    user_.push_back({begin, end});
  }
}

void MarkedText::append(const MarkedText& other, size_t begin, size_t end) {
  const size_t base = bytes_.size();
  bytes_.append(other.bytes_, begin, end - begin);
  auto range = std::lower_bound(other.user_.begin(), other.user_.end(), begin,
                                [](const ByteRange& r, size_t at) { return r.end <= at; });
  for (; range != other.user_.end() && range->begin < end; ++range) {
    mark(base + std::max(range->begin, begin) - begin, base + std::min(range->end, end) - begin);
  }
}

MarkedText MarkedText::slice(size_t begin, size_t end) const {
  MarkedText part;
  part.append(*this, begin, end);
  return part;
}

}  // namespace strata::engine::jinja

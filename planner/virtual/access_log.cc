#include "planner/virtual/access_log.h"

#include <algorithm>

namespace strata::planner {
namespace {

bool is_before(const Access& access, const VectorClock& clock) {
  return access.number == 0 || access.epoch <= known(clock, access.line);
}

}  // namespace

uint64_t known(const VectorClock& clock, uint32_t line) {
  return line < clock.size() ? clock[line] : 0;
}

void advance(VectorClock& clock, uint32_t line) {
  if (clock.size() <= line) clock.resize(line + 1);
  ++clock[line];
}

void join(VectorClock& clock, const VectorClock& other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

std::optional<Conflict> AccessLog::read(const ByteRange& range, const Access& by,
                                        const VectorClock& clock) {
  if (range.bytes == 0) return std::nullopt;
  split(range.begin);
  split(range.end());
  std::optional<Conflict> conflict;
  uint64_t from = range.begin;
  for (auto it = segments_.lower_bound(from); from < range.end();) {
    if (it == segments_.end() || it->first > from) {  // bytes that no one has touched
      const uint64_t to = it == segments_.end() ? range.end() : std::min(it->first, range.end());
      it = std::next(segments_.emplace_hint(it, from, Segment{to, {}, {by}}));
      from = to;
      continue;
    }
    Segment& segment = it->second;
    if (!conflict && !is_before(segment.write, clock))
      conflict = Conflict{segment.write, true, {it->first, segment.end - it->first}};
    std::erase_if(segment.reads, [&](const Access& read) { return is_before(read, clock); });
    segment.reads.push_back(by);
    from = segment.end;
    ++it;
  }
  merge(range);
  return conflict;
}

std::optional<Conflict> AccessLog::write(const ByteRange& range, const Access& by,
                                         const VectorClock& clock) {
  if (range.bytes == 0) return std::nullopt;
  split(range.begin);
  split(range.end());
  std::optional<Conflict> conflict;
  auto it = segments_.lower_bound(range.begin);
  while (it != segments_.end() && it->first < range.end()) {
    const Segment& segment = it->second;
    const ByteRange where = {it->first, segment.end - it->first};
    if (!conflict && !is_before(segment.write, clock))
      conflict = Conflict{segment.write, true, where};
    for (const Access& read : segment.reads)
      if (!conflict && !is_before(read, clock)) conflict = Conflict{read, false, where};
    it = segments_.erase(it);
  }
  segments_.emplace_hint(it, range.begin, Segment{range.end(), by, {}});
  merge(range);
  return conflict;
}

uint64_t AccessLog::last_write(const ByteRange& range) const {
  uint64_t last = 0;
  auto it = segments_.upper_bound(range.begin);
  if (it != segments_.begin()) --it;
  for (; it != segments_.end() && it->first < range.end(); ++it)
    if (it->second.end > range.begin) last = std::max(last, it->second.write.number);
  return last;
}

void AccessLog::forget(const ByteRange& range) {
  split(range.begin);
  split(range.end());
  segments_.erase(segments_.lower_bound(range.begin), segments_.lower_bound(range.end()));
}

/// Makes a segment that holds bytes on both sides of `at` two.
void AccessLog::split(uint64_t at) {
  const auto after = segments_.lower_bound(at);
  if (after == segments_.begin()) return;
  Segment& before = std::prev(after)->second;
  if (before.end <= at) return;
  Segment tail = before;
  before.end = at;
  segments_.emplace_hint(after, at, std::move(tail));
}

/// Makes neighbours of and in the range that say the same one segment.
void AccessLog::merge(const ByteRange& range) {
  auto it = segments_.lower_bound(range.begin);
  if (it != segments_.begin()) --it;
  while (it != segments_.end() && it->first <= range.end()) {
    const auto next = std::next(it);
    if (next == segments_.end()) return;
    if (it->second.end == next->first && it->second.write == next->second.write &&
        it->second.reads == next->second.reads) {
      it->second.end = next->second.end;
      segments_.erase(next);
    } else {
      it = next;
    }
  }
}

}  // namespace strata::planner

// planner/virtual/access_log.h - who last read and wrote which bytes, and whether the order of two
// accesses is one that the program asked for. Why: a copy and a kernel that touch the same bytes
// with no event between them come out right on most days; with vector clocks the pair is found
// whatever the timing.
//
// Source: FastTrack (Flanagan and Freund, PLDI 2009), over ranges of bytes instead of variables.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace strata::planner {

struct ByteRange {
  uint64_t begin = 0;
  uint64_t bytes = 0;
  uint64_t end() const { return begin + bytes; }
};

/// Per line of execution (a stream, the host, a disk's request) how many of its operations are
/// known to be over.
using VectorClock = std::vector<uint64_t>;

uint64_t known(const VectorClock& clock, uint32_t line);
void advance(VectorClock& clock, uint32_t line);  // by one operation
void join(VectorClock& clock, const VectorClock& other);

/// An operation: the epoch-th of its line. Its name lives as long as the program.
struct Access {
  uint32_t line = 0;
  uint64_t epoch = 0;
  const char* name = "";
  uint64_t number = 0;  // of the operation, for messages; 0 = there was none

  bool operator==(const Access&) const = default;
};

/// Two accesses that nothing orders, one of them at least a write.
struct Conflict {
  Access earlier;  // in time, by chance
  bool earlier_wrote = false;
  ByteRange range;
};

class AccessLog {
 public:
  /// Enters an access of an operation whose line knew `clock`, itself included. Calls come in an
  /// order in which what is ordered before an operation comes before it. The first conflict, if
  /// any.
  std::optional<Conflict> read(const ByteRange& range, const Access& by, const VectorClock& clock);
  std::optional<Conflict> write(const ByteRange& range, const Access& by, const VectorClock& clock);

  /// The number of the last operation that wrote any byte of the range; 0 where none did.
  uint64_t last_write(const ByteRange& range) const;
  /// Forgets all accesses: the bytes become others.
  void forget(const ByteRange& range);

  uint64_t n_segments() const { return segments_.size(); }

 private:
  struct Segment {
    uint64_t end = 0;
    Access write;
    std::vector<Access> reads;  // none of them ordered before another
  };
  using Segments = std::map<uint64_t, Segment>;

  void split(uint64_t at);
  void merge(const ByteRange& range);

  Segments segments_;  // by begin; they do not overlap
};

}  // namespace strata::planner

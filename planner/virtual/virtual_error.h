// planner/virtual/virtual_error.h - error numbers of the virtual device, behind DeviceTable's.
// Why two kinds: a call that is wrong by itself is refused and nothing has happened; a hazard is
// found when an operation runs, and as with a card the device answers every later call with it.
#pragma once

#include <cstdint>
#include <string>

#include "base/device_table.h"

namespace strata::planner {

enum class VirtualError : int {
  kNone = 0,
  // Refused.
  kOutOfMemory = 2,  // CUDA's number
  kNoDevice = 100,   // CUDA's number: no profile of that ordinal
  kPinRefused,
  kDefaultStream,    // a null stream: it would order what nothing asks to order
  kPageableCopy,     // host memory of a copy that is not pinned
  kHostCopy,         // from host to host
  kUnknownPlace,     // release() or unpin() of what was not taken
  kGone,             // a stream, an event or a graph that was destroyed
  kNotRecorded,      // elapsed_ms() of an event that has not happened
  kInCapture,        // not allowed between begin_capture() and end_capture()
  kUnjoinedCapture,  // a stream that joined the capture was not awaited before its end
  // Hazards.
  kRace,           // two operations on the same bytes, one a write, that nothing orders
  kSourceChanged,  // the source of a copy was written before the copy ended
  kReleased,       // memory that was released, or never taken
  kOverrun,        // beyond the end of what was taken
  kUnpinned,       // a kernel's pointer into host memory that is not pinned
  kNoBytes,        // a table of a kernel in memory that has no bytes
  kEffectFailed,   // the functions that give a kernel its effect reported an error
};

/// What was found, with the operations and bytes concerned.
struct Hazard {
  VirtualError error = VirtualError::kNone;
  std::string text;
};

constexpr int number_of(VirtualError error) { return static_cast<int>(error); }
DeviceStatus virtual_status(int error);
const char* virtual_message(int error);

}  // namespace strata::planner

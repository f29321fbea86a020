#include "planner/virtual/virtual_error.h"

namespace strata::planner {

DeviceStatus virtual_status(int error) {
  switch (static_cast<VirtualError>(error)) {
    case VirtualError::kNone:
      return DeviceStatus::kOk;
    case VirtualError::kOutOfMemory:
      return DeviceStatus::kOutOfMemory;
    case VirtualError::kNoDevice:
      return DeviceStatus::kNoDevice;
    case VirtualError::kPinRefused:
      return DeviceStatus::kPinRefused;
    case VirtualError::kRace:
    case VirtualError::kSourceChanged:
    case VirtualError::kReleased:
    case VirtualError::kOverrun:
    case VirtualError::kUnpinned:
    case VirtualError::kNoBytes:
    case VirtualError::kEffectFailed:
      return DeviceStatus::kLost;
    default:
      return DeviceStatus::kFailed;
  }
}

const char* virtual_message(int error) {
  switch (static_cast<VirtualError>(error)) {
    case VirtualError::kNone:
      return "no error";
    case VirtualError::kOutOfMemory:
      return "out of memory";
    case VirtualError::kNoDevice:
      return "no device profile of that number";
    case VirtualError::kPinRefused:
      return "host memory cannot be pinned: not at a page, pinned already, or too much";
    case VirtualError::kDefaultStream:
      return "the default stream is forbidden";
    case VirtualError::kPageableCopy:
      return "host memory of a copy is not pinned";
    case VirtualError::kHostCopy:
      return "a copy from host to host";
    case VirtualError::kUnknownPlace:
      return "memory that was not taken is given back";
    case VirtualError::kGone:
      return "a stream, event or graph that was destroyed";
    case VirtualError::kNotRecorded:
      return "an event that has not happened";
    case VirtualError::kInCapture:
      return "not allowed during a capture";
    case VirtualError::kUnjoinedCapture:
      return "a stream of the capture was not awaited before its end";
    case VirtualError::kRace:
      return "two operations on the same bytes that no event orders";
    case VirtualError::kSourceChanged:
      return "the source of a copy was written before the copy ended";
    case VirtualError::kReleased:
      return "memory that was released or never taken";
    case VirtualError::kOverrun:
      return "an access beyond the end of what was taken";
    case VirtualError::kUnpinned:
      return "a kernel's pointer into host memory that is not pinned";
    case VirtualError::kNoBytes:
      return "a kernel's table lies in memory without bytes";
    case VirtualError::kEffectFailed:
      return "the effect of a kernel failed";
  }
  return "unknown error";
}

}  // namespace strata::planner

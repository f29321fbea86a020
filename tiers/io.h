// tiers/io.h - the one narrow interface through which bytes move between memory and files.
// Why: the kernel's ring (tiers/uring_io.h), a pool of threads that call pread and pwrite
// (tiers/thread_io.h: for containers that forbid rings, and because sanitizers cannot see what a
// ring writes) and a seeded simulator of a bad disk (tiers/simulated_io.h) give the same tokens.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace strata::tiers {

/// How one transfer ended. A completion carries it; nothing is thrown before the ticket is taken.
enum class IoStatus : uint8_t {
  kOk,
  kDeviceError,   // the device or the file system could not read or write these bytes (EIO)
  kEndedEarly,    // the file or the device ended before the last byte
  kNoSpace,       // the disk, the quota or the file size limit is full
  kMisaligned,    // the device refused offset, length or address (EINVAL)
  kNotPermitted,  // the system forbids the operation
  kNoMemory,      // the kernel found no memory for it
  kDeviceGone,    // the device was pulled, or its file system shut down
  kTimedOut,      // no completion before the deadline; the device still owns the memory
  kOther,
};

/// "device error", ... and what usually causes it, as one sentence.
std::string_view io_status_name(IoStatus status);
std::string_view io_status_cause(IoStatus status);
/// The status that an errno value (positive) stands for.
IoStatus io_status_of(int error_number);

enum class IoOp : uint8_t { kRead, kWrite };

/// The deepest queue that a back end offers.
inline constexpr uint32_t kMaxIoDepth = 4096;

/// A file that an Io knows: an index, so that a ring can register it once.
enum class IoFile : uint32_t {};

/// One transfer between `memory` and `file`. Where the file is direct (File::is_direct), offset,
/// bytes and address are multiples of File::alignment(). The memory belongs to the transfer until
/// its completion has been returned.
struct IoRequest {
  IoOp op = IoOp::kRead;
  IoFile file{};
  uint64_t offset = 0;
  std::byte* memory = nullptr;
  uint32_t bytes = 0;  // > 0
  uint64_t id = 0;     // returned with the completion
};

struct IoCompletion {
  uint64_t id = 0;
  IoStatus status = IoStatus::kOk;
  int error_number = 0;  // what the system said, 0 where nothing
  uint32_t bytes = 0;    // moved; all of the request where kOk
};

class File;

/// Short transfers are resumed while they make aligned progress; interrupted calls are repeated.
/// One caller at a time, and from the first submit on the same thread (a ring knows its issuer);
/// the destructor may run on any. The destructor does not wait for a device: what is in flight
/// keeps its memory only until then, so whoever owns memory waits first, or gives the memory up
/// (leaks it) where a device hangs.
class Io {
 public:
  virtual ~Io() = default;

  virtual std::string_view name() const = 0;  // "io_uring", "threads", "simulator"
  virtual uint32_t depth() const = 0;         // transfers in flight at most

  /// From now on `memory` is where most transfers go. A back end may make them cheaper (registered
  /// buffers); it may also do nothing, for example where the system's limit on locked memory is
  /// smaller. Returns the bytes that it prepared, from the front on. Nothing may be in flight.
  virtual uint64_t prepare_memory(std::span<std::byte> memory) = 0;

  /// The file must outlive the Io, or be removed before.
  virtual IoFile add_file(const File& file) = 0;
  /// Forgets a file, of which nothing is in flight; its number may be given again. A back end that
  /// keeps no descriptor has nothing to do.
  virtual void remove_file(IoFile) {}
  /// Of a file that was added: File::alignment().
  virtual uint32_t alignment(IoFile file) const = 0;

  /// Starts as many of the requests, from the front on, as the depth allows; returns that number.
  /// Errors of single requests come as completions.
  virtual uint32_t submit(std::span<const IoRequest> requests) = 0;

  /// Writes up to out.size() completions and returns their number: at once where some are there,
  /// else after the first one or after `timeout` (0 = look only). Nothing in flight: returns 0.
  virtual uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) = 0;

  virtual uint32_t in_flight() const = 0;

  /// The time that deadlines are measured in: monotonic; a simulator has its own.
  virtual std::chrono::nanoseconds now() const {
    return std::chrono::steady_clock::now().time_since_epoch();
  }
};

}  // namespace strata::tiers

#include <cerrno>

#include "tiers/io.h"

namespace strata::tiers {

std::string_view io_status_name(IoStatus status) {
  switch (status) {
    case IoStatus::kOk:
      return "ok";
    case IoStatus::kDeviceError:
      return "device error";
    case IoStatus::kEndedEarly:
      return "ended early";
    case IoStatus::kNoSpace:
      return "no space";
    case IoStatus::kMisaligned:
      return "misaligned";
    case IoStatus::kNotPermitted:
      return "not permitted";
    case IoStatus::kNoMemory:
      return "no memory";
    case IoStatus::kDeviceGone:
      return "device gone";
    case IoStatus::kTimedOut:
      return "timed out";
    case IoStatus::kOther:
      return "other error";
  }
  return "other error";
}

std::string_view io_status_cause(IoStatus status) {
  switch (status) {
    case IoStatus::kOk:
      return "Every byte was moved.";
    case IoStatus::kDeviceError:
      return "The disk could not read or write these bytes: a bad sector, a cable, or a damaged "
             "file system.";
    case IoStatus::kEndedEarly:
      return "The file is shorter than its header or its owner says: it was cut off or is still "
             "being written.";
    case IoStatus::kNoSpace:
      return "The disk is full, or a quota or the limit on file sizes (ulimit -f) is reached.";
    case IoStatus::kMisaligned:
      return "The device wants larger blocks than the file system told.";
    case IoStatus::kNotPermitted:
      return "The file system is mounted read-only or does not know the operation, or the "
             "rules of a container forbid it.";
    case IoStatus::kNoMemory:
      return "The system is short of memory or of request slots.";
    case IoStatus::kDeviceGone:
      return "The disk was removed, its file system shut down after an error, or the server "
             "that it is on has ended.";
    case IoStatus::kTimedOut:
      return "The disk has not answered in time; it may be failing, asleep or overloaded.";
    case IoStatus::kOther:
      return "The system gave a reason that has no name here.";
  }
  return "The system gave a reason that has no name here.";
}

IoStatus io_status_of(int error_number) {
  switch (error_number) {
    case 0:
      return IoStatus::kOk;
    // The block layer's words for a medium, target, checksum or transport that fails, and the file
    // systems' for damaged structures. ETIMEDOUT is one of them: the device driver gave the
    // transfer up and so the memory is free again, which kTimedOut would deny.
    case EIO:
    case ENODATA:
    case EREMOTEIO:
    case EILSEQ:
    case ETIMEDOUT:
    case EBADMSG:
    case EUCLEAN:
      return IoStatus::kDeviceError;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return IoStatus::kNoSpace;
    case EINVAL:
      return IoStatus::kMisaligned;
    case EPERM:
    case EACCES:
    case EROFS:
    case ETXTBSY:
    case EOPNOTSUPP:
    case ENOSYS:
      return IoStatus::kNotPermitted;
    case ENOMEM:
    case ENOBUFS:
    // Still so after many tries.
    case EAGAIN:
    case EBUSY:
      return IoStatus::kNoMemory;
    case ENODEV:
    case ENXIO:
    case ENOLINK:
    case ENOMEDIUM:
    case ESHUTDOWN:
    // Of network and FUSE file systems whose server is gone.
    case ESTALE:
    case ENOTCONN:
    case ECONNABORTED:
    case EHOSTDOWN:
      return IoStatus::kDeviceGone;
    default:
      return IoStatus::kOther;
  }
}

}  // namespace strata::tiers

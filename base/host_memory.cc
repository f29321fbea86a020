#include "base/host_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/checked_math.h"
#include "base/error.h"

namespace strata {
HostMemory HostMemory::reserve(uint64_t bytes) {
  const auto rounded = checked_round_up(bytes == 0 ? 1 : bytes, kGrain);
  void* data = rounded ? mmap(nullptr, *rounded, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                       : MAP_FAILED;
  if (data == MAP_FAILED)
    throw Error(ErrorCode::kOutOfMemory,
                "cannot reserve " + std::to_string(bytes) +
                    " bytes of memory: " + std::strerror(rounded ? errno : ENOMEM),
                "", "lower the context (-c) or the KV budget (--kv-dram), or close other programs");
  madvise(data, *rounded, MADV_HUGEPAGE);  // advice: a refusal costs speed only
  HostMemory memory;
  memory.data_ = static_cast<std::byte*>(data);
  memory.bytes_ = *rounded;
  return memory;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace strata

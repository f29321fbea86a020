// tests/engine/disk_of_files.h - a simulated disk that holds what real files hold.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "base/host_memory.h"
#include "tiers/file.h"
#include "tiers/simulated_io.h"

namespace strata::engine::testing {

/// A file that is added is copied. Each look at the disk takes look_time, and a step looks once
/// between two operations: that is how long computing takes.
class DiskOfFiles final : public tiers::Io {
 public:
  explicit DiskOfFiles(const tiers::SimulatedDisk& disk) : disk_(disk) {}
  std::string_view name() const override { return disk_.name(); }
  uint32_t depth() const override { return disk_.depth(); }
  uint64_t prepare_memory(std::span<std::byte>) override { return 0; }
  tiers::IoFile add_file(const tiers::File& file) override {
    const tiers::IoFile added = disk_.add_memory_file(file.size_bytes());
    // Through a buffer of its own, which a direct file needs aligned.
    const HostMemory buffer = HostMemory::reserve(file.size_bytes() + 4096);
    EXPECT_EQ(::pread(file.descriptor(), const_cast<std::byte*>(buffer.data()), buffer.size(), 0),
              static_cast<ssize_t>(file.size_bytes()));
    std::copy_n(buffer.data(), file.size_bytes(), disk_.medium(added).data());
    return added;
  }
  uint32_t alignment(tiers::IoFile file) const override { return disk_.alignment(file); }
  uint32_t submit(std::span<const tiers::IoRequest> requests) override {
    return disk_.submit(requests);
  }
  uint32_t wait(std::span<tiers::IoCompletion> out, std::chrono::microseconds timeout) override {
    return disk_.wait(out, timeout);
  }
  uint32_t in_flight() const override { return disk_.in_flight(); }
  std::chrono::nanoseconds now() const override { return disk_.now(); }

  tiers::SimulatedIo& disk() { return disk_; }

 private:
  tiers::SimulatedIo disk_;
};

}  // namespace strata::engine::testing

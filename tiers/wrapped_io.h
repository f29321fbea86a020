// tiers/wrapped_io.h - an Io over another, which all but transfers and waits is handed on to: the
// base of those that add to these (tiers/paced_io.h, tiers/traced_io.h).
#pragma once

#include <memory>
#include <utility>

#include "base/check.h"
#include "tiers/io.h"

namespace strata::tiers {

/// Threads and costs: those of the other.
class WrappedIo : public Io {
 public:
  std::string_view name() const override { return io_->name(); }
  uint32_t depth() const override { return io_->depth(); }
  uint64_t prepare_memory(std::span<std::byte> memory) override {
    return io_->prepare_memory(memory);
  }
  IoFile add_file(const File& file) override { return io_->add_file(file); }
  void remove_file(IoFile file) override { io_->remove_file(file); }
  uint32_t alignment(IoFile file) const override { return io_->alignment(file); }
  uint32_t in_flight() const override { return io_->in_flight(); }
  std::chrono::nanoseconds now() const override { return io_->now(); }

 protected:
  explicit WrappedIo(std::unique_ptr<Io> io) : io_(std::move(io)) {
    STRATA_CHECK(io_ != nullptr, "nothing to hand on to");
  }
  Io& io() { return *io_; }
  const Io& io() const { return *io_; }

 private:
  std::unique_ptr<Io> io_;
};

}  // namespace strata::tiers

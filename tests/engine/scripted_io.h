// tests/engine/scripted_io.h - reads that fail, hang or wait when a test says so.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "engine/panel_reader.h"
#include "tiers/file.h"
#include "tiers/io.h"

namespace strata::engine::testing {

/// What a test holds of the back end it has made: counts, and what happens to reads from now on.
struct IoScript {
  uint64_t n_submitted = 0;
  uint64_t n_ended = 0;
  int64_t fail_in = -1;  // the read after so many more fails with EIO, once; -1 = none
  bool hangs = false;    // nothing that is submitted from now on ends
  bool holds = false;    // nothing ends now; it does when this is false again
  // Not 0: reads end only for who waits, and each such wait takes so long by `clock`, the disk's.
  std::chrono::nanoseconds wait_time{};
  std::chrono::nanoseconds clock{};
  uint64_t n_waits = 0;  // that took it
  std::function<void(std::chrono::microseconds)> on_wait = {};  // of a wait, its timeout
  uint32_t depth = 1000;  // the smaller of this and what the reader asks for
  std::vector<std::pair<uint32_t, uint64_t>> places;  // file and offset of all that was submitted
};

class ScriptedIo final : public tiers::Io {
 public:
  ScriptedIo(std::shared_ptr<IoScript> script, uint32_t depth)
      : script_(std::move(script)), depth_(std::min(script_->depth, depth)) {}

  std::string_view name() const override { return "script"; }
  uint32_t depth() const override { return depth_; }
  uint64_t prepare_memory(std::span<std::byte>) override { return 0; }
  tiers::IoFile add_file(const tiers::File& file) override {
    files_.push_back(&file);
    return static_cast<tiers::IoFile>(files_.size() - 1);
  }
  uint32_t alignment(tiers::IoFile file) const override {
    return files_[static_cast<uint32_t>(file)]->alignment();
  }
  uint32_t submit(std::span<const tiers::IoRequest> requests) override {
    uint32_t n = 0;
    for (; n < requests.size() && in_flight() < depth_; ++n) {
      ++script_->n_submitted;
      script_->places.emplace_back(static_cast<uint32_t>(requests[n].file), requests[n].offset);
      if (script_->hangs)
        ++n_hung_;
      else
        waiting_.push_back(requests[n]);
    }
    return n;
  }
  /// The last submitted ends first: nobody may rely on an order.
  uint32_t wait(std::span<tiers::IoCompletion> out, std::chrono::microseconds timeout) override {
    if (script_->on_wait) script_->on_wait(timeout);
    if (script_->wait_time.count() > 0) {
      if (timeout.count() == 0 || waiting_.empty()) return 0;
      ++script_->n_waits;
      script_->clock += script_->wait_time;
    }
    uint32_t n = 0;
    while (n < out.size() && n < 2 && !waiting_.empty() && !script_->holds) {
      out[n++] = read(waiting_.back());
      waiting_.pop_back();
      ++script_->n_ended;
    }
    return n;
  }
  std::chrono::nanoseconds now() const override {
    return script_->wait_time.count() > 0 ? script_->clock : Io::now();
  }
  uint32_t in_flight() const override { return static_cast<uint32_t>(waiting_.size()) + n_hung_; }

 private:
  tiers::IoCompletion read(const tiers::IoRequest& request) {
    tiers::IoCompletion completion{.id = request.id};
    if (script_->fail_in >= 0 && script_->fail_in-- == 0) {
      completion.status = tiers::IoStatus::kDeviceError;
      completion.error_number = EIO;
      return completion;
    }
    const tiers::File& file = *files_[static_cast<uint32_t>(request.file)];
    const ssize_t n = ::pread(file.descriptor(), request.memory, request.bytes,
                              static_cast<off_t>(request.offset));
    completion.bytes = n > 0 ? static_cast<uint32_t>(n) : 0;
    if (completion.bytes < request.bytes) completion.status = tiers::IoStatus::kEndedEarly;
    return completion;
  }

  std::shared_ptr<IoScript> script_;
  uint32_t depth_;
  std::vector<const tiers::File*> files_;
  std::vector<tiers::IoRequest> waiting_;
  uint32_t n_hung_ = 0;
};

/// The loader's back ends follow the same script, so weights are loaded before it is changed.
inline MakeIo make_scripted(const std::shared_ptr<IoScript>& script) {
  return [script](uint32_t depth) { return std::make_unique<ScriptedIo>(script, depth); };
}

}  // namespace strata::engine::testing

// tests/tiers/failing_calls.h - system calls that fail, or end the process, at a chosen call.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "tiers/durable_calls.h"

namespace strata::tiers {

/// Every call first asks `fails()`. Checks on the way that no file is synced again after its sync
/// has failed, and counts the descriptors that are open.
class WatchedCalls : public DurableCalls {
 public:
  int n_open = 0;
  bool has_unnamed_files = true;

  int make_directory(const std::string& path) override {
    if (const int error = fails()) return -error;
    return DurableCalls::make_directory(path);
  }
  int open_directory(const std::string& path) override {
    if (const int error = fails()) return -error;
    return opened(DurableCalls::open_directory(path));
  }
  int open_at(int directory, const std::string& name, OpenFor purpose) override {
    if (const int error = fails()) return -error;
    return opened(DurableCalls::open_at(directory, name, purpose));
  }
  int open_unnamed(int directory) override {
    if (!has_unnamed_files) return -EOPNOTSUPP;
    if (const int error = fails()) return -error;
    return opened(DurableCalls::open_unnamed(directory));
  }
  int open_direct(int descriptor) override {
    if (const int error = fails()) return -error;
    return opened(DurableCalls::open_direct(descriptor));
  }
  void close(int descriptor) override {
    --n_open;
    unsynced_.erase(descriptor);
    DurableCalls::close(descriptor);
  }
  int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) override {
    if (const int error = fails()) return -error;
    return DurableCalls::read_at(descriptor, bytes, offset);
  }
  int64_t write_at(int descriptor, std::span<const std::byte> bytes, uint64_t offset) override {
    if (const int error = fails_writing(descriptor, bytes, offset)) return -error;
    return DurableCalls::write_at(descriptor, bytes, offset);
  }
  int sync(int descriptor) override {
    EXPECT_FALSE(unsynced_.contains(descriptor)) << "a second sync after a failed one";
    const int error = fails();
    if (error != 0) unsynced_.insert(descriptor);
    return error != 0 ? -error : sync_for_real(descriptor);
  }
  int touch(int descriptor) override {
    if (const int error = fails()) return -error;
    return DurableCalls::touch(descriptor);
  }
  int try_lock(int descriptor) override {
    if (const int error = fails()) return -error;
    return DurableCalls::try_lock(descriptor);
  }
  int status(int descriptor, FileStatus& status) override {
    if (const int error = fails()) return -error;
    return DurableCalls::status(descriptor, status);
  }
  int status_at(int directory, const std::string& name, FileStatus& status) override {
    if (const int error = fails()) return -error;
    return DurableCalls::status_at(directory, name, status);
  }
  int free_bytes(int descriptor, uint64_t& bytes) override {
    if (const int error = fails()) return -error;
    return DurableCalls::free_bytes(descriptor, bytes);
  }
  int list(int directory, std::vector<std::string>& names) override {
    if (const int error = fails()) return -error;
    return DurableCalls::list(directory, names);
  }
  int link_at(int descriptor, int directory, const std::string& name) override {
    if (const int error = fails()) return -error;
    return DurableCalls::link_at(descriptor, directory, name);
  }
  int rename_at(int directory, const std::string& from, const std::string& to) override {
    if (const int error = fails()) return -error;
    return DurableCalls::rename_at(directory, from, to);
  }
  int remove_at(int directory, const std::string& name) override {
    if (const int error = fails()) return -error;
    return DurableCalls::remove_at(directory, name);
  }

 protected:
  /// The errno that this call ends with, or 0.
  virtual int fails() { return 0; }
  virtual int fails_writing(int, std::span<const std::byte>, uint64_t) { return fails(); }
  /// Nothing here loses power, so that most tests need not wait for a disk.
  virtual int sync_for_real(int) { return 0; }

 private:
  int opened(int descriptor) {
    n_open += descriptor >= 0 ? 1 : 0;
    return descriptor;
  }
  std::set<int> unsynced_;  // descriptors whose sync has failed
};

/// The first_failing-th call fails (from 1), and where `for_good` all later ones.
class FailingCalls final : public WatchedCalls {
 public:
  FailingCalls(uint64_t first_failing, bool for_good, int error)
      : first_failing_(first_failing), for_good_(for_good), error_(error) {}
  uint64_t n_calls() const { return n_calls_; }

 protected:
  int fails() override {
    ++n_calls_;
    return n_calls_ == first_failing_ || (for_good_ && n_calls_ > first_failing_) ? error_ : 0;
  }
  /// A failing write has written a part.
  int fails_writing(int descriptor, std::span<const std::byte> bytes, uint64_t offset) override {
    const int error = fails();
    if (error != 0) DurableCalls::write_at(descriptor, bytes.first(bytes.size() / 2), offset);
    return error;
  }

 private:
  uint64_t first_failing_;
  bool for_good_;
  int error_;
  uint64_t n_calls_ = 0;
};

/// Sessions cannot be opened while `is_shut`.
class ShutSessions final : public WatchedCalls {
 public:
  bool is_shut = false;
  int open_at(int directory, const std::string& name, OpenFor purpose) override {
    if (is_shut && name.ends_with(".session")) return -EACCES;
    return WatchedCalls::open_at(directory, name, purpose);
  }
};

}  // namespace strata::tiers

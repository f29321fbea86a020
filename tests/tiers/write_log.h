// tests/tiers/write_log.h - what a process asked of one directory, call by call, and what a power
// loss at any of them may leave of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/tiers/failing_calls.h"

namespace strata::tiers {

struct LoggedCall {
  enum class Kind : uint8_t { kWrite, kSync, kName, kRename, kRemove, kSyncNames, kTold };
  Kind kind = Kind::kTold;
  uint32_t file = 0;  // in the order in which they were made; of kName and kRename: that gets it
  uint64_t offset = 0;
  std::vector<std::byte> bytes = {};
  std::string name = {}, old_name = {};
  char told = 0;  // what was promised by then
};

/// Real calls in one directory, which it writes down. No sync reaches the disk.
class LoggingCalls final : public WatchedCalls {
 public:
  using Kind = LoggedCall::Kind;
  explicit LoggingCalls(bool has_unnamed) { has_unnamed_files = has_unnamed; }
  const std::vector<LoggedCall>& log() const { return log_; }
  void tell(char step) { log_.push_back({.kind = Kind::kTold, .told = step}); }

  int open_at(int directory, const std::string& name, OpenFor purpose) override {
    const int descriptor = WatchedCalls::open_at(directory, name, purpose);
    if (descriptor < 0) return descriptor;
    if (!named_.contains(name)) {
      named_[name] = n_files_++;
      log_.push_back({.kind = Kind::kName, .file = named_[name], .name = name});
    }
    opened_[descriptor] = named_[name];
    return descriptor;
  }
  int open_unnamed(int directory) override {
    const int descriptor = WatchedCalls::open_unnamed(directory);
    if (descriptor >= 0) opened_[descriptor] = n_files_++;
    return descriptor;
  }
  void close(int descriptor) override {
    opened_.erase(descriptor);
    WatchedCalls::close(descriptor);
  }
  int64_t write_at(int descriptor, std::span<const std::byte> bytes, uint64_t offset) override {
    const int64_t n = WatchedCalls::write_at(descriptor, bytes, offset);
    if (n > 0)
      log_.push_back({.kind = Kind::kWrite,
                      .file = opened_.at(descriptor),
                      .offset = offset,
                      .bytes = {bytes.begin(), bytes.begin() + n}});
    return n;
  }
  int link_at(int descriptor, int directory, const std::string& name) override {
    const int result = WatchedCalls::link_at(descriptor, directory, name);
    if (result != 0) return result;
    named_[name] = opened_.at(descriptor);
    log_.push_back({.kind = Kind::kName, .file = named_[name], .name = name});
    return result;
  }
  int rename_at(int directory, const std::string& from, const std::string& to) override {
    const int result = WatchedCalls::rename_at(directory, from, to);
    if (result != 0) return result;
    named_[to] = named_.at(from);
    named_.erase(from);
    log_.push_back({.kind = Kind::kRename, .file = named_[to], .name = to, .old_name = from});
    return result;
  }
  int remove_at(int directory, const std::string& name) override {
    const int result = WatchedCalls::remove_at(directory, name);
    if (result != 0) return result;
    named_.erase(name);
    log_.push_back({.kind = Kind::kRemove, .name = name});
    return result;
  }

 protected:
  int sync_for_real(int descriptor) override {
    const auto file = opened_.find(descriptor);
    if (file == opened_.end())
      log_.push_back({.kind = Kind::kSyncNames});
    else
      log_.push_back({.kind = Kind::kSync, .file = file->second});
    return 0;
  }

 private:
  std::vector<LoggedCall> log_;
  std::map<std::string, uint32_t> named_;  // files by their present names
  std::map<int, uint32_t> opened_;         // files by descriptor
  uint32_t n_files_ = 0;
};

/// What became of a call that no sync has covered.
enum class Unsynced : uint8_t { kLost, kDone, kTorn };

/// Files by name, as they are found after the power is back.
using DiskImage = std::map<std::string, std::vector<std::byte>>;

/// The calls of `log` that a power loss behind it may undo: writes that no sync of their file
/// followed, names that no sync of the directory did.
inline std::vector<size_t> unsynced_calls(std::span<const LoggedCall> log) {
  using Kind = LoggedCall::Kind;
  std::vector<size_t> calls;
  const auto follows = [&](size_t i, Kind kind, bool is_of_file) {
    for (size_t later = i + 1; later < log.size(); ++later)
      if (log[later].kind == kind && (!is_of_file || log[later].file == log[i].file)) return true;
    return false;
  };
  for (size_t i = 0; i < log.size(); ++i) {
    const Kind kind = log[i].kind;
    if (kind == Kind::kWrite && !follows(i, Kind::kSync, true)) calls.push_back(i);
    const bool is_name = kind == Kind::kName || kind == Kind::kRename || kind == Kind::kRemove;
    if (is_name && !follows(i, Kind::kSyncNames, false)) calls.push_back(i);
  }
  return calls;
}

/// What is there after a power loss behind the last call of `log`, with these fates of its
/// unsynced_calls(). Of a torn write each sector of 512 bytes is new or was never written.
inline DiskImage image_after(std::span<const LoggedCall> log, std::span<const size_t> unsynced,
                             std::span<const Unsynced> fates, std::mt19937_64& random) {
  using Kind = LoggedCall::Kind;
  constexpr size_t kSector = 512;
  std::map<uint32_t, std::vector<std::byte>> files;
  std::map<std::string, uint32_t> names;
  size_t next = 0;
  for (size_t i = 0; i < log.size(); ++i) {
    const LoggedCall& call = log[i];
    Unsynced fate = Unsynced::kDone;
    if (next < unsynced.size() && unsynced[next] == i) fate = fates[next++];
    if (fate == Unsynced::kLost) continue;
    if (call.kind == Kind::kName) names[call.name] = call.file;
    if (call.kind == Kind::kRename) {
      names.erase(call.old_name);
      names[call.name] = call.file;
    }
    if (call.kind == Kind::kRemove) names.erase(call.name);
    if (call.kind != Kind::kWrite) continue;
    std::vector<std::byte>& file = files[call.file];
    if (file.size() < call.offset + call.bytes.size()) file.resize(call.offset + call.bytes.size());
    for (size_t at = 0; at < call.bytes.size(); at += kSector) {
      if (fate == Unsynced::kTorn && random() % 2 == 0) continue;
      const auto sector =
          std::span(call.bytes).subspan(at, std::min(kSector, call.bytes.size() - at));
      std::ranges::copy(sector, file.begin() + static_cast<std::ptrdiff_t>(call.offset + at));
    }
  }
  DiskImage image;
  for (const auto& [name, file] : names) image[name] = files[file];
  return image;
}

}  // namespace strata::tiers

// engine/rows_loader.cc - reads the index rows of a saved context by several threads.
//
// A reader takes the next segment of the text, reads and checks it, and takes it into the streams
// in turn: of a stream segments go in the order of the text, but while one reader is at a part of
// the streams, the next one may be at the part before. So the disk has several requests, and hashes
// and copies are shared out.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/check.h"
#include "base/error.h"
#include "base/host_memory.h"
#include "engine/index_rows.h"

namespace strata::engine {
namespace {

constexpr uint64_t kInFlightBytes = uint64_t{16} << 20;  // hides the latency of any disk here
constexpr uint64_t kReadersMin = 2, kReadersMax = 8;
constexpr uint32_t kStreamParts = 4;

uint64_t n_readers(uint64_t segment_bytes) {
  return std::clamp(kInFlightBytes / std::max<uint64_t>(1, segment_bytes), kReadersMin,
                    kReadersMax);
}

class RowsLoader {
 public:
  RowsLoader(const tiers::PackDirectory& directory, const tiers::FoundContext& found,
             const tiers::RowsShape& shape, index::Selector& index)
      : directory_(directory), found_(found), shape_(shape), index_(index) {}

  /// The segments that every stream has taken, from the first on; a refusal is in refused().
  uint32_t run() {
    const Wanted first = take_next();
    if (first.rows == nullptr) return 0;
    const uint64_t bytes = tiers::RowsReader::memory_bytes(shape_);
    const uint64_t n = std::min<uint64_t>(n_readers(shape_.segment_bytes()),
                                          found_.n_positions / shape_.segment_positions);
    HostMemory memory;
    try {
      memory = HostMemory::reserve(n * bytes);
    } catch (const Error&) {
      return 0;  // the index is made of K and V then
    }
    const auto memory_of = [begin = memory.data(), bytes](uint64_t reader) {
      return std::span(begin + reader * bytes, bytes);
    };
    std::vector<std::jthread> others;
    const auto start_reader = [&](uint64_t i) {
      try {
        others.emplace_back([this, i, memory_of] { read_all(take_next(), memory_of(i)); });
        return true;
      } catch (const std::system_error&) {
        return false;  // fewer readers take longer
      }
    };
    for (uint64_t i = 1; i < n && start_reader(i); ++i) continue;
    read_all(first, memory_of(0));
    others.clear();  // waits for them
    return std::min(next_segment_, refused_segment_);
  }

  const std::optional<tiers::RefusedFile>& refused() const { return refused_; }
  uint32_t n_read() const { return n_read_; }  // segments, those that were not taken included

 private:
  struct Wanted {
    std::shared_ptr<const tiers::RowsReader> rows;  // null: there are no more
    uint32_t segment = 0;
  };

  void read_all(Wanted wanted, std::span<std::byte> memory) {
    for (; wanted.rows != nullptr; wanted = take_next()) {
      try {
        const auto rows = wanted.rows->read_segment(wanted.segment, memory);
        count_read();
        for (uint32_t part = 0; part < kStreamParts; ++part)
          if (!load_part(wanted.segment, part, rows)) return;
      } catch (const Error& error) {
        const std::lock_guard lock(mutex_);
        return refuse(wanted.segment, wanted.rows->name(), error);
      }
    }
  }

  void count_read() {
    const std::lock_guard lock(mutex_);
    ++n_read_;
  }

  /// The next segment of the text, as long as they are there; opens the file it is in.
  Wanted take_next() {
    const std::lock_guard lock(mutex_);
    while (!is_ended_ && !is_in_piece()) {
      if (piece_ == found_.pieces.size()) return {};
      end_pos_ += found_.pieces[piece_++].n_positions;
      rows_.reset();
      if (is_in_piece()) open_piece();
    }
    if (is_ended_) return {};
    if (rows_ != nullptr && rows_->head().has(next_segment_)) return {rows_, next_segment_++};
    is_ended_ = true;
    return {};
  }
  bool is_in_piece() const { return (next_segment_ + 1) * shape_.segment_positions <= end_pos_; }

  void open_piece() {
    const tiers::PackReader& pack = *found_.pieces[piece_ - 1].pack;
    try {
      rows_ = directory_.open_rows(pack, shape_);
    } catch (const Error& error) {
      refuse(next_segment_, tiers::rows_file_name(pack.name(), shape_.kind), error);
    }
  }

  /// False where a segment before this one, or this one, was refused. Errors: kBadFile.
  bool load_part(uint32_t segment, uint32_t part, std::span<const std::byte> rows) {
    {
      std::unique_lock lock(mutex_);
      turn_.wait(lock, [&] { return turns_[part] == segment || refused_segment_ <= segment; });
      if (refused_segment_ <= segment) return false;
    }
    const auto end = (part + 1) * shape_.n_streams / kStreamParts;
    for (auto stream = part * shape_.n_streams / kStreamParts; stream < end; ++stream)
      index_.load_segment(stream, segment,
                          rows.subspan(stream * shape_.stream_bytes, shape_.stream_bytes));
    const std::lock_guard lock(mutex_);
    turns_[part] = segment + 1;
    turn_.notify_all();
    return true;
  }

  /// Under the lock. The first segment that was refused counts, whoever comes to it first.
  void refuse(uint32_t segment, const std::string& file, const Error& error) {
    is_ended_ = true;
    if (segment >= refused_segment_) return;
    refused_segment_ = segment;
    refused_ = {file, error.what(), error.code() != ErrorCode::kUnsupported};
    turn_.notify_all();
  }

  const tiers::PackDirectory& directory_;
  const tiers::FoundContext& found_;
  const tiers::RowsShape& shape_;
  index::Selector& index_;

  std::mutex mutex_;  // of all below
  std::condition_variable turn_;
  bool is_ended_ = false;
  size_t piece_ = 0;  // the next one
  uint32_t end_pos_ = 0;
  std::shared_ptr<const tiers::RowsReader> rows_;  // of the piece before
  uint32_t next_segment_ = 0;
  uint32_t n_read_ = 0;
  std::array<uint32_t, kStreamParts> turns_{};  // which segment a part of the streams takes next
  uint32_t refused_segment_ = UINT32_MAX;
  std::optional<tiers::RefusedFile> refused_;
};

}  // namespace

uint64_t rows_memory_bytes(uint64_t segment_bytes) {
  return n_readers(segment_bytes) * tiers::DirectoryFile::direct_bytes(segment_bytes);
}

LoadedRows load_rows(const tiers::PackDirectory& directory, const tiers::FoundContext& found,
                     const tiers::RowsShape& shape, Sequence& sequence) {
  index::Selector& index = *sequence.index();
  STRATA_CHECK(sequence.n_indexed() == 0 && sequence.n_pos() == found.n_positions,
               "%u blocks are indexed, %u positions of %u", sequence.n_indexed(), sequence.n_pos(),
               found.n_positions);
  RowsLoader loader(directory, found, shape, index);
  const uint32_t n_segments = loader.run();
  LoadedRows loaded{.n_positions = n_segments * shape.segment_positions,
                    .bytes = loader.n_read() * shape.segment_bytes(),
                    .refused = loader.refused()};
  sequence.set_n_indexed(loaded.n_positions / kBlockPositions);
  if (loaded.refused) {
    // What some streams have taken of the segment, or behind it, goes again.
    index.truncate(sequence.n_indexed());
    index.open_blocks(sequence.n_pos() / kBlockPositions);
  }
  return loaded;
}

}  // namespace strata::engine

// engine/rows_loader.cc - reads the index rows of a saved context by several threads.
//
// A reader takes the next segment of the text, reads and checks it, and takes it into the streams
// in turn: of a stream segments go in the order of the text, but while one reader is at a part of
// the streams, the next one may be at the part before. So the disk has several requests, and hashes
// and copies are shared out.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

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

/// Shared with the threads that read: those that wait for the disk when it is given up go on alone.
class RowsLoader : public std::enable_shared_from_this<RowsLoader> {
 public:
  RowsLoader(std::shared_ptr<const tiers::DurableDirectory> directory,
             const tiers::FoundContext& found, const tiers::RowsShape& shape,
             index::Selector& index)
      : directory_(std::move(directory)), found_(found), shape_(shape), index_(index) {}

  /// The segments that every stream has taken, from the first on; a refusal is in refused(). Nobody
  /// uses the index afterwards. Errors: those of DiskWatch::look().
  uint32_t run(const DiskPatience& patience) {
    const uint64_t n = std::min<uint64_t>(n_readers(shape_.segment_bytes()),
                                          found_.n_positions / shape_.segment_positions);
    try {
      for (uint64_t i = 0; i < n && start_reader(); ++i) continue;
      wait(patience);
    } catch (...) {
      leave();
      throw;
    }
    const std::lock_guard lock(mutex_);
    found_.pieces.clear();  // the last reader may still be about to let go of this
    rows_.reset();
    return std::min(next_segment_, refused_segment_);
  }

  /// After run().
  const std::optional<tiers::RefusedFile>& refused() const { return refused_; }
  bool is_cut() const { return refused_segment_ != UINT32_MAX; }
  uint32_t n_read() const { return n_read_; }  // segments, those that were not taken included

 private:
  struct Wanted {
    std::shared_ptr<const tiers::RowsReader> rows;  // null: there are no more
    uint32_t segment = 0;
  };

  /// False where there is no thread: fewer readers take longer, and without any the index is made
  /// of K and V.
  bool start_reader() {
    {
      const std::lock_guard lock(mutex_);
      ++n_running_;
    }
    try {
      std::thread([self = shared_from_this()] { self->read_all(); }).detach();
      return true;
    } catch (const std::exception&) {
      const std::lock_guard lock(mutex_);
      --n_running_;
      if (n_running_ == 0) refused_segment_ = next_segment_;
      return false;
    }
  }

  /// For all readers.
  void wait(const DiskPatience& patience) {
    DiskWatch watch(patience);
    std::unique_lock lock(mutex_);
    while (!turn_.wait_for(lock, watch.pause(), [&] { return n_running_ == 0; }))
      watch.look(n_answers_);
  }

  /// Whoever is still there leaves the index alone from now on.
  void leave() {
    std::unique_lock lock(mutex_);
    is_ended_ = true;
    refused_segment_ = 0;
    turn_.notify_all();
    turn_.wait(lock, [&] { return n_loading_ == 0; });
  }

  void read_all() {
    HostMemory memory;  // a reader's own: the disk may write it after everybody else has left
    for (Wanted wanted = take_next(); wanted.rows != nullptr; wanted = take_next())
      if (!read_one(wanted, memory)) break;
    const std::lock_guard lock(mutex_);
    --n_running_;
    turn_.notify_all();
  }

  /// False where nothing behind it is wanted.
  bool read_one(const Wanted& wanted, HostMemory& memory) {
    try {
      if (memory.data() == nullptr)
        memory = HostMemory::reserve(tiers::RowsReader::memory_bytes(shape_));
      const auto rows = wanted.rows->read_segment(wanted.segment, {memory.data(), memory.size()});
      count_read();
      for (uint32_t part = 0; part < kStreamParts; ++part)
        if (!load_part(wanted.segment, part, rows)) return false;
      return true;
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      refuse(wanted.segment, wanted.rows->name(), error);
      return false;
    }
  }

  void count_read() {
    const std::lock_guard lock(mutex_);
    ++n_read_;
    ++n_answers_;
  }

  /// The next segment of the text, as long as they are there; opens the file it is in.
  Wanted take_next() {
    std::unique_lock lock(mutex_);
    for (;;) {
      turn_.wait(lock, [&] { return !is_opening_ || is_ended_; });
      if (is_ended_) return {};
      if (!is_in_piece()) {
        if (piece_ == found_.pieces.size()) return {};
        end_pos_ += found_.pieces[piece_++].n_positions;
        rows_.reset();
        if (is_in_piece()) open_piece(lock);
        continue;
      }
      if (rows_ != nullptr && rows_->head().has(next_segment_)) return {rows_, next_segment_++};
      is_ended_ = true;
    }
  }
  bool is_in_piece() const { return (next_segment_ + 1) * shape_.segment_positions <= end_pos_; }

  /// Without the lock while the disk is asked: whoever gives it up takes that.
  void open_piece(std::unique_lock<std::mutex>& lock) {
    const tiers::PackReader& pack = *found_.pieces[piece_ - 1].pack;
    is_opening_ = true;
    lock.unlock();
    std::shared_ptr<const tiers::RowsReader> rows;
    std::exception_ptr failure;
    try {
      rows = tiers::open_rows(*directory_, pack, shape_);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    is_opening_ = false;
    ++n_answers_;
    rows_ = std::move(rows);
    turn_.notify_all();
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& error) {
      refuse_piece(pack.name(), error);
    }
  }

  /// False where a segment before this one, or this one, was refused. Errors: kBadFile.
  bool load_part(uint32_t segment, uint32_t part, std::span<const std::byte> rows) {
    {
      std::unique_lock lock(mutex_);
      turn_.wait(lock, [&] { return turns_[part] == segment || refused_segment_ <= segment; });
      if (refused_segment_ <= segment) return false;
      ++n_loading_;
    }
    const auto end = (part + 1) * shape_.n_streams / kStreamParts;
    std::exception_ptr failure;
    try {
      for (auto stream = part * shape_.n_streams / kStreamParts; stream < end; ++stream)
        index_.load_segment(stream, segment,
                            rows.subspan(stream * shape_.stream_bytes, shape_.stream_bytes));
    } catch (...) {
      failure = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      --n_loading_;
      ++n_answers_;
      if (!failure) turns_[part] = segment + 1;
      turn_.notify_all();
    }
    if (failure) std::rethrow_exception(failure);
    return true;
  }

  void refuse_piece(const std::string& pack, const std::exception& error) noexcept {
    try {
      refuse(next_segment_, tiers::rows_file_name(pack, shape_.kind), error);
    } catch (const std::bad_alloc&) {
      end_at(next_segment_);
    }
  }

  /// Under the lock. The first segment that was refused counts, whoever comes to it first. Where
  /// memory is what lacks, no file is to blame: the index is made of K and V.
  void refuse(uint32_t segment, const std::string& file, const std::exception& error) noexcept {
    const bool is_first = segment < refused_segment_;
    end_at(segment);
    const auto* const known = dynamic_cast<const Error*>(&error);
    if (!is_first) return;
    refused_.reset();
    if (known == nullptr || known->code() == ErrorCode::kOutOfMemory) return;
    try {
      refused_ = {file, known->what(), known->code() != ErrorCode::kUnsupported};
    } catch (const std::bad_alloc&) {
      refused_.reset();
    }
  }

  /// Under the lock.
  void end_at(uint32_t segment) {
    is_ended_ = true;
    refused_segment_ = std::min(refused_segment_, segment);
    turn_.notify_all();
  }

  const std::shared_ptr<const tiers::DurableDirectory> directory_;
  tiers::FoundContext found_;
  const tiers::RowsShape shape_;
  index::Selector& index_;  // of who runs this, and used between load_part()'s two locks alone

  std::mutex mutex_;  // of all below
  std::condition_variable turn_;
  bool is_ended_ = false;
  bool is_opening_ = false;  // a reader opens the next piece's file
  uint32_t n_running_ = 0;   // readers
  uint32_t n_loading_ = 0;   // of these, those that use the index
  uint64_t n_answers_ = 0;   // of the disk, and parts that were loaded
  size_t piece_ = 0;         // the next one
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

LoadedRows load_rows(std::shared_ptr<const tiers::DurableDirectory> directory,
                     const tiers::FoundContext& found, const tiers::RowsShape& shape,
                     Sequence& sequence, const DiskPatience& patience) {
  index::Selector& index = *sequence.index();
  STRATA_CHECK(sequence.n_indexed() == 0 && sequence.n_pos() == found.n_positions,
               "%u blocks are indexed, %u positions of %u", sequence.n_indexed(), sequence.n_pos(),
               found.n_positions);
  const auto loader = std::make_shared<RowsLoader>(std::move(directory), found, shape, index);
  const uint32_t n_segments = loader->run(patience);
  LoadedRows loaded{.n_positions = n_segments * shape.segment_positions,
                    .bytes = loader->n_read() * shape.segment_bytes(),
                    .refused = loader->refused()};
  sequence.set_n_indexed(loaded.n_positions / kBlockPositions);
  if (loader->is_cut()) {
    // What some streams have taken of the segment, or behind it, goes again.
    index.truncate(sequence.n_indexed());
    index.open_blocks(sequence.n_pos() / kBlockPositions);
  }
  return loaded;
}

}  // namespace strata::engine

// engine/rows_loader.cc - reads the index rows of a saved context by several threads.
//
// A reader takes the next segment of the text, reads and checks it, and takes it into the streams.
// So the disk has several requests, and hashes and copies are shared out. Where a method wants the
// segments of a stream in the order of the text, readers do so in turn: while one is at a part of
// the streams, the next one may be at the part before.
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

}  // namespace

/// Shared with the threads that read: those that wait for the disk when it is given up go on alone.
class RowsLoading::Loader : public std::enable_shared_from_this<RowsLoading::Loader> {
 public:
  Loader(std::shared_ptr<const tiers::DurableDirectory> directory, const tiers::FoundContext& found,
         const tiers::RowsShape& shape, index::Selector& index)
      : directory_(std::move(directory)),
        found_(found),
        shape_(shape),
        index_(index),
        in_turn_(!index.loads_in_any_order()) {}

  /// After the constructor, once.
  void begin() {
    const uint64_t n = std::min<uint64_t>(n_readers(shape_.segment_bytes()),
                                          found_.n_positions / shape_.segment_positions);
    try {
      memory_ = HostMemory::reserve(n * memory_bytes());
    } catch (const Error&) {
      refused_segment_ = 0;  // no file is to blame
      return;
    }
    for (uint64_t i = 0; i < n && start_reader(i); ++i) continue;
  }

  /// The segments that every stream has taken, from the first on; a refusal is in refused(). Nobody
  /// uses the index afterwards. Errors: those of DiskWatch::look(), and then leave().
  uint32_t wait(const DiskPatience& patience) {
    DiskWatch watch(patience);
    std::unique_lock lock(mutex_);
    while (!ended_.wait_for(lock, watch.pause(), [&] { return n_running_ == 0; }))
      watch.look(n_answers_);
    found_.pieces.clear();  // the last reader may still be about to let go of this
    rows_.reset();
    return std::min(next_segment_, refused_segment_);
  }

  /// Whoever is still there leaves the index alone from now on.
  void leave() {
    std::unique_lock lock(mutex_);
    is_ended_ = true;
    refused_segment_ = 0;
    turn_.notify_all();
    ended_.wait(lock, [&] { return n_loading_ == 0; });
  }

  /// After wait().
  const std::optional<tiers::RefusedFile>& refused() const { return refused_; }
  const tiers::RowsShape& shape() const { return shape_; }
  bool is_cut() const { return refused_segment_ != UINT32_MAX; }
  uint32_t n_read() const { return n_read_; }  // segments, those that were not taken included

 private:
  struct Wanted {
    std::shared_ptr<const tiers::RowsReader> rows;  // null: there are no more
    uint32_t segment = 0;
  };

  /// False where there is no thread: fewer readers take longer, and without any the index is made
  /// of K and V.
  bool start_reader(uint64_t idx) {
    {
      const std::lock_guard lock(mutex_);
      ++n_running_;
    }
    try {
      std::thread([self = shared_from_this(), idx] { self->read_all(idx); }).detach();
      return true;
    } catch (const std::exception&) {
      const std::lock_guard lock(mutex_);
      --n_running_;
      if (n_running_ == 0) refused_segment_ = next_segment_;
      return false;
    }
  }

  /// Its part of memory_ stays a reader's: the disk may write it after everybody else has left.
  void read_all(uint64_t idx) {
    const std::span memory(memory_.data() + idx * memory_bytes(), memory_bytes());
    for (Wanted wanted = take_next(); wanted.rows != nullptr; wanted = take_next())
      if (!read_one(wanted, memory)) break;
    const std::lock_guard lock(mutex_);
    if (--n_running_ == 0) ended_.notify_all();
  }

  /// False where nothing behind it is wanted.
  bool read_one(const Wanted& wanted, std::span<std::byte> memory) {
    try {
      const auto rows = wanted.rows->read_segment(wanted.segment, memory);
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

  uint64_t memory_bytes() const { return tiers::RowsReader::memory_bytes(shape_); }

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
      turn_.wait(lock, [&] {
        return !in_turn_ || turns_[part] == segment || refused_segment_ <= segment;
      });
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
      if (--n_loading_ == 0 && is_ended_) ended_.notify_all();
      ++n_answers_;
      if (!failure) turns_[part] = segment + 1;
      if (in_turn_) turn_.notify_all();
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
  HostMemory memory_;       // of all readers, side by side: each alone would touch a huge page
  index::Selector& index_;  // of who runs this, and used between load_part()'s two locks alone
  const bool in_turn_;      // segments of a stream are taken in the order of the text

  std::mutex mutex_;               // of all below
  std::condition_variable turn_;   // of readers
  std::condition_variable ended_;  // n_running_, and where is_ended_ n_loading_, are 0
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

uint64_t rows_memory_bytes(uint64_t segment_bytes) {
  return n_readers(segment_bytes) * tiers::DirectoryFile::direct_bytes(segment_bytes);
}

RowsLoading::RowsLoading(std::shared_ptr<const tiers::DurableDirectory> directory,
                         const tiers::FoundContext& found, const tiers::RowsShape& shape,
                         Sequence& sequence)
    : loader_(std::make_shared<Loader>(std::move(directory), found, shape, *sequence.index())) {
  STRATA_CHECK(sequence.n_indexed() == 0 && sequence.n_pos() == 0,
               "%u blocks are indexed, %u positions", sequence.n_indexed(), sequence.n_pos());
  loader_->begin();
}

RowsLoading::~RowsLoading() { loader_->leave(); }

void RowsLoading::end(const DiskPatience& patience) {
  loader_->leave();
  loader_->wait(patience);
}

LoadedRows RowsLoading::wait(Sequence& sequence, const DiskPatience& patience) {
  const tiers::RowsShape& shape = loader_->shape();
  const uint32_t n_segments = loader_->wait(patience);
  LoadedRows loaded{.n_positions = n_segments * shape.segment_positions,
                    .bytes = loader_->n_read() * shape.segment_bytes(),
                    .refused = loader_->refused()};
  sequence.set_n_indexed(loaded.n_positions / kBlockPositions);
  if (loader_->is_cut()) {
    // What some streams have taken of the segment, or behind it, goes again.
    index::Selector& index = *sequence.index();
    index.truncate(sequence.n_indexed());
    index.open_blocks(sequence.n_pos() / kBlockPositions);
  }
  return loaded;
}

}  // namespace strata::engine

#include "engine/weight_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>

#include "base/checked_math.h"
#include "base/error.h"
#include "base/seconds_since.h"
#include "engine/mapped_file.h"

namespace strata::engine {
namespace {

constexpr uint64_t kReadsPerRegion = 32;  // between two reports of progress
// Memory of a ring is cleared by the system before it is of use, so a small model has a small one:
// of 92 MiB, 12 buffers took 47 ms and 32 of them 120 (docs/measurements.md, "Reopened and asked").
constexpr uint64_t kReadsPerBuffer = 8, kReadBuffersMin = 8;
// What each way of reading is measured by: stretches, because the page cache reads ahead.
constexpr uint64_t kSampleStretches = 4;  // spread over the file
constexpr uint64_t kStretchReads = 8;     // neighbours

using Clock = std::chrono::steady_clock;

uint64_t weight_bytes_of(std::span<const PanelRead> reads) {
  return std::accumulate(
      reads.begin(), reads.end(), uint64_t{0},
      [](uint64_t sum, const PanelRead& read) { return sum + read.weight_bytes(); });
}

uint64_t read_bytes_max(std::span<const PanelRead> reads) {
  uint64_t bytes = 0;
  for (const PanelRead& read : reads) bytes = std::max(bytes, read.file_bytes);
  return bytes;
}

/// The two ways of reading, and how much has been read.
class Loader {
 public:
  Loader(const GgufFile& file, std::byte* memory, ThreadPool& pool, const MakeIo& make_io,
         std::chrono::milliseconds deadline, const LoadProgress& progress)
      : file_(file),
        memory_(memory),
        pool_(pool),
        make_io_(make_io),
        deadline_(deadline),
        progress_(progress) {}

  /// Whether this system allows it; then read_mapped() may be called.
  bool map() {
    if (!mapped_.empty()) return true;
    for (uint32_t shard = 0; shard < file_.n_shards(); ++shard) {
      const GgufFile::Shard of = file_.shard(shard);
      auto mapped = MappedFile::open(of.descriptor, of.bytes);
      if (!mapped) {
        mapped_.clear();
        return false;
      }
      mapped_.push_back(std::move(*mapped));
    }
    return true;
  }

  /// Whether the page cache has most of the reads' bytes, by a page of each. After map().
  bool is_cached(std::span<const PanelRead> reads) const {
    const auto n_cached = std::ranges::count_if(reads, [&](const PanelRead& read) {
      const uint64_t at = read.file_offset + read.file_bytes / 2;
      return at >= file_.shard(read.shard).bytes || mapped_[read.shard].is_cached(at);
    });
    return 2 * static_cast<size_t>(n_cached) > reads.size();
  }

  void read_mapped(std::span<const PanelRead> reads) {
    const uint64_t bytes_max = read_bytes_max(reads);
    const HostMemory copies = HostMemory::reserve(pool_.size() * bytes_max);
    while (!reads.empty()) {
      const auto region = reads.first(std::min<uint64_t>(reads.size(), kReadsPerRegion));
      std::atomic<const PanelRead*> failed{nullptr};
      pool_.for_each(region.size(), 1, [&](uint64_t begin, uint64_t, uint32_t worker) {
        const PanelRead& read = region[begin];
        const std::span<std::byte> bytes(copies.data() + worker * bytes_max, read.file_bytes);
        if (mapped_[read.shard].read(read.file_offset, bytes) != 0) {
          failed = &read;
          return;
        }
        for (const PanelRun& run : read.runs)
          pack_run(run, run.panel_begin, run.panel_end, read.rows_of(run, bytes), memory_);
      });
      if (const PanelRead* read = failed) fail_mapped(*read);
      report(weight_bytes_of(region));
      reads = reads.subspan(region.size());
    }
  }

  void read_direct(std::span<const PanelRead> reads) {
    if (reads.empty()) return;
    const uint64_t n_buffers =
        std::clamp<uint64_t>(reads.size() / kReadsPerBuffer, kReadBuffersMin, kReadBuffersMax);
    PanelReader reader(file_, make_io_,
                       static_cast<uint32_t>(std::min<uint64_t>(n_buffers, reads.size())),
                       read_buffer_bytes(read_bytes_max(reads)));
    back_end_ = reader.counts().back_end;
    PackTarget target{.memory = memory_, .n_missing = reads.size()};
    const uint64_t total_bytes = weight_bytes_of(reads);
    const uint64_t n_reads = reads.size();
    uint64_t reported_bytes = 0;
    size_t next = 0;
    while (target.n_missing > 0) {
      if (target.failed != nullptr) reader.fail(target, deadline_);
      while (next < reads.size() && reader.can_start()) reader.start(reads[next++], target);
      if (reader.collect(pool_, deadline_) == 0) reader.fail(target, deadline_);
      // By the number of reads: they are of about one size.
      const uint64_t read_bytes = target.n_missing == 0
                                      ? total_bytes
                                      : total_bytes / n_reads * (n_reads - target.n_missing);
      report(read_bytes - reported_bytes);
      reported_bytes = read_bytes;
    }
  }

  std::string_view back_end() const { return back_end_; }

 private:
  void report(uint64_t more_bytes) {
    done_bytes_ += more_bytes;
    if (more_bytes > 0 && progress_ && !progress_(done_bytes_))
      throw Error(ErrorCode::kCancelled, "loading was stopped", file_.path());
  }

  [[noreturn]] void fail_mapped(const PanelRead& read) const {
    file_.check_unchanged(read.shard);
    throw Error(
        ErrorCode::kIo,
        fmt::format("cannot read {} bytes of weights through the page cache", read.file_bytes),
        read_place(file_, read), "check the disk that holds the model file");
  }

  const GgufFile& file_;
  std::byte* memory_;
  ThreadPool& pool_;
  const MakeIo& make_io_;
  const std::chrono::milliseconds deadline_;
  const LoadProgress& progress_;
  std::vector<MappedFile> mapped_;
  std::string_view back_end_;
  uint64_t done_bytes_ = 0;
};

template <class Read>
double bytes_per_s(std::span<const PanelRead> reads, const Read& read) {
  const auto start = Clock::now();
  read(reads);
  const double seconds = seconds_since(start);
  return static_cast<double>(weight_bytes_of(reads)) / std::max(seconds, 1e-9);
}

/// Makes some reads each way, then the others the faster way. The samples are spread over the file,
/// which the page cache may hold in part.
LoadReport read_measured(Loader& loader, std::span<const PanelRead> reads) {
  std::vector<PanelRead> direct_sample, mapped_sample, others;
  const uint64_t n_stretches = reads.size() / kStretchReads;
  const uint64_t stride = std::max<uint64_t>(4, n_stretches / kSampleStretches);
  for (size_t i = 0; i < reads.size(); ++i) {
    const uint64_t at = i / kStretchReads % stride;
    auto& list = at == 0 ? direct_sample : at == stride / 2 ? mapped_sample : others;
    list.push_back(reads[i]);
  }
  LoadReport report;
  report.is_measured = true;
  report.direct_bytes_per_s =
      bytes_per_s(direct_sample, [&](auto sample) { loader.read_direct(sample); });
  report.mapped_bytes_per_s =
      bytes_per_s(mapped_sample, [&](auto sample) { loader.read_mapped(sample); });
  report.used =
      report.direct_bytes_per_s > report.mapped_bytes_per_s ? LoadMode::kDirect : LoadMode::kMapped;
  if (report.used == LoadMode::kDirect)
    loader.read_direct(others);
  else
    loader.read_mapped(others);
  return report;
}

}  // namespace

LoadReport load_panels(const GgufFile& file, std::span<const PanelRead> reads, std::byte* memory,
                       ThreadPool& pool, LoadMode mode, const MakeIo& make_io,
                       std::chrono::milliseconds deadline, const LoadProgress& progress) {
  Loader loader(file, memory, pool, make_io, deadline, progress);
  const bool can_map = mode != LoadMode::kDirect && loader.map();
  if (mode == LoadMode::kMapped && !can_map)
    throw Error(ErrorCode::kIo, "this system does not let the model file be mapped and copied",
                std::string(file.path()), "use --load direct");
  LoadReport report;
  const bool is_small = weight_bytes_of(reads) < kMeasuredBytesMin;
  if (!can_map || (mode == LoadMode::kAuto && is_small && !loader.is_cached(reads))) {
    loader.read_direct(reads);
    report.used = LoadMode::kDirect;
  } else if (mode == LoadMode::kAuto && !is_small) {
    report = read_measured(loader, reads);
  } else {
    loader.read_mapped(reads);
  }
  report.back_end = loader.back_end();
  for (uint32_t shard = 0; shard < file.n_shards(); ++shard) file.check_unchanged(shard);
  return report;
}

}  // namespace strata::engine

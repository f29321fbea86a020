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
#include "engine/mapped_file.h"

namespace strata::engine {
namespace {

constexpr uint64_t kRunsPerRegion = 32;  // between two reports of progress
// What each way of reading is measured by: stretches, because the page cache reads ahead.
constexpr uint64_t kSampleStretches = 4;  // spread over the file
constexpr uint64_t kStretchRuns = 8;      // neighbours

using Clock = std::chrono::steady_clock;

uint64_t file_bytes_of(std::span<const PanelRun> runs) {
  return std::accumulate(runs.begin(), runs.end(), uint64_t{0},
                         [](uint64_t sum, const PanelRun& run) { return sum + run.file_bytes; });
}

uint64_t run_bytes_max(std::span<const PanelRun> runs) {
  uint64_t bytes = 0;
  for (const PanelRun& run : runs) bytes = std::max(bytes, run.file_bytes);
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

  void read_mapped(std::span<const PanelRun> runs) {
    const uint64_t bytes_max = run_bytes_max(runs);
    const HostMemory copies = HostMemory::reserve(pool_.size() * bytes_max);
    while (!runs.empty()) {
      const auto region = runs.first(std::min<uint64_t>(runs.size(), kRunsPerRegion));
      std::atomic<const PanelRun*> failed{nullptr};
      pool_.for_each(region.size(), 1, [&](uint64_t begin, uint64_t, uint32_t worker) {
        const PanelRun& run = region[begin];
        const std::span<std::byte> rows(copies.data() + worker * bytes_max, run.file_bytes);
        if (mapped_[run.tensor->shard].read(run.file_offset, rows) == 0)
          pack_run(run, run.panel_begin, run.panel_end, rows, memory_);
        else
          failed = &run;
      });
      if (const PanelRun* run = failed) fail_mapped(*run);
      report(file_bytes_of(region));
      runs = runs.subspan(region.size());
    }
  }

  void read_direct(std::span<const PanelRun> runs) {
    if (runs.empty()) return;
    PanelReader reader(file_, make_io_,
                       static_cast<uint32_t>(std::min<uint64_t>(kReadBuffersMax, runs.size())),
                       read_buffer_bytes(run_bytes_max(runs)));
    back_end_ = reader.counts().back_end;
    PackTarget target{.memory = memory_, .n_missing = runs.size()};
    const uint64_t total_bytes = file_bytes_of(runs);
    const uint64_t n_runs = runs.size();
    uint64_t reported_bytes = 0;
    size_t next = 0;
    while (target.n_missing > 0) {
      if (target.failed_run != nullptr) reader.fail(target, deadline_);
      while (next < runs.size() && reader.can_start()) reader.start(runs[next++], target);
      if (reader.collect(pool_, deadline_) == 0) reader.fail(target, deadline_);
      // By the number of runs: all but a matrix's last are of about one size.
      const uint64_t read_bytes =
          target.n_missing == 0 ? total_bytes : total_bytes / n_runs * (n_runs - target.n_missing);
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

  [[noreturn]] void fail_mapped(const PanelRun& run) const {
    file_.check_unchanged(run.tensor->shard);
    throw Error(
        ErrorCode::kIo,
        fmt::format("cannot read {} bytes of weights through the page cache", run.file_bytes),
        run_place(file_, run), "check the disk that holds the model file");
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
double bytes_per_s(std::span<const PanelRun> runs, const Read& read) {
  const auto start = Clock::now();
  read(runs);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return static_cast<double>(file_bytes_of(runs)) / std::max(seconds, 1e-9);
}

/// Reads some runs each way, then the others the faster way. The samples are spread over the file,
/// which the page cache may hold in part.
LoadReport read_measured(Loader& loader, std::span<const PanelRun> runs) {
  std::vector<PanelRun> direct_sample, mapped_sample, others;
  const uint64_t n_stretches = runs.size() / kStretchRuns;
  const uint64_t stride = std::max<uint64_t>(4, n_stretches / kSampleStretches);
  for (size_t i = 0; i < runs.size(); ++i) {
    const uint64_t at = i / kStretchRuns % stride;
    auto& list = at == 0 ? direct_sample : at == stride / 2 ? mapped_sample : others;
    list.push_back(runs[i]);
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

LoadReport load_runs(const GgufFile& file, std::span<const PanelRun> runs, std::byte* memory,
                     ThreadPool& pool, LoadMode mode, const MakeIo& make_io,
                     std::chrono::milliseconds deadline, const LoadProgress& progress) {
  Loader loader(file, memory, pool, make_io, deadline, progress);
  const bool can_map = mode != LoadMode::kDirect && loader.map();
  if (mode == LoadMode::kMapped && !can_map)
    throw Error(ErrorCode::kIo, "this system does not let the model file be mapped and copied",
                std::string(file.path()), "use --load direct");
  LoadReport report;
  if (mode == LoadMode::kAuto && can_map && file_bytes_of(runs) >= kMeasuredBytesMin)
    report = read_measured(loader, runs);
  else if (can_map)
    loader.read_mapped(runs);
  else
    loader.read_direct(runs);
  if (!can_map) report.used = LoadMode::kDirect;
  report.back_end = loader.back_end();
  for (uint32_t shard = 0; shard < file.n_shards(); ++shard) file.check_unchanged(shard);
  return report;
}

}  // namespace strata::engine

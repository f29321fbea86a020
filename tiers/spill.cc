#include "tiers/spill.h"

#include <algorithm>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/spill_directory.h"
#include "tiers/spill_file.h"

namespace strata::tiers {
namespace {

// Transfers at the device: more only wait there instead of here. Single blocks want more of them
// (docs/adr/0009-single-blocks.md).
constexpr uint32_t kDepthMax = 64;
constexpr uint32_t kBlockDepthMax = 256;

// Of neighbours in a file: requests of twice as much restore no sooner, for what has come of one is
// checked only when all of it has. Extents of a spill file are joined where alone they are small:
// there requests of one size that end one by one have been measured (docs/measurements.md).
constexpr uint64_t kJoinBytes = uint64_t{1} << 20;
constexpr uint64_t kSpillJoinBytes = uint64_t{512} << 10;
// Read into slots at a time: enough for the disk, and for whoever checks what has come.
constexpr uint64_t kLentBytes = uint64_t{32} << 20;
constexpr uint64_t kLentMax = 256;

class FilePlaces final : public PlaceSource {
 public:
  explicit FilePlaces(SpillFile file) : file_(std::move(file)) {}
  std::optional<uint64_t> take(uint64_t near) override { return file_.take(near); }
  void give_back(uint64_t offset) override { file_.give_back(offset); }
  uint64_t place_bytes() const override { return file_.extent_bytes(); }
  uint64_t used_bytes() const override { return file_.used_bytes(); }
  uint64_t peak_bytes() const override { return file_.peak_bytes(); }
  uint64_t budget_bytes() const override { return file_.budget_bytes(); }
  const SpillFile& file() const { return file_; }

 private:
  SpillFile file_;
};

}  // namespace

void Spill::set_trace(Trace* trace) {
  transfers->set_trace(trace);
  if (block_transfers) block_transfers->set_trace(trace, transfers->n_operations());
}

uint64_t block_frame_bytes(uint32_t block_bytes, uint64_t alignment) {
  const uint64_t in_file = std::max(alignment, kPlaceAlignment);
  return round_up(block_bytes, in_file) + (block_bytes % in_file == 0 ? 0 : in_file);
}

uint64_t spill_join_bytes(uint64_t place_bytes) {
  return place_bytes < kSmallTransferBytes ? kSpillJoinBytes : 0;
}

uint64_t spill_room(const std::string& directory) {
  SpillDirectory folder(directory);
  std::string notice;
  (void)folder.make_file(notice);
  const uint64_t n_free = folder.free_bytes();
  if (n_free == 0)
    throw Error(ErrorCode::kIo, "'" + directory + "' has no room for a spill file", directory,
                "free space there, or name a folder on another disk with --nvme");
  return n_free;
}

std::unique_ptr<Spill> open_spill(const SpillRequest& request, std::vector<std::string>& notices) {
  std::unique_ptr<FilePlaces> places;
  if (!request.directory.empty()) {
    places = std::make_unique<FilePlaces>(
        SpillFile::create(request.directory, request.budget_bytes, request.place_bytes));
    if (!places->file().notice().empty()) notices.push_back(places->file().notice());
  }
  std::string notice;
  // Half of the frames, so that the disk has the next ones at once when a burst of them has come:
  // it may answer only when its queue is empty (docs/measurements.md, "The tier on disk").
  auto io = paced(open_io(request.io, std::clamp(request.n_frames / 2, 1u, kDepthMax), notice),
                  request.read_limit);
  if (!notice.empty()) notices.push_back(notice);
  // Where there is a spill file, extents are read into frames (BlockStore::reads_in_place).
  const auto n_lent = places ? 0
                             : static_cast<uint32_t>(std::clamp<uint64_t>(
                                   kLentBytes / request.place_bytes, request.n_frames,
                                   std::max<uint64_t>(kLentMax, request.n_frames)));
  auto spill = std::make_unique<Spill>();
  if (places) spill->file = io->add_file(places->file().file());
  spill->transfers = std::make_unique<TransferQueue>(
      std::move(io),
      TransferOptions{.frame_bytes = request.place_bytes,
                      .n_frames = request.n_frames,
                      .n_lent = n_lent,
                      // Steps that read single blocks may never use a frame, and clearing all of
                      // them at the start would take as long as reading a model
                      // (docs/measurements.md, "Reopened and asked").
                      .prepares_frames = request.n_block_frames == 0,
                      .join_bytes = places ? spill_join_bytes(request.place_bytes) : kJoinBytes});
  if (request.n_block_frames > 0) {
    io = paced(open_io(request.io, std::min(request.n_block_frames, kBlockDepthMax), notice),
               request.read_limit);
    if (places) spill->block_file = io->add_file(places->file().file());
    const uint64_t alignment = places ? places->file().file().alignment() : kPlaceAlignment;
    spill->block_transfers = std::make_unique<TransferQueue>(
        std::move(io),
        TransferOptions{.frame_bytes = block_frame_bytes(request.block_bytes, alignment),
                        .n_frames = request.n_block_frames});
  }
  spill->places = std::move(places);
  return spill;
}

}  // namespace strata::tiers

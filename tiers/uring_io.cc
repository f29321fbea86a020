#include "tiers/uring_io.h"

#include <liburing.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/file.h"
#include "tiers/transfer.h"

namespace strata::tiers {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMaxPiece = uint64_t{1} << 30;
constexpr uint64_t kMinPiece = uint64_t{1} << 20;
constexpr uint64_t kMaxPieces = 16384;  // the kernel's limit on registered buffers
constexpr uint64_t kSpareMinPieces = 64;
constexpr uint32_t kMaxRegisteredFiles = 64;
constexpr uint32_t kMaxRefusedSubmits = 3;

constexpr uint32_t kSingleIssuerFlags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
constexpr uint32_t kCooperativeFlags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;

[[noreturn]] void refuse(const std::string& action, int error_number) {
  throw Error(ErrorCode::kIo,
              "io_uring cannot be used: " + action + ": " + std::strerror(error_number), "",
              "use threads for file transfers, or allow io_uring in the container's rules and in "
              "kernel.io_uring_disabled");
}

__kernel_timespec timespec_of(std::chrono::microseconds time) {
  return {.tv_sec = time.count() / 1000000, .tv_nsec = time.count() % 1000000 * 1000};
}

/// A ring that is closed with its owner.
struct Ring {
  io_uring ring = {};
  bool is_open = false;

  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    if (is_open) io_uring_queue_exit(&ring);
  }
  /// 0 or a negative errno.
  int open(uint32_t entries, uint32_t flags) {
    const int answer = io_uring_queue_init(entries, &ring, flags);
    is_open = answer == 0;
    return answer;
  }
};

bool knows_operations(io_uring& ring) {
  io_uring_probe* probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return false;
  bool knows = true;
  for (const int operation :
       {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED})
    knows = knows && io_uring_opcode_supported(probe, operation) != 0;
  io_uring_free_probe(probe);
  return knows;
}

/// Opens a small ring with the best flags that the kernel takes, runs one empty operation in it and
/// returns the flags. Errors: kIo.
uint32_t usable_flags(UringSetup setup) {
  Ring trial;
  int answer = -EINVAL;
  uint32_t flags = 0;
  for (const uint32_t candidate : {kSingleIssuerFlags, kCooperativeFlags, 0u}) {
    if (setup == UringSetup::kPlain && candidate != 0) continue;
    flags = candidate;
    answer = trial.open(2, flags);
    if (answer != -EINVAL) break;  // the kernel knows the flags, whatever else it says
  }
  if (answer != 0) refuse("setting up a ring", -answer);
  // Waiting with a deadline came with Linux 5.11, after the other.
  constexpr uint32_t kNeeded = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
  if ((trial.ring.features & kNeeded) != kNeeded) refuse("waiting with a deadline", EOPNOTSUPP);
  if (!knows_operations(trial.ring)) refuse("reading and writing", EOPNOTSUPP);
  io_uring_sqe* sqe = io_uring_get_sqe(&trial.ring);
  STRATA_CHECK(sqe != nullptr, "a ring of 2 is full");
  io_uring_prep_nop(sqe);
  __kernel_timespec time = timespec_of(std::chrono::seconds(1));
  io_uring_cqe* cqe = nullptr;
  // A signal may interrupt the wait, a busy kernel refuse; the repeated call waits for the same.
  for (int i = 0; i < 10; ++i) {
    answer = io_uring_submit_and_wait_timeout(&trial.ring, &cqe, 1, &time, nullptr);
    if (answer != -EINTR && answer != -EAGAIN && answer != -EBUSY) break;
  }
  if (answer < 0) refuse("running an operation", -answer);
  if (cqe == nullptr || cqe->res != 0) refuse("running an operation", EIO);
  return flags;
}

class UringIo final : public Io {
 public:
  UringIo(uint32_t depth, uint32_t flags);

  std::string_view name() const override { return "io_uring"; }
  uint32_t depth() const override { return static_cast<uint32_t>(transfers_.size()); }
  uint64_t prepare_memory(std::span<std::byte> memory) override;
  IoFile add_file(const File& file) override;
  void remove_file(IoFile file) override;
  uint32_t alignment(IoFile file) const override;
  uint32_t submit(std::span<const IoRequest> requests) override;
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override;
  uint32_t in_flight() const override {
    return static_cast<uint32_t>(transfers_.size() - free_.size());
  }

 private:
  struct OpenFile {
    int descriptor;  // of the process, or an index of the ring's table
    bool is_registered;
    uint32_t alignment;
    bool is_removed = false;
  };
  struct Piece {
    uintptr_t begin;
    uintptr_t end;
  };

  void begin_on_this_thread();
  void queue(uint32_t slot);
  void flush();
  void look();
  uint32_t collect(std::span<IoCompletion> out);

  Ring ring_;
  bool is_disabled_;  // until the first submit, whose thread becomes the issuer
  std::thread::id issuer_;
  bool has_file_table_ = false;
  std::vector<OpenFile> files_;
  bool has_buffer_table_ = false;
  std::vector<Piece> pieces_;        // of the prepared memory, by index of the ring's table
  std::vector<Transfer> transfers_;  // by slot, which is what the ring carries as user data
  std::vector<uint32_t> free_;       // slots
};

UringIo::UringIo(uint32_t depth, uint32_t flags)
    : is_disabled_((flags & IORING_SETUP_SINGLE_ISSUER) != 0), transfers_(depth) {
  if (is_disabled_) flags |= IORING_SETUP_R_DISABLED;
  if (const int answer = ring_.open(depth, flags); answer != 0)
    refuse("setting up a ring of " + std::to_string(depth) + " entries", -answer);
  for (uint32_t slot = depth; slot-- > 0;) free_.push_back(slot);
  has_file_table_ = io_uring_register_files_sparse(&ring_.ring, kMaxRegisteredFiles) == 0;
}

uint64_t UringIo::prepare_memory(std::span<std::byte> memory) {
  STRATA_CHECK(in_flight() == 0, "%u transfers in flight", in_flight());
  if (has_buffer_table_) io_uring_unregister_buffers(&ring_.ring);
  pieces_.clear();
  const uint64_t n_pieces =
      std::min(div_up(memory.size(), kMaxPiece) + kSpareMinPieces, kMaxPieces);
  has_buffer_table_ =
      io_uring_register_buffers_sparse(&ring_.ring, static_cast<unsigned>(n_pieces)) == 0;
  if (!has_buffer_table_) return 0;
  pieces_.reserve(n_pieces);
  uint64_t n_prepared = 0;
  for (uint64_t wanted = kMaxPiece; n_prepared < memory.size() && pieces_.size() < n_pieces;) {
    std::byte* const begin = memory.data() + n_prepared;
    const uint64_t bytes = std::min(wanted, memory.size() - n_prepared);
    const iovec piece = {.iov_base = begin, .iov_len = bytes};
    const __u64 tag = 0;
    const int answer = io_uring_register_buffers_update_tag(
        &ring_.ring, static_cast<unsigned>(pieces_.size()), &piece, &tag, 1);
    if (answer == 1) {
      const auto address = reinterpret_cast<uintptr_t>(begin);
      pieces_.push_back({address, address + bytes});
      n_prepared += bytes;
      continue;
    }
    // ENOMEM is the limit on locked memory, which a smaller piece may meet; nothing else is.
    wanted = bytes / 2 / kMinPiece * kMinPiece;
    if (answer != -ENOMEM || wanted == 0) break;
  }
  return n_prepared;
}

IoFile UringIo::add_file(const File& file) {
  OpenFile entry = {file.descriptor(), false, file.alignment()};
  auto place = std::ranges::find(files_, true, &OpenFile::is_removed);
  if (place == files_.end()) place = files_.insert(files_.end(), OpenFile{});
  const auto index = static_cast<uint32_t>(place - files_.begin());
  if (has_file_table_ && index < kMaxRegisteredFiles &&
      io_uring_register_files_update(&ring_.ring, index, &entry.descriptor, 1) == 1) {
    entry.descriptor = static_cast<int>(index);
    entry.is_registered = true;
  }
  *place = entry;
  return static_cast<IoFile>(index);
}

void UringIo::remove_file(IoFile file) {
  const auto index = static_cast<uint32_t>(file);
  STRATA_CHECK(index < files_.size() && !files_[index].is_removed, "file %u of %zu", index,
               files_.size());
  // Where the kernel refuses, the file stays open until the next one takes its place.
  const int none = -1;
  if (files_[index].is_registered) io_uring_register_files_update(&ring_.ring, index, &none, 1);
  files_[index].is_removed = true;
}

uint32_t UringIo::alignment(IoFile file) const {
  const auto index = static_cast<uint32_t>(file);
  STRATA_CHECK(index < files_.size(), "file %u of %zu", index, files_.size());
  return files_[index].alignment;
}

void UringIo::begin_on_this_thread() {
  if (is_disabled_) {
    // liburing 2.3 declares io_uring_enable_rings without exporting it.
    const auto descriptor = static_cast<unsigned>(ring_.ring.ring_fd);
    const int answer = io_uring_register(descriptor, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    if (answer != 0) refuse("starting the ring", -answer);
    is_disabled_ = false;
  }
  if (issuer_ == std::thread::id()) issuer_ = std::this_thread::get_id();
  STRATA_CHECK(issuer_ == std::this_thread::get_id(), "%u in flight of another thread",
               in_flight());
}

/// Puts the rest of the transfer in this slot into the submission queue.
void UringIo::queue(uint32_t slot) {
  const Transfer& transfer = transfers_[slot];
  const OpenFile& file = files_[static_cast<uint32_t>(transfer.request.file)];
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_.ring);
  STRATA_CHECK(sqe != nullptr, "a ring of %zu is full", transfers_.size());  // one per slot
  const auto begin = reinterpret_cast<uintptr_t>(transfer.memory());
  const auto piece = std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& p) {
    return begin >= p.begin && begin + transfer.bytes() <= p.end;
  });
  const bool is_read = transfer.request.op == IoOp::kRead;
  const bool is_fixed = piece != pieces_.end();
  const int operation = is_read ? (is_fixed ? IORING_OP_READ_FIXED : IORING_OP_READ)
                                : (is_fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE);
  io_uring_prep_rw(operation, sqe, file.descriptor, transfer.memory(), transfer.bytes(),
                   transfer.offset());
  if (is_fixed) sqe->buf_index = static_cast<uint16_t>(piece - pieces_.begin());
  if (file.is_registered) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
  io_uring_sqe_set_data64(sqe, slot);
}

/// Hands the queue to the kernel. What it refuses (EAGAIN: no memory; EBUSY) stays in the queue for
/// the next call.
void UringIo::flush() {
  for (uint32_t n_refused = 0;
       io_uring_sq_ready(&ring_.ring) > 0 && n_refused < kMaxRefusedSubmits;) {
    if (io_uring_submit(&ring_.ring) <= 0) ++n_refused;
  }
}

/// Lets the kernel post the completions that it has, without waiting.
void UringIo::look() {
  flush();
  io_uring_get_events(&ring_.ring);
}

uint32_t UringIo::submit(std::span<const IoRequest> requests) {
  const uint64_t n = std::min(requests.size(), free_.size());
  if (n == 0) return 0;
  begin_on_this_thread();
  for (const IoRequest& request : requests.first(n)) {
    const auto index = static_cast<uint32_t>(request.file);
    STRATA_CHECK(index < files_.size(), "file %u of %zu", index, files_.size());
    check_request(request, files_[index].alignment);
    const uint32_t slot = free_.back();
    free_.pop_back();
    transfers_[slot] = {.request = request, .alignment = files_[index].alignment};
    queue(slot);
  }
  flush();
  return static_cast<uint32_t>(n);
}

/// Takes completions that are there: finished transfers go to `out`, the others back to the queue.
uint32_t UringIo::collect(std::span<IoCompletion> out) {
  uint32_t n_out = 0;
  uint32_t n_taken = 0;
  unsigned head = 0;
  io_uring_cqe* cqe = nullptr;
  io_uring_for_each_cqe(&ring_.ring, head, cqe) {
    if (n_out == out.size()) break;
    ++n_taken;
    const auto slot = static_cast<uint32_t>(cqe->user_data);
    STRATA_CHECK(slot < transfers_.size(), "slot %u of %zu", slot, transfers_.size());
    if (finish(transfers_[slot], cqe->res, out[n_out])) {
      ++n_out;
      free_.push_back(slot);
    } else {
      queue(slot);
    }
  }
  io_uring_cq_advance(&ring_.ring, n_taken);
  return n_out;
}

uint32_t UringIo::wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) {
  if (in_flight() == 0 || out.empty()) return 0;
  begin_on_this_thread();
  const auto deadline = Clock::now() + std::min(timeout, kMaxIoWait);
  bool has_looked = false;
  for (;;) {
    if (const uint32_t n = collect(out); n > 0) {
      flush();
      return n;
    }
    const auto rest =
        std::chrono::duration_cast<std::chrono::microseconds>(deadline - Clock::now());
    if (rest.count() <= 0) {
      if (has_looked) return 0;
      look();
      has_looked = true;
      continue;
    }
    __kernel_timespec time = timespec_of(rest);
    io_uring_cqe* cqe = nullptr;
    const int answer = io_uring_submit_and_wait_timeout(&ring_.ring, &cqe, 1, &time, nullptr);
    if (answer >= 0 || answer == -ETIME || answer == -EINTR) continue;
    // The kernel took nothing and did not wait either. Completions may make room; the deadline
    // bounds the tries.
    look();
    std::this_thread::sleep_for(std::min(rest, std::chrono::microseconds(1000)));
  }
}

}  // namespace

std::unique_ptr<Io> open_uring_io(uint32_t depth, UringSetup setup) {
  STRATA_CHECK(depth >= 1 && depth <= kMaxIoDepth, "depth=%u", depth);
  return std::make_unique<UringIo>(depth, usable_flags(setup));
}

}  // namespace strata::tiers

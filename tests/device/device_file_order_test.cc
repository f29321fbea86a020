// Weights from the model file on the virtual device: copies out of memory that the disk fills again
// are ordered, and the disk, the link and the card work beside each other, in virtual time.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>

#include "base/error.h"
#include "tests/device/file_model.h"
#include "tests/device/virtual_run.h"

namespace strata::engine {
namespace {

using planner::VirtualTime;
using testing::DeviceRun;
using testing::FileModel;
using testing::hazards_of;
using testing::holding;
using testing::IoScript;
using testing::LoadedModel;
using testing::Logits;
using testing::make_scripted;
using testing::VirtualTable;
using testing::WalkSetting;

constexpr uint32_t kFileOrderSeed = 20261130;
constexpr uint32_t kFileLayers = 8;

WalkSetting file_order_setting(uint32_t chunk_rows = kDeviceFewRows) {
  return {.kernels = cpu_attn::available_kernels().back(), .chunk_rows = chunk_rows, .n_ctx = 128};
}

/// A disk that gives so many bytes/s in the time of a virtual device: one read after the other.
struct VirtualDisk {
  double bytes_per_s = 0;
  Device* device = nullptr;  // null: time stands still, and the disk answers at once
  VirtualTime free_at{};

  VirtualTime now() const {
    return device == nullptr ? free_at : planner::virtual_device(device).clock().now();
  }
  /// The host waits.
  void wait_until(VirtualTime time) const {
    constexpr double kHostBytes = 1e9;  // so little of DRAM's rate that it is nobody's loss
    const auto bytes = static_cast<uint64_t>((time - now()).count());
    if (bytes == 0) return;
    EXPECT_EQ(planner::virtual_device(device).host_work(
                  {.name = "wait for the disk", .dram_bytes = bytes, .bytes_per_s = kHostBytes}),
              0);
  }
};

class VirtualDiskIo final : public tiers::Io {
 public:
  VirtualDiskIo(VirtualDisk& disk, uint32_t depth) : disk_(disk), depth_(depth) {}
  std::string_view name() const override { return "virtual disk"; }
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
      if (disk_.device != nullptr)
        disk_.free_at = std::max(disk_.free_at, disk_.now()) +
                        planner::duration_of(requests[n].bytes, disk_.bytes_per_s);
      reads_.push_back({requests[n], disk_.free_at});
    }
    return n;
  }
  uint32_t wait(std::span<tiers::IoCompletion> out, std::chrono::microseconds timeout) override {
    if (!reads_.empty() && reads_.front().end > disk_.now() && timeout.count() > 0)
      disk_.wait_until(std::min<VirtualTime>(reads_.front().end, disk_.now() + timeout));
    uint32_t n = 0;
    for (; n < out.size() && !reads_.empty() && reads_.front().end <= disk_.now(); ++n) {
      const tiers::IoRequest& request = reads_.front().request;
      const ssize_t read =
          ::pread(files_[static_cast<uint32_t>(request.file)]->descriptor(), request.memory,
                  request.bytes, static_cast<off_t>(request.offset));
      out[n] = {.id = request.id};
      out[n].bytes = static_cast<uint32_t>(std::max<ssize_t>(read, 0));
      if (out[n].bytes < request.bytes) out[n].status = tiers::IoStatus::kEndedEarly;
      reads_.pop_front();
    }
    return n;
  }
  uint32_t in_flight() const override { return static_cast<uint32_t>(reads_.size()); }

 private:
  struct Read {
    tiers::IoRequest request;
    VirtualTime end;
  };
  VirtualDisk& disk_;
  uint32_t depth_;
  std::vector<const tiers::File*> files_;
  std::deque<Read> reads_;
};

std::vector<Logits> walked_by_tokens(DeviceRun& run, std::span<const int32_t> text) {
  std::vector<Logits> all;
  Sequence sequence = run.walk().sequence();
  all.push_back(run.walk().feed(sequence, text.first(60)));
  for (const int32_t token : text.subspan(60))
    all.push_back(run.walk().feed(sequence, std::span(&token, 1)));
  return all;
}

/// Of rows and of chunks; where a read fails on the way, too.
TEST(DeviceFileOrder, CopiesEndBeforeTheirMemoryIsFilledAgain) {
  const auto of = testing::wide_llama(6);
  const LoadedModel in_dram(of);
  const auto text = in_dram.text(64, kFileOrderSeed);
  for (uint32_t draw = 0; draw < 2; ++draw) {
    SCOPED_TRACE(draw);
    testing::DrawnHomes homes(of.n_layers, kFileOrderSeed + draw);
    if (draw == 0) homes.resident.assign(of.n_layers, kNoPiece);
    DeviceRun emulated(in_dram, file_order_setting(40), 0, gpu_emu::emulated_device(), 0,
                       holding(homes.resident));
    const std::vector<Logits> wanted = walked_by_tokens(emulated, text);
    const auto script = std::make_shared<IoScript>();
    const FileModel member(of, homes.streamed, make_scripted(script));
    VirtualTable device;
    DeviceRun run(member, file_order_setting(40), 0, device.table(), 0, holding(homes.resident));
    for (const int64_t fail_in : {-1, 5, -1}) {
      script->fail_in = fail_in;
      try {
        const std::vector<Logits> found = walked_by_tokens(run, text);
        EXPECT_TRUE(found == wanted);
        EXPECT_EQ(script->fail_in, -1);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kIo) << error.what();
        EXPECT_EQ(fail_in, 5);
      }
      EXPECT_EQ(hazards_of(run), "");
    }
  }
}

/// Microseconds of a token, and what the disk alone would take for it.
struct TokenTime {
  double us = 0, disk_us = 0;
};

/// So many of the layers, evenly spread, come from a disk that takes disk_us for a token, the
/// others from DRAM; all pass. Across a link that is the card's bottleneck.
TokenTime file_token_time(uint32_t n_streamed, double disk_us, bool reads_ahead = true) {
  makers::RandomTransformer of = makers::zoo_member("llama3").model;
  of.n_layers = kFileLayers;
  of.d_ff = 1536;
  std::vector<PieceSet> streamed(kFileLayers);
  for (uint32_t i = 0; i < n_streamed; ++i)
    streamed[(kFileLayers / 2 + i * kFileLayers / n_streamed) % kFileLayers] = kWholeLayer;
  VirtualDisk disk;
  const FileModel member(of, streamed, [&disk](uint32_t depth) {
    return std::make_unique<VirtualDiskIo>(disk, depth);
  });
  VirtualTable device(0.02);
  DeviceRun run(member, file_order_setting(), 0, device.table(), 0,
                holding(std::vector<PieceSet>(kFileLayers, kNoPiece)));
  run.walk().walk().set_reads_ahead(reads_ahead);
  const auto text = member.text(40, kFileOrderSeed);
  Sequence sequence = run.walk().sequence();
  const auto feed = [&](uint32_t n) {
    for (uint32_t i = 0; i < n; ++i)
      run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos(), 1));
  };
  constexpr uint32_t kTokens = 2;
  feed(1);
  const uint64_t before = member.model.read_counts().read_bytes;
  feed(kTokens);
  const auto token_bytes =
      static_cast<double>(member.model.read_counts().read_bytes - before) / kTokens;
  if (n_streamed > 0) disk.bytes_per_s = token_bytes / disk_us * 1e6;
  disk.device = run.opened();
  feed(1);
  const VirtualTime begin = disk.now();
  feed(kTokens);
  const auto us = std::chrono::duration<double, std::micro>(disk.now() - begin).count() / kTokens;
  EXPECT_EQ(hazards_of(run), "");
  disk.device = nullptr;  // it goes before the reads that are under way
  return {us, n_streamed > 0 ? token_bytes / disk.bytes_per_s * 1e6 : 0};
}

TEST(DeviceFileOrder, ATokenTakesWhatTheBusiestOfDiskAndLinkDoes) {
  const double link_us = file_token_time(0, 0).us;
  std::printf("link alone %.0f us\n", link_us);
  const auto expect_near = [&](uint32_t n_streamed, double disk_share, double most) {
    const TokenTime time = file_token_time(n_streamed, disk_share * link_us);
    const double busiest = std::max(link_us, time.disk_us);
    std::printf("%u layers, disk %.0f us: %.0f us, %.2f of the busiest\n", n_streamed, time.disk_us,
                time.us, time.us / busiest);
    EXPECT_GE(time.us, 0.93 * busiest);  // of two tokens, before which some was read
    EXPECT_LE(time.us, most * busiest);
  };
  expect_near(kFileLayers, 2, 1.1);
  expect_near(kFileLayers, 1, 1.3);
  expect_near(kFileLayers / 2, 2, 1.1);
  expect_near(kFileLayers / 2, 0.5, 1.2);
  expect_near(kFileLayers / 4, 1, 1.3);
  expect_near(1, 1, 1.3);
  // To compare: the disk's and the link's time one after the other.
  const TokenTime apart = file_token_time(kFileLayers, link_us, /*reads_ahead=*/false);
  EXPECT_GE(apart.us, 1.7 * link_us);
}

}  // namespace
}  // namespace strata::engine

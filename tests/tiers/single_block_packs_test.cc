// Single blocks from a real spill file and from packs, in one call, for blocks of every alignment.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>
#include <string>

#include "tests/tiers/block_fixture.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

constexpr uint32_t kHeads = 2;
constexpr uint32_t kFrames = 3;  // fewer than blocks in a call

/// A store with a spill file and a saved text of two extents, both in folders of their own.
struct SavedAndSpilled {
  SavedAndSpilled(KvCodec codec, uint32_t head_dim, IoChoice io)
      : layout(KvLayout::make(codec, codec, head_dim)),
        packs(PackDirectory::open(saved.path(), {})),
        store(layout, 1, uint64_t{64} * layout.block_bytes, Hash128{1, 2}, spill_of(io)) {
    PackShape shape;
    shape.model = {1, 2};
    shape.k_codec = shape.v_codec = codec;
    shape.head_dim = head_dim;
    shape.layers = {{kHeads, 0}};
    const auto text = random_text(7, 2 * kExtentPositions);
    names = save_text(packs, shape, text);
    found = packs.find(shape, Hash128{}, text);
    const IoFile file = store.add_pack(pack());
    for (uint32_t extent = 0; extent < 2; ++extent)
      store.adopt({.pack = found.pieces.at(0).pack,
                   .file = file,
                   .pack_extent = extent,
                   .layer = 0,
                   .first_pos = extent * kExtentPositions},
                  adopted[extent]);
    spill_an_extent();
    store.begin_step(ReadGrain::kBlocks);
  }

  const PackReader& pack() const { return *found.pieces.at(0).pack; }
  bool is_saved_block(uint32_t extent, uint32_t idx) const {
    const auto wanted = block_bytes(pack().head(), pack().geometry(), 0, idx / kExtentBlocks,
                                    extent * kExtentBlocks + idx % kExtentBlocks);
    return std::memcmp(store.bytes(adopted[extent][idx]), wanted.data(), wanted.size()) == 0;
  }
  /// Changes a byte of the block in its file.
  void damage(uint32_t extent, uint32_t idx) {
    const int descriptor = ::open((saved.path() + "/" + names.at(0)).c_str(), O_RDWR);
    ASSERT_GE(descriptor, 0);
    const auto at = static_cast<off_t>(pack().geometry().region_offset(extent, 0) +
                                       uint64_t{idx} * layout.block_bytes + 100);
    std::byte byte{};
    ASSERT_EQ(::pread(descriptor, &byte, 1, at), 1);
    byte ^= std::byte{1};
    ASSERT_EQ(::pwrite(descriptor, &byte, 1, at), 1);
    ASSERT_EQ(::fsync(descriptor), 0);
    ::close(descriptor);
  }

  FreshPath folder;
  FreshPath saved;
  KvLayout layout;
  PackDirectory packs;
  std::vector<std::string> names;
  FoundContext found;
  std::array<std::array<BlockId, kHeads * kExtentBlocks>, 2> adopted;
  std::array<BlockId, kHeads * kExtentBlocks> spilled;  // of the serials 0, 1, ...
  BlockStore store;
  ThreadPool pool{2};

 private:
  std::unique_ptr<Spill> spill_of(IoChoice io) {
    const uint64_t place =
        round_up(uint64_t{kHeads} * kExtentBlocks * layout.block_bytes, kPlaceAlignment);
    std::vector<std::string> notices;
    return open_spill({.directory = folder.path(),
                       .budget_bytes = 2 * place,
                       .place_bytes = place,
                       .n_frames = 2,
                       .block_bytes = layout.block_bytes,
                       .n_block_frames = kFrames,
                       .io = io},
                      notices);
  }
  void spill_an_extent() {
    for (uint32_t i = 0; i < spilled.size(); ++i) {
      spilled[i] = *store.open_block(i == 0 ? kNoBlock : spilled[i - 1]);
      testing::fill_block(store.open_bytes(spilled[i]), layout.block_bytes, i);
    }
    const std::array<Hash128, kExtentBlocks> chain{};
    EXPECT_TRUE(store.freeze(0, 2 * kExtentPositions, chain, spilled));
    EXPECT_TRUE(store.make_room(store.pool().n_slots()));
  }
};

TEST(SingleBlockPacks, BlocksOfAPackAndOfTheSpillFileComeTogether) {
  struct Case {
    KvCodec codec;
    uint32_t head_dim, block_bytes;
  };
  for (const IoChoice io : {IoChoice::kThreads, IoChoice::kAuto})
    for (const Case& of : {Case{KvCodec::kF16, 64, 8192}, Case{KvCodec::kQ8_0, 64, 4352},
                           Case{KvCodec::kF16, 128, 16384}}) {
      SCOPED_TRACE(of.block_bytes);
      SavedAndSpilled at(of.codec, of.head_dim, io);
      ASSERT_EQ(at.layout.block_bytes, of.block_bytes);
      std::vector<BlockId> wanted;
      const std::array idx = {0u, 3u, 7u, 8u, 13u, 15u};
      for (const uint32_t i : idx) {
        wanted.push_back(at.spilled[i]);
        wanted.push_back(at.adopted[1][i]);
        wanted.push_back(at.adopted[0][i]);
      }
      at.store.pin(wanted, at.pool);
      for (const uint32_t i : idx) {
        EXPECT_TRUE(testing::holds_serial(at.store.bytes(at.spilled[i]), of.block_bytes, i)) << i;
        EXPECT_TRUE(at.is_saved_block(0, i)) << i;
        EXPECT_TRUE(at.is_saved_block(1, i)) << i;
      }
      EXPECT_FALSE(at.store.is_resident(at.adopted[0][1]));
      EXPECT_EQ(at.store.counts().blocks_read, wanted.size());
      EXPECT_EQ(at.store.counts().retries, 0u);
      EXPECT_EQ(at.store.block_transfers()->n_free(), kFrames);
      at.store.unpin(wanted);
    }
}

struct KnownFiles {
  std::set<IoFile> files;
  bool refuses = false;
};

/// Says which files it knows, and takes no more where it is told so.
class RefusingIo final : public Io {
 public:
  explicit RefusingIo(KnownFiles& known) : known_(known), disk_(SimulatedDisk{}) {}
  std::string_view name() const override { return disk_.name(); }
  uint32_t depth() const override { return disk_.depth(); }
  uint64_t prepare_memory(std::span<std::byte> memory) override {
    return disk_.prepare_memory(memory);
  }
  IoFile add_file(const File& file) override {
    if (known_.refuses) throw Error(ErrorCode::kIo, "no more files");
    const IoFile added = disk_.add_file(file);
    known_.files.insert(added);
    return added;
  }
  void remove_file(IoFile file) override { known_.files.erase(file); }
  uint32_t alignment(IoFile file) const override { return disk_.alignment(file); }
  uint32_t submit(std::span<const IoRequest> requests) override { return disk_.submit(requests); }
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override {
    return disk_.wait(out, timeout);
  }
  uint32_t in_flight() const override { return disk_.in_flight(); }
  std::chrono::nanoseconds now() const override { return disk_.now(); }

 private:
  KnownFiles& known_;
  SimulatedIo disk_;
};

TEST(SingleBlockPacks, APackThatOneQueueRefusesIsForgottenByTheOther) {
  SavedAndSpilled saved(KvCodec::kF16, 64, IoChoice::kThreads);
  KnownFiles of_extents, of_blocks;
  const auto queue_of = [](KnownFiles& known) {
    return std::make_unique<TransferQueue>(
        std::make_unique<RefusingIo>(known),
        TransferOptions{.frame_bytes = uint64_t{1} << 20, .n_frames = 2});
  };
  auto spill = std::make_unique<Spill>();
  spill->transfers = queue_of(of_extents);
  spill->block_transfers = queue_of(of_blocks);
  BlockStore store(saved.layout, 1, uint64_t{64} * saved.layout.block_bytes, Hash128{1, 2},
                   std::move(spill));
  of_blocks.refuses = true;
  EXPECT_EQ(code_of([&] { store.add_pack(saved.pack()); }), "io");
  EXPECT_TRUE(of_extents.files.empty()) << "it would read a file that is closed";
  of_blocks.refuses = false;
  store.add_pack(saved.pack());
  EXPECT_EQ(of_extents.files.size(), 1u);
  EXPECT_EQ(of_blocks.files.size(), 1u);
}

TEST(SingleBlockPacks, ADamagedPackIsNamedAndItsOtherExtentsStay) {
  SavedAndSpilled at(KvCodec::kQ8_0, 64, IoChoice::kAuto);
  at.damage(1, 9);
  const std::array<BlockId, 2> near = {at.adopted[1][8], at.adopted[1][10]};
  at.store.pin(near, at.pool);  // their frames hold a part of the damaged block
  EXPECT_TRUE(at.is_saved_block(1, 8));
  EXPECT_TRUE(at.is_saved_block(1, 10));
  at.store.unpin(near);
  EXPECT_EQ(at.store.first_damaged_pack(), nullptr);
  const std::array<BlockId, 2> wanted = {at.adopted[0][2], at.adopted[1][9]};
  try {
    at.store.pin(wanted, at.pool);
    FAIL() << "nothing was thrown";
  } catch (const LostExtent& lost) {
    EXPECT_EQ(lost.extent(), at.store.extent_of(at.adopted[1][0]));
    EXPECT_EQ(lost.first_pos(), kExtentPositions);
  }
  EXPECT_EQ(at.store.first_damaged_pack(), at.found.pieces[0].pack);
  EXPECT_EQ(at.store.counts().corrupt_blocks, 2u);
  at.store.pin(std::span(wanted).first(1), at.pool);
  EXPECT_TRUE(at.is_saved_block(0, 2));
  at.store.unpin(std::span(wanted).first(1));
}

uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t n_pages = 0, n_resident = 0;
  file >> n_pages >> n_resident;
  return n_resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// Where a ring can register them, this would fail if it did: that clears all of them.
TEST(SingleBlockPacks, FramesOfExtentsAreNotTouchedBeforeTheyAreUsed) {
  constexpr uint64_t kFrameBytes = uint64_t{1} << 20, kAll = 64 * kFrameBytes;
  const FreshPath folder;
  std::vector<std::string> notices;
  const uint64_t before = resident_bytes();
  const auto spill = open_spill({.directory = folder.path(),
                                 .budget_bytes = 4 * kFrameBytes,
                                 .place_bytes = kFrameBytes,
                                 .n_frames = kAll / kFrameBytes,
                                 .block_bytes = 8192,
                                 .n_block_frames = kFrames},
                                notices);
  EXPECT_LT(resident_bytes(), before + kAll / 2);
}

}  // namespace
}  // namespace strata::tiers

// A store used in every way at once, whole extents and single blocks, against a map that knows
// every block's bytes. The disk is simulated, or a real file beside a real pack.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "tests/tiers/block_fixture.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

using testing::BlockFixture;

using Bytes = std::vector<std::byte>;
using BytesRef = std::shared_ptr<const Bytes>;

/// An extent of a pack, and what its blocks hold.
struct Adoptable {
  SavedExtent saved;
  std::vector<BytesRef> blocks;
};

class BlockModel {
 public:
  BlockModel(uint64_t seed, BlockStore& store, uint32_t n_layers, uint32_t n_kv_heads,
             std::vector<Adoptable> adoptable)
      : random_(seed),
        store_(store),
        n_layers_(n_layers),
        n_extent_blocks_(n_kv_heads * kExtentBlocks),
        adoptable_(std::move(adoptable)) {}

  void run(uint32_t n_steps) {
    for (uint32_t step = 0; step < n_steps && !::testing::Test::HasFailure(); ++step) {
      act();
      check();
    }
  }

  /// Gives everything back.
  void end() {
    while (!pinned_.empty()) unpin(0);
    while (!held_.empty()) release_hold(0);
    while (!blocks_.empty()) drop(blocks_.begin()->first);
    store_.drop_begun();
    EXPECT_EQ(store_.pool().n_free(), store_.pool().n_slots());
    EXPECT_FALSE(store_.has_away());
    const StoreCounts& counts = store_.counts();
    EXPECT_EQ(counts.corrupt_blocks + counts.lost_extents + counts.retries, 0u);
    EXPECT_GT(counts.blocks_read, 0u);
    EXPECT_GT(counts.extents_read, 0u);
    EXPECT_GT(counts.blocks_evicted, 0u);
    EXPECT_GT(counts.extents_evicted, 0u);
    EXPECT_GT(counts.extents_settled, 0u);
  }

 private:
  void act() {
    switch (random_() % 12) {
      case 0:
        return add_extent();
      case 1:
        return drop_some();
      case 2:
        if (!blocks_.empty()) store_.add_reference(any_block());
        return;
      case 3:
        (void)store_.make_room(random_() % store_.pool().n_slots());
        return;
      case 4:
      case 5:
        return pin_some();
      case 6:
        if (!pinned_.empty()) unpin(random_() % pinned_.size());
        return;
      case 7:
        if (random_() % 4 == 0) return store_.drop_begun();
        return store_.begin_blocks(some_blocks());
      case 8:
        return read_extent();
      case 9:
        if (!held_.empty()) release_hold(random_() % held_.size());
        return;
      case 10:
        return random_() % 2 == 0 ? begin_step() : adopt();
      default:
        return replace();
    }
  }

  BlockId any_block() {
    return std::next(blocks_.begin(), static_cast<int64_t>(random_() % blocks_.size()))->first;
  }
  /// Some may come twice.
  std::vector<BlockId> some_blocks() {
    std::vector<BlockId> some;
    if (!blocks_.empty())
      for (uint64_t n = random_() % 12; n > 0; --n) some.push_back(any_block());
    return some;
  }
  bool is_pinned(BlockId block) const { return addresses_.contains(block); }

  void begin_step() {
    grain_ = random_() % 3 == 0 ? ReadGrain::kExtents : ReadGrain::kBlocks;
    while (grain_ == ReadGrain::kExtents && !pinned_.empty()) unpin(0);
    store_.begin_step(grain_);
    store_.set_headroom(random_() % 32);
  }

  void add_extent() {
    if (!store_.make_room(n_extent_blocks_)) return drop_some();
    std::vector<BlockId> blocks;
    for (uint32_t i = 0; i < n_extent_blocks_; ++i) {
      blocks.push_back(*store_.open_block(blocks.empty() ? kNoBlock : blocks.back()));
      auto bytes = std::make_shared<Bytes>(store_.pool().block_bytes());
      testing::fill_block(bytes->data(), store_.pool().block_bytes(), ++serial_);
      std::memcpy(store_.open_bytes(blocks.back()), bytes->data(), bytes->size());
      ASSERT_TRUE(blocks_.emplace(blocks.back(), std::move(bytes)).second);
    }
    // Some of an extent's blocks may belong to another one, and some are open for long.
    for (BlockId& block : blocks)
      if (serial_ % 3 == 0 && random_() % 4 == 0) block = kNoBlock;
    if (std::ranges::all_of(blocks, [](BlockId block) { return block == kNoBlock; })) return;
    std::array<Hash128, kExtentBlocks> chain;
    for (uint32_t i = 0; i < kExtentBlocks; ++i) chain[i] = {serial_, i};
    ASSERT_TRUE(store_.freeze(static_cast<uint32_t>(random_() % n_layers_), 0, chain, blocks));
  }

  void adopt() {
    if (adoptable_.empty() || blocks_.size() > 3 * store_.pool().n_slots()) return;
    const Adoptable& from = adoptable_[random_() % adoptable_.size()];
    std::vector<BlockId> blocks(from.blocks.size());
    store_.adopt(from.saved, blocks);
    for (size_t i = 0; i < blocks.size(); ++i)
      ASSERT_TRUE(blocks_.emplace(blocks[i], from.blocks[i]).second);
  }

  void drop(BlockId block) {
    while (store_.references(block) > 1) store_.release(block);
    store_.release(block);
    blocks_.erase(block);
  }
  void drop_some() {
    for (const BlockId block : some_blocks()) {
      if (!blocks_.contains(block) || is_pinned(block)) continue;
      if (store_.references(block) > 1) {
        store_.release(block);
      } else {
        drop(block);
      }
    }
  }

  void pin_some() {
    if (grain_ == ReadGrain::kExtents) return begin_step();
    std::vector<BlockId> wanted = some_blocks();
    try {
      store_.pin(wanted, pool_);
    } catch (const Error& refusal) {
      ASSERT_EQ(refusal.code(), ErrorCode::kDoesNotFit) << refusal.what();
      for (const BlockId block : blocks_not_in_dram()) ASSERT_FALSE(is_pinned(block));
      if (pinned_.empty()) return drop_some();
      return unpin(0);
    }
    for (const BlockId block : wanted) {
      ASSERT_TRUE(store_.is_resident(block));
      addresses_.emplace(block, store_.bytes(block));
    }
    pinned_.push_back(std::move(wanted));
  }
  void unpin(size_t i) {
    store_.unpin(pinned_[i]);
    pinned_.erase(pinned_.begin() + static_cast<int64_t>(i));
    std::set<BlockId> still;
    for (const auto& blocks : pinned_) still.insert(blocks.begin(), blocks.end());
    std::erase_if(addresses_, [&](const auto& pinned) { return !still.contains(pinned.first); });
  }

  void read_extent() {
    const auto away = blocks_not_in_dram();
    if (away.empty()) return;
    const ExtentId extent = store_.extent_of(away[random_() % away.size()]);
    if (!store_.fetch(extent)) {
      if (!held_.empty()) release_hold(0);
      return;
    }
    held_.push_back(extent);
    if (random_() % 4 == 0) return;  // on its way when it is released
    store_.take({&extent, 1}, pool_);
    for (const BlockId block : away)
      ASSERT_TRUE(store_.extent_of(block) != extent || store_.is_readable(block));
  }
  void release_hold(size_t i) {
    store_.release(held_[i]);
    held_.erase(held_.begin() + static_cast<int64_t>(i));
  }

  void replace() {
    if (blocks_.empty()) return;
    const BlockId lost = any_block();
    const BlockId fresh = any_block();
    if (lost == fresh || is_pinned(lost) || is_pinned(fresh)) return;
    store_.replace(lost, fresh, true);
    std::swap(blocks_[lost], blocks_[fresh]);
  }

  std::vector<BlockId> blocks_not_in_dram() const {
    std::vector<BlockId> away;
    for (const auto& [block, bytes] : blocks_)
      if (!store_.is_resident(block)) away.push_back(block);
    return away;
  }

  void check() {
    bool has_away = false;
    std::set<SlotId> slots;
    for (const auto& [block, bytes] : blocks_) {
      if (store_.is_resident(block)) {
        ASSERT_TRUE(slots.insert(store_.slot_of(block)).second) << "one slot, two blocks";
      } else {
        has_away = true;
      }
      if (store_.is_readable(block)) {
        ASSERT_EQ(std::memcmp(store_.bytes(block), bytes->data(), bytes->size()), 0);
      }
    }
    ASSERT_EQ(store_.has_away(), has_away);
    ASSERT_EQ(slots.size(), store_.pool().n_slots() - store_.pool().n_free());
    for (const auto& [block, address] : addresses_) {
      ASSERT_TRUE(store_.is_resident(block)) << "a pinned block left DRAM";
      ASSERT_EQ(store_.bytes(block), address);
    }
  }

  std::mt19937_64 random_;
  BlockStore& store_;
  const uint32_t n_layers_;
  const uint32_t n_extent_blocks_;
  const std::vector<Adoptable> adoptable_;
  ThreadPool pool_{2};
  ReadGrain grain_ = ReadGrain::kExtents;
  std::map<BlockId, BytesRef> blocks_;
  std::vector<std::vector<BlockId>> pinned_;
  std::map<BlockId, const std::byte*> addresses_;  // of what is pinned
  std::vector<ExtentId> held_;
  uint64_t serial_ = 0;
};

TEST(SingleBlocksModel, EveryUseEqualsAMapOnASimulatedDisk) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (uint32_t round = 0; round < 6 && !HasFailure(); ++round) {
    testing::StoreSetting setting{.disk = {.seed = random(),
                                           .depth = 1 + static_cast<uint32_t>(random() % 8),
                                           .latency_spread = std::chrono::milliseconds(1)},
                                  .n_layers = 3,
                                  .n_kv_heads = 1 + static_cast<uint32_t>(random() % 3),
                                  .n_slots = 100,
                                  .n_places = 20,
                                  .n_frames = 4,
                                  .n_block_frames = 1 + static_cast<uint32_t>(random() % 6)};
    setting.block_disk = setting.disk;
    BlockFixture at(setting);
    BlockModel model(random(), at.store, setting.n_layers, setting.n_kv_heads, {});
    model.run(2000);
    if (HasFailure()) return;
    model.end();
    at.settle();
    while (at.spill.block_transfers->wait_any()) continue;
    EXPECT_EQ(at.spill.places->n_taken(), 0u);
    EXPECT_TRUE(at.all_frames_are_free());
  }
}

/// What a pack holds of its first layer.
std::vector<Adoptable> adoptable_of(BlockStore& store,
                                    const std::shared_ptr<const PackReader>& pack) {
  std::vector<Adoptable> all;
  const PackHead& head = pack->head();
  const IoFile file = store.add_pack(*pack);
  for (uint32_t extent = 0; extent < head.n_extents(); ++extent) {
    Adoptable of{.saved = {.pack = pack,
                           .file = file,
                           .pack_extent = extent,
                           .layer = 0,
                           .first_pos = extent * kExtentPositions},
                 .blocks = {}};
    for (uint32_t kv_head = 0; kv_head < head.run.shape.layers[0].n_kv_heads; ++kv_head)
      for (uint32_t i = 0; i < kExtentBlocks; ++i)
        of.blocks.push_back(std::make_shared<Bytes>(
            block_bytes(head, pack->geometry(), 0, kv_head, extent * kExtentBlocks + i)));
    all.push_back(std::move(of));
  }
  return all;
}

TEST(SingleBlocksModel, EveryUseEqualsAMapOnAFileAndAPack) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const IoChoice io : {IoChoice::kThreads, IoChoice::kAuto}) {
    const FreshPath folder;
    const FreshPath saved;
    PackShape shape = small_shape();
    shape.layers = {{2, 0}, {1, 0}};
    PackDirectory packs = PackDirectory::open(saved.path(), {});
    const auto text = random_text(seed, 4 * kExtentPositions);
    save_text(packs, shape, text);
    const FoundContext found = packs.find(shape, Hash128{}, text);
    ASSERT_EQ(found.n_positions, text.size());
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape.head_dim);
    std::vector<std::string> notices;
    auto spill = open_spill({.directory = folder.path(),
                             .budget_bytes = uint64_t{20} * 2 * kExtentBlocks * layout.block_bytes,
                             .place_bytes = uint64_t{2} * kExtentBlocks * layout.block_bytes,
                             .n_frames = 4,
                             .block_bytes = layout.block_bytes,
                             .n_block_frames = 5,
                             .io = io},
                            notices);
    BlockStore store(layout, 2, uint64_t{100} * layout.block_bytes, Hash128{1, 2},
                     std::move(spill));
    BlockModel model(random(), store, 2, 2, adoptable_of(store, found.pieces[0].pack));
    model.run(1500);
    if (HasFailure()) return;
    model.end();
    while (store.wait_for_transfer()) continue;
    EXPECT_EQ(store.places()->used_bytes(), 0u);
    EXPECT_EQ(store.transfers()->n_free(), 4u);
  }
}

}  // namespace
}  // namespace strata::tiers

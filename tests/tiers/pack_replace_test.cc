// Saved packs whose bytes the disk does not give, or gives wrongly, and what takes their place.
#include <gtest/gtest.h>

#include "tests/tiers/pack_fixture.h"
#include "tests/tiers/sick_disk.h"

namespace strata::tiers {
namespace {

/// A directory with a pack of a text of 300 positions, on a disk of its own.
class PackReplace : public ::testing::Test {
 protected:
  PackDirectory open(uint64_t budget_bytes = UINT64_MAX) {
    return PackDirectory::open(path(), {.budget_bytes = budget_bytes}, disk_);
  }
  const std::string& path() const { return directory_.path(); }
  std::string file() const { return path() + "/" + name_; }
  void lose() { disk_.lose(file()); }
  void flip_byte(size_t at = 0) {
    auto bytes = bytes_;
    bytes[at] ^= std::byte{1};
    write_file(file(), bytes);
  }
  void SetUp() override {
    PackDirectory packs = open();
    name_ = save_text(packs, small_shape(), text_)[0];
    bytes_ = bytes_of_file(file());
  }

  const std::vector<int32_t> text_ = random_text(1, 300);
  const FreshPath directory_;
  SickDisk disk_;
  std::string name_;
  std::vector<std::byte> bytes_;
};

TEST_F(PackReplace, WhatTheDiskDoesNotGiveStays) {
  PackDirectory packs = open();
  lose();
  EXPECT_EQ(packs.discard(name_), Discarded::kUnread);
  EXPECT_EQ(bytes_of_file(file()), bytes_);
  disk_.is_sick = false;
  EXPECT_EQ(packs.discard(name_), Discarded::kNothing);
  EXPECT_EQ(packs.find(small_shape(), {}, text_).n_positions, 300u);
  EXPECT_EQ(problems_of(packs), "");
}

TEST_F(PackReplace, WhatIsSavedAnewGoesUnlessASessionPinsIt) {
  PackDirectory packs = open();
  EXPECT_EQ(packs.discard_replaced(name_), Discarded::kNothing);
  packs.pin("book", {small_shape().model, "small", text_, {name_}});
  lose();
  EXPECT_EQ(packs.discard_replaced(name_), Discarded::kUnread);
  EXPECT_EQ(bytes_of_file(file()), bytes_);
  ASSERT_TRUE(packs.unpin("book"));
  EXPECT_EQ(packs.discard_replaced(name_), Discarded::kPack);
  EXPECT_TRUE(names_in(path()).empty());
}

/// Also where the budget has no room for both, which others need not make.
TEST_F(PackReplace, PublishingTakesThePlaceOfWhatIsNotWhole) {
  PackDirectory packs = open();
  const std::string other = save_text(packs, small_shape(), random_text(2, 300))[0];
  PackDirectory tight = open(packs.used_bytes());
  for (const bool is_lost : {true, false}) {
    SCOPED_TRACE(is_lost ? "lost" : "wrong");
    if (is_lost) lose();
    if (!is_lost) flip_byte();
    EXPECT_EQ(save_text(tight, small_shape(), text_)[0], name_);
    EXPECT_EQ(bytes_of_file(file()), bytes_);
    EXPECT_EQ(problems_of(tight), "");  // while the disk still gives nothing of the lost file
    EXPECT_EQ(tight.discard(name_), Discarded::kNothing);
    EXPECT_EQ(names_in(path()).size(), 2u);
    disk_.is_sick = false;  // whose next file may have that number
  }
  EXPECT_EQ(tight.discard(other), Discarded::kNothing);
}

TEST_F(PackReplace, ADiskThatTakesNothingKeepsWhatItDoesNotGive) {
  PackDirectory packs = open();
  lose();
  disk_.takes_nothing = true;
  EXPECT_THROW(save_text(packs, small_shape(), text_), Error);
  EXPECT_EQ(bytes_of_file(file()), bytes_);
  disk_.is_sick = disk_.takes_nothing = false;
  PackDirectory again = open();
  EXPECT_EQ(problems_of(again), "");
  EXPECT_EQ(again.find(small_shape(), {}, text_).n_positions, 300u);
}

/// Blocks are read for as long as a slow disk takes: others want the lock meanwhile.
TEST_F(PackReplace, NoBlockIsReadUnderTheLock) {
  PackDirectory packs = open();
  const auto text = random_text(3, 4000);
  const std::string name = save_text(packs, small_shape(), text)[0];
  disk_.n_blocks_read = 0;
  disk_.end_of_blocks =
      PackGeometry(PackHead::of(run_of(small_shape(), text, 0, 4000))).tags_offset;
  EXPECT_EQ(save_text(packs, small_shape(), text)[0], name);  // is there
  EXPECT_EQ(packs.discard(name), Discarded::kNothing);
  disk_.lose(path() + "/" + name);
  disk_.lost_end = 4096;  // the first region
  EXPECT_EQ(packs.discard(name), Discarded::kUnread);
  EXPECT_EQ(packs.verify_pack(name)->problem, "16 blocks cannot be read now");
  EXPECT_GT(disk_.n_blocks_read, 0u);
  EXPECT_EQ(disk_.n_blocks_read_locked, 0u);
}

/// What has the name by then is another file, which nobody has looked at: also where no head could
/// be read of the first, so that no reader holds it.
TEST_F(PackReplace, WhatTookThePlaceMeanwhileIsNotDiscarded) {
  for (const size_t wrong_byte : {size_t{0}, bytes_.size() - 1}) {
    PackDirectory packs = open();
    flip_byte(wrong_byte);
    disk_.before_lock = [&] {
      std::filesystem::remove(file());
      write_file(file(), bytes_);
    };
    EXPECT_EQ(packs.discard(name_), Discarded::kNothing);
    EXPECT_EQ(bytes_of_file(file()), bytes_);
  }
}

TEST_F(PackReplace, NothingIsDiscardedWhileAnotherHoldsTheLock) {
  PackDirectory packs = PackDirectory::open(path(), {.lock_wait = std::chrono::milliseconds(3)});
  flip_byte();
  const DirectoryLock lock =
      DurableDirectory::open(path(), system_calls())->lock(std::chrono::milliseconds(0));
  EXPECT_EQ(packs.discard(name_), Discarded::kUnread);
  EXPECT_FALSE(bytes_of_file(file()).empty());
}

/// Whoever opens the directory removes hidden files that nobody holds.
TEST_F(PackReplace, AnotherThatOpensTheDirectoryRemovesNothingOfIt) {
  PackDirectory packs = open();
  flip_byte();
  disk_.before_rename = [&] { PackDirectory::open(path(), {}); };
  EXPECT_EQ(save_text(packs, small_shape(), text_)[0], name_);
  EXPECT_EQ(bytes_of_file(file()), bytes_);
}

}  // namespace
}  // namespace strata::tiers

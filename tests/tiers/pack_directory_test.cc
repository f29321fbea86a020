#include "tiers/pack_directory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <random>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

class Directory : public ::testing::Test {
 protected:
  PackDirectory open(const PackLimits& limits = {}) {
    return PackDirectory::open(fresh_.path(), limits, calls_);
  }
  const std::string& path() const { return fresh_.path(); }

  FreshPath fresh_;
  WatchedCalls calls_;
};

using PackDirectoryTest = Directory;

TEST_F(PackDirectoryTest, WhatWasSavedIsFoundAgainBitForBit) {
  for (const uint32_t n : {1u, 31u, 32u, 255u, 256u, 300u, 1000u, 5000u}) {
    const auto text = random_text(n, n);
    for (const uint32_t pack_positions : {256u, 4096u}) {
      PackDirectory packs = open();
      const auto names = save_text(packs, small_shape(), text, pack_positions);
      EXPECT_EQ(names.size(), (n + pack_positions - 1) / pack_positions);
      PackDirectory other = open();
      EXPECT_EQ(other.n_packs(), packs.n_packs());
      const FoundContext found = other.find(small_shape(), {}, text);
      EXPECT_EQ(found.n_positions, n);
      expect_whole(found);
      EXPECT_EQ(problems_of(other), "");
      remove_packs(other);
      EXPECT_TRUE(names_in(path()).empty());
    }
  }
}

TEST_F(PackDirectoryTest, CodecsAndShapesDoNotMix) {
  PackDirectory packs = open();
  const auto text = random_text(1, 300);
  PackShape shape = small_shape();
  shape.head_dim = 64;
  shape.k_codec = KvCodec::kQ8_0;
  save_text(packs, shape, text);
  const FoundContext found = packs.find(shape, {}, text);
  EXPECT_EQ(found.n_positions, 300u);
  expect_whole(found);
  const auto n_found = [&](const std::function<void(PackShape&)>& change) {
    PackShape other = shape;
    change(other);
    return packs.find(other, {}, text).n_positions;
  };
  EXPECT_EQ(n_found([](PackShape&) {}), 300u);
  EXPECT_EQ(n_found([](PackShape& other) { other.model.low ^= 1; }), 0u);
  EXPECT_EQ(n_found([](PackShape& other) { other.k_codec = KvCodec::kF16; }), 0u);
  EXPECT_EQ(n_found([](PackShape& other) { other.head_dim = 32; }), 0u);
  EXPECT_EQ(n_found([](PackShape& other) { other.layers[1].window = 41; }), 0u);
  EXPECT_EQ(packs.find(shape, {7, 7}, text).n_positions, 0u) << "another root";
}

TEST_F(PackDirectoryTest, ATextThatDiffersIsUsedUpToTheBlockBefore) {
  PackDirectory packs = open();
  const auto text = random_text(1, 1000);
  save_text(packs, small_shape(), text, 512);
  for (const uint32_t at : {0u, 31u, 32u, 511u, 512u, 700u, 991u, 992u, 999u}) {
    auto other = text;
    other[at] ^= 1;
    const FoundContext found = packs.find(small_shape(), {}, other);
    EXPECT_EQ(found.n_positions, at / 32 * 32) << at;
    expect_whole(found);
  }
  auto longer = text;
  longer.push_back(5);
  EXPECT_EQ(packs.find(small_shape(), {}, longer).n_positions, 1000u);
  for (const uint32_t n : {0u, 1u, 512u, 600u, 999u})
    EXPECT_EQ(packs.find(small_shape(), {}, std::span(text).first(n)).n_positions, n / 32 * 32);
}

TEST_F(PackDirectoryTest, ARunThatStartsElsewhereInItsTextIsNotFound) {
  PackDirectory packs = open();
  const auto text = random_text(1, 600);
  PackRun run = run_of(small_shape(), text, 0, 300);
  run.first_pos = 256;  // the same chain hashes, and rows with the RoPE of other positions
  save_run(packs, std::move(run));
  EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 0u);
  save_run(packs, run_of(small_shape(), text, 0, 256));
  EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 256u);
}

TEST_F(PackDirectoryTest, PiecesOfOverlappingPacksFollowEachOther) {
  PackDirectory packs = open();
  const auto text = random_text(1, 1500);
  save_run(packs, run_of(small_shape(), text, 0, 300));
  save_run(packs, run_of(small_shape(), text, 256, 1000));
  save_run(packs, run_of(small_shape(), text, 512, 900));
  save_run(packs, run_of(small_shape(), text, 768, 1500));
  const FoundContext found = packs.find(small_shape(), {}, text);
  EXPECT_EQ(found.n_positions, 1500u);
  uint32_t pos = 0;
  for (const FoundPiece& piece : found.pieces) {
    EXPECT_EQ(piece.pack->head().run.first_pos + piece.first_block * kBlockPositions, pos);
    EXPECT_EQ((piece.n_positions + 31) / 32, piece.n_blocks);
    pos += piece.n_positions;
  }
  EXPECT_EQ(pos, 1500u);
  expect_whole(found);
}

TEST_F(PackDirectoryTest, AWindowNeedsOnlyTheBlocksBeforeItsEnd) {
  PackDirectory packs = open();
  const auto text = random_text(1, 600);
  // The window of 40 reaches from position 600 back to 561, in block 17 of 18; the last is short.
  save_run(packs, run_of(small_shape(), text, 0, 600),
           [](uint32_t, uint32_t block) { return block >= 17; });
  const FoundContext found = packs.find(small_shape(), {}, text);
  EXPECT_EQ(found.n_positions, 600u);
  expect_whole(found);
  // 590 tokens end in block 18, where only whole blocks count: 576 needs positions 537 and later.
  EXPECT_EQ(packs.find(small_shape(), {}, std::span(text).first(590)).n_positions, 0u);
  // A shorter context that has its window is better than a longer one that lacks it.
  save_run(packs, run_of(small_shape(), text, 0, 320));
  const FoundContext shorter = packs.find(small_shape(), {}, std::span(text).first(590));
  EXPECT_EQ(shorter.n_positions, 320u);
  expect_whole(shorter);
  EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 600u);
}

TEST_F(PackDirectoryTest, SavingTheSameAgainWritesNothing) {
  PackDirectory packs = open();
  const auto text = random_text(1, 300);
  const auto names = save_text(packs, small_shape(), text);
  const auto inode = [&] {
    struct stat status = {};
    stat((path() + "/" + names[0]).c_str(), &status);
    return status.st_ino;
  };
  const auto before = inode();
  EXPECT_EQ(save_text(packs, small_shape(), text), names);
  EXPECT_EQ(inode(), before);
  EXPECT_EQ(packs.n_packs(), 1u);
}

// A head of 256 positions in the index: 1,024 bytes, 5 a position, 80 a block, one for each layer.
constexpr uint64_t kHeadBytes = 1024 + 256 * 5 + 8 * 80 + 8 * 3;

TEST_F(PackDirectoryTest, WhatWasUsedLastIsFoundWhereTheIndexHoldsNotAll) {
  PackDirectory all = open();
  std::vector<std::vector<int32_t>> texts;
  for (uint64_t i = 0; i < 6; ++i) {
    texts.push_back(random_text(60 + i, 256));
    save_run(all, run_of(small_shape(), texts.back(), 0, 256));
  }
  EXPECT_EQ(all.n_passed_over(), 0u);
  EXPECT_EQ(all.find(small_shape(), {}, texts[0]).n_positions, 256u);  // used last from now on
  PackDirectory some = PackDirectory::open(fresh_.path(), {.index_bytes = 3 * kHeadBytes}, calls_);
  const auto found = [&] {
    std::string text;
    for (const auto& of : texts)
      text += some.find(small_shape(), {}, of).n_positions == 256 ? '1' : '0';
    return text;
  };
  EXPECT_EQ(found(), "100011");
  EXPECT_EQ(some.n_packs(), 3u);
  EXPECT_EQ(some.n_passed_over(), 3u);
  // A new one, its own or another process's, takes the place of the one used least recently.
  texts.push_back(random_text(70, 256));
  save_run(some, run_of(small_shape(), texts.back(), 0, 256));
  EXPECT_EQ(found(), "0000111");
  texts.push_back(random_text(71, 256));
  save_run(all, run_of(small_shape(), texts.back(), 0, 256));
  EXPECT_EQ(found(), "00000111");
  EXPECT_EQ(some.n_passed_over(), 5u);
  // It is in the directory all the same: it counts, and it can go.
  EXPECT_EQ(some.used_bytes(), all.used_bytes());
  EXPECT_EQ(open().n_packs(), 8u);
}

TEST_F(PackDirectoryTest, APackThatWasPassedOverIsFoundOnceItIsUsedAgain) {
  PackDirectory all = open();
  std::vector<std::vector<int32_t>> texts;
  std::vector<std::string> names;
  for (uint64_t i = 0; i < 4; ++i) {
    texts.push_back(random_text(80 + i, 256));
    names.push_back(save_run(all, run_of(small_shape(), texts.back(), 0, 256)));
  }
  PackDirectory some = PackDirectory::open(fresh_.path(), {.index_bytes = 2 * kHeadBytes}, calls_);
  const auto found = [&] {
    std::string text;
    for (const auto& of : texts)
      text += some.find(small_shape(), {}, of).n_positions == 256 ? '1' : '0';
    return text;
  };
  EXPECT_EQ(found(), "0011");
  // This process saves it again.
  EXPECT_EQ(save_run(some, run_of(small_shape(), texts[0], 0, 256)), names[0]);
  EXPECT_EQ(found(), "1001");
  EXPECT_EQ(some.n_passed_over(), 2u);
  // Another one uses it.
  EXPECT_EQ(all.find(small_shape(), {}, texts[1]).n_positions, 256u);
  EXPECT_EQ(found(), "0101");
  // There is room again.
  const std::vector<std::string> gone = {names[1], names[3]};
  EXPECT_EQ(all.remove_unpinned(gone), gone);
  EXPECT_EQ(found(), "1010");
  EXPECT_EQ(some.n_passed_over(), 0u);
}

TEST_F(PackDirectoryTest, WhatIsPassedOverIsReadOnce) {
  FailingCalls calls(0, false, 0);
  {
    PackDirectory all = open();
    for (uint64_t i = 0; i < 8; ++i)
      save_run(all, run_of(small_shape(), random_text(80 + i, 256), 0, 256));
  }
  PackDirectory some = PackDirectory::open(fresh_.path(), {.index_bytes = 2 * kHeadBytes}, calls);
  EXPECT_EQ(some.n_passed_over(), 6u);
  const auto nothing = random_text(99, 256);
  const uint64_t n_before = calls.n_calls();
  some.find(small_shape(), {}, nothing);
  // The list of names, and the time of each pack that is passed over.
  EXPECT_EQ(calls.n_calls() - n_before, 1u + 6u);
}

TEST_F(PackDirectoryTest, ADamagedPackIsReplacedByTheSameOne) {
  const auto text = random_text(1, 300);
  std::string name;
  {
    PackDirectory packs = open();
    name = save_text(packs, small_shape(), text)[0];
  }
  const std::string file = path() + "/" + name;
  const auto bytes = bytes_of_file(file);
  const PackGeometry geometry(PackHead::of(run_of(small_shape(), text, 0, 300)));
  for (const uint64_t at : {geometry.tags_offset, geometry.head_offset, bytes.size() - 1}) {
    auto damaged = bytes;
    damaged[at] ^= std::byte{1};
    write_file(file, damaged);
    PackDirectory packs = open();
    EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 0u);
    ASSERT_EQ(packs.refused().size(), 1u);
    EXPECT_EQ(packs.refused()[0].name, name);
    EXPECT_EQ(save_text(packs, small_shape(), text)[0], name);
    EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 300u);
    EXPECT_EQ(bytes_of_file(file), bytes);
  }
}

TEST_F(PackDirectoryTest, OnlyADamagedPackIsDiscarded) {
  PackDirectory packs = open();
  const auto text = random_text(1, 300);
  const std::string name = save_text(packs, small_shape(), text)[0];
  EXPECT_EQ(packs.discard(name), Discarded::kNothing);
  EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 300u);
  auto bytes = bytes_of_file(path() + "/" + name);
  bytes[0] ^= std::byte{1};
  write_file(path() + "/" + name, bytes);
  EXPECT_EQ(packs.discard(name), Discarded::kPack);
  EXPECT_TRUE(names_in(path()).empty());
}

TEST_F(PackDirectoryTest, EveryFlippedByteOfABlockIsFound) {
  PackDirectory packs = open();
  const auto text = random_text(1, 40);
  const std::string name = save_text(packs, small_shape(), text)[0];
  const auto bytes = bytes_of_file(path() + "/" + name);
  const PackHead head = PackHead::of(run_of(small_shape(), text, 0, 40));
  const PackGeometry geometry(head);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const uint64_t first = geometry.region_offset(0, layer);
    const uint64_t n = region_payload_bytes(head, geometry, 0, layer);
    for (uint64_t at = first; at < first + n; at += 13) {
      auto damaged = bytes;
      damaged[at] ^= static_cast<std::byte>(1u << at % 8);
      write_file(path() + "/" + name, damaged);
      const FoundContext found = packs.find(small_shape(), {}, text);
      ASSERT_EQ(found.n_positions, 40u);
      std::vector<std::byte> region(n);
      EXPECT_EQ(code_of([&] { found.pieces[0].pack->read_region(0, layer, region); }), "bad_file");
      EXPECT_EQ(found.pieces[0].pack->count_bad_blocks().n_wrong, 1u);
    }
  }
  EXPECT_NE(problems_of(packs), "");
  EXPECT_EQ(packs.discard(name), Discarded::kPack);
  EXPECT_EQ(packs.discard(name), Discarded::kNothing);  // it is gone
  EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 0u);
}

TEST_F(PackDirectoryTest, BlocksOfAnotherTextDoNotPass) {
  PackDirectory packs = open();
  const auto text = random_text(1, 64);
  auto other_text = text;
  other_text[63] ^= 1;
  const std::string name = save_text(packs, small_shape(), text)[0];
  const std::string other = save_text(packs, small_shape(), other_text)[0];
  auto bytes = bytes_of_file(path() + "/" + name);
  const auto other_bytes = bytes_of_file(path() + "/" + other);
  const PackGeometry geometry(PackHead::of(run_of(small_shape(), text, 0, 64)));
  std::copy_n(other_bytes.begin(), geometry.tags_offset, bytes.begin());
  write_file(path() + "/" + name, bytes);
  const FoundContext found = packs.find(small_shape(), {}, text);
  // The first block is that of both texts, the second one is not: in three streams.
  EXPECT_EQ(found.pieces.at(0).pack->count_bad_blocks().n_wrong, 3u);
}

TEST_F(PackDirectoryTest, ForeignAndBadFilesAreToleratedAndNamed) {
  const auto text = random_text(1, 100);
  std::string name;
  {
    PackDirectory packs = open();
    name = save_text(packs, small_shape(), text)[0];
  }
  const std::string zeros = std::string(32, '0') + "-" + std::string(32, '0') + ".pack";
  const std::string ones = std::string(32, '1') + "-" + std::string(32, '1') + ".pack";
  const std::string twos = std::string(32, '2') + "-" + std::string(32, '2') + ".pack";
  const std::string threes = std::string(32, '3') + "-" + std::string(32, '3') + ".pack";
  write_file(path() + "/" + zeros, {});
  write_file(path() + "/" + ones, bytes_of_file(path() + "/" + name));  // a whole pack, renamed
  ASSERT_EQ(mkfifo((path() + "/" + twos).c_str(), 0600), 0);
  std::filesystem::create_symlink(name, path() + "/" + threes);
  write_file(path() + "/notes.txt", {});
  write_file(path() + "/bad.session", {});
  std::filesystem::create_directory(path() + "/folder.session");
  PackDirectory packs = open();
  std::vector<std::string> refused;
  for (const RefusedFile& file : packs.refused()) refused.push_back(file.name);
  EXPECT_EQ(refused, (std::vector<std::string>{zeros, ones, twos, threes}));
  EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 100u);
  EXPECT_EQ(packs.list().size(), 2u);
  EXPECT_NE(packs.list()[0].problem, "");
  EXPECT_NE(packs.list()[1].problem, "");
}

TEST_F(PackDirectoryTest, FilesAreForTheirOwnerAloneWhateverTheUmask) {
  for (const mode_t mask : {0000u, 0022u, 0077u, 0177u, 0277u, 0777u}) {
    const mode_t before = umask(mask);
    const FreshPath fresh;
    for (const bool has_unnamed_files : {true, false}) {
      WatchedCalls calls;
      calls.has_unnamed_files = has_unnamed_files;
      PackDirectory packs = PackDirectory::open(fresh.path(), {}, calls);
      const auto text = random_text(has_unnamed_files, 40);
      const auto names = save_text(packs, small_shape(), text);
      packs.pin("s", {small_shape().model, "m", text, names});
    }
    umask(before);
    EXPECT_EQ(std::filesystem::status(fresh.path()).permissions(), std::filesystem::perms{0700});
    size_t n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(fresh.path())) {
      EXPECT_EQ(entry.status().permissions(), std::filesystem::perms{0600}) << entry.path();
      ++n;
    }
    EXPECT_EQ(n, 4u);
  }
}

TEST_F(PackDirectoryTest, ADirectoryThatOthersReachIsRefused) {
  open();
  chmod(path().c_str(), 0755);
  EXPECT_EQ(code_of([&] { open(); }), "usage");
  chmod(path().c_str(), 0700);
  EXPECT_EQ(code_of([&] { open(); }), "none");
}

TEST_F(PackDirectoryTest, LeftoversOfOthersAreKeptWhileTheirWriterLives) {
  calls_.has_unnamed_files = false;
  PackDirectory packs = open();
  const auto text = random_text(1, 100);
  PackWriter writer = packs.start(run_of(small_shape(), text, 0, 100));
  write_blocks(writer);
  write_file(path() + "/.part-of-a-dead-process", bytes_of_file("/proc/self/exe"));
  EXPECT_EQ(names_in(path()).size(), 2u);
  PackDirectory other = open();
  EXPECT_EQ(names_in(path()).size(), 1u);
  packs.publish(std::move(writer));
  EXPECT_EQ(other.find(small_shape(), {}, text).n_positions, 100u);
}

TEST_F(PackDirectoryTest, AnAbandonedWriterLeavesNothing) {
  for (const bool has_unnamed_files : {true, false}) {
    calls_.has_unnamed_files = has_unnamed_files;
    PackDirectory packs = open();
    { PackWriter writer = packs.start(run_of(small_shape(), random_text(1, 100), 0, 100)); }
    EXPECT_TRUE(names_in(path()).empty());
  }
}

TEST_F(PackDirectoryTest, TheLoserOfALockIsToldWhatToDo) {
  const auto directory = DurableDirectory::open(path(), calls_);
  PackDirectory packs = open({.lock_wait = std::chrono::milliseconds(3)});
  const auto names = save_text(packs, small_shape(), random_text(1, 40));
  const DirectoryLock lock = directory->lock(std::chrono::milliseconds(0));
  try {
    packs.remove_unpinned(names);
    FAIL() << "took a lock that is held";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(error.remedy(), "");
  }
  EXPECT_EQ(packs.n_packs(), 1u);
}

TEST_F(PackDirectoryTest, AnEvictedPackStaysReadableForWhoOpenedIt) {
  PackDirectory packs = open();
  const auto text = random_text(1, 300);
  save_text(packs, small_shape(), text);
  PackDirectory other = open();
  const FoundContext found = other.find(small_shape(), {}, text);
  remove_packs(packs);
  EXPECT_TRUE(names_in(path()).empty());
  EXPECT_EQ(found.n_positions, 300u);
  expect_whole(found);
  EXPECT_EQ(other.find(small_shape(), {}, text).n_positions, 0u);
}

}  // namespace
}  // namespace strata::tiers

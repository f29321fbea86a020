#include <gtest/gtest.h>

#include <algorithm>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

using Names = std::vector<std::string>;

class PackListing : public ::testing::Test {
 protected:
  PackListing() : packs_(PackDirectory::open(fresh_.path(), {}, calls_)) {}

  /// Saves the text of a seed in packs of 256 positions, under a name where there is one.
  Names save(uint64_t seed, size_t n, const std::string& session = "") {
    const auto text = random_text(seed, n);
    auto names = save_text(packs_, small_shape(), text, 256);
    if (!session.empty()) packs_.pin(session, {small_shape().model, "m", text, names});
    std::ranges::sort(names);
    return names;
  }
  PackEntry entry(const std::string& name) {
    for (PackEntry& entry : packs_.packs())
      if (entry.name == name) return std::move(entry);
    ADD_FAILURE() << "no entry of " << name;
    return {};
  }
  std::string path_of(const std::string& name) const { return fresh_.path() + "/" + name; }
  void flip_byte(const std::string& name, size_t at) {
    auto bytes = bytes_of_file(path_of(name));
    bytes.at(at) ^= std::byte{1};
    write_file(path_of(name), bytes);
  }

  FreshPath fresh_;
  ShutSessions calls_;
  PackDirectory packs_;
};

TEST_F(PackListing, SaysWhatEachPackHoldsAndWhoPinsIt) {
  const Names book = save(1, 300, "book");
  const Names loose = save(2, 40);
  packs_.pin("shelf", {small_shape().model, "m", {}, {book[0], book[1], book[0]}});
  const auto entries = packs_.packs();
  ASSERT_EQ(entries.size(), 3u);
  uint64_t bytes = 0;
  uint32_t n_positions = 0;
  for (const PackEntry& pack : entries) {
    EXPECT_EQ(pack.problem, "");
    EXPECT_GT(pack.used_ns, 0);
    EXPECT_EQ(pack.bytes, std::filesystem::file_size(path_of(pack.name)));
    EXPECT_EQ(pack.sessions, pack.name == loose[0] ? Names{} : (Names{"book", "shelf"}));
    bytes += pack.bytes;
    n_positions += pack.n_positions;
  }
  EXPECT_EQ(n_positions, 340u);
  EXPECT_EQ(bytes + std::filesystem::file_size(path_of("book.session")) +
                std::filesystem::file_size(path_of("shelf.session")),
            packs_.used_bytes());
  EXPECT_GT(packs_.free_bytes(), 0u);
}

TEST_F(PackListing, APackWithoutAWholeHeadIsListedWithItsProblem) {
  const Names names = save(1, 300, "book");
  std::filesystem::resize_file(path_of(names[0]), 100);
  EXPECT_EQ(PackDirectory::open(fresh_.path(), {}, calls_).packs().size(), 2u);
  packs_ = PackDirectory::open(fresh_.path(), {}, calls_);
  EXPECT_NE(entry(names[0]).problem, "");
  EXPECT_EQ(entry(names[0]).n_positions, 0u);
  EXPECT_EQ(entry(names[0]).bytes, 100u);
  EXPECT_EQ(entry(names[0]).sessions, Names{"book"});
  EXPECT_EQ(entry(names[1]).problem, "");
}

TEST_F(PackListing, OnlyUnpinnedPacksAreRemoved) {
  const Names pinned = save(1, 40, "book");
  const Names loose = save(2, 300);
  Names asked = loose;
  asked.push_back(pinned[0]);
  asked.push_back(pack_file_name({1, 2}, {3, 4}));
  EXPECT_EQ(packs_.remove_unpinned(asked), loose);
  EXPECT_EQ(names_in(fresh_.path()), (Names{pinned[0], "book.session"}));
  EXPECT_EQ(packs_.n_packs(), 1u);
}

TEST_F(PackListing, NothingIsRemovedWhereASessionCannotBeRead) {
  save(1, 40, "book");
  const Names loose = save(2, 40);
  calls_.is_shut = true;
  EXPECT_EQ(code_of([&] { packs_.remove_unpinned(loose); }), "io");
  EXPECT_EQ(packs_.packs().size(), 2u);
  EXPECT_NE(packs_.list().at(0).problem, "");
  calls_.is_shut = false;
  EXPECT_EQ(packs_.remove_unpinned(loose), loose);
}

TEST_F(PackListing, RemovingASessionReturnsTheBytesOfItsFiles) {
  const Names book = save(1, 300, "book");
  packs_.pin("start", {small_shape().model, "m", {}, {book[0]}});
  const uint64_t before = packs_.used_bytes();
  const auto removed = packs_.remove("book");
  ASSERT_TRUE(removed.has_value());
  EXPECT_EQ(before - *removed, packs_.used_bytes());
  EXPECT_EQ(names_in(fresh_.path()), (Names{book[0], "start.session"}));
}

TEST_F(PackListing, VerifyingAPackReadsEveryBlockAndNotesNoUse) {
  const Names names = save(1, 300);
  const int64_t used_ns = entry(names[0]).used_ns;
  EXPECT_EQ(packs_.verify_pack(names[0])->problem, "");
  EXPECT_EQ(entry(names[0]).used_ns, used_ns);
  flip_byte(names[1], 0);
  EXPECT_EQ(packs_.verify_pack(names[1])->n_bad_blocks, 1u);
  EXPECT_NE(packs_.verify_pack(names[1])->problem, "");
  EXPECT_FALSE(packs_.verify_pack(pack_file_name({1, 2}, {3, 4})).has_value());
}

}  // namespace
}  // namespace strata::tiers

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

std::string pack_name(uint64_t number) { return pack_file_name({number, 1}, {~number, 2}); }

SessionManifest some_session() {
  return {{3, 4}, "a model", {1, -2, INT32_MAX}, {pack_name(1), pack_name(UINT64_MAX)}};
}

TEST(SessionManifest, IsReadAsItWasWritten) {
  EXPECT_EQ(parse_session(encode_session(some_session()), "test"), some_session());
  const SessionManifest empty;
  EXPECT_EQ(parse_session(encode_session(empty), "test"), empty);
}

TEST(SessionManifest, EveryTruncationAndEveryFlippedBitIsRefused) {
  auto bytes = encode_session(some_session());
  for (size_t n = 0; n < bytes.size(); ++n)
    EXPECT_EQ(code_of([&] { parse_session(std::span(bytes).first(n), "test"); }), "bad_file");
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1u << bit % 8);
    bytes[bit / 8] ^= mask;
    const std::string code = code_of([&] { parse_session(bytes, "test"); });
    EXPECT_TRUE(code == "bad_file" || code == "unsupported") << "bit " << bit << ": " << code;
    bytes[bit / 8] ^= mask;
  }
}

TEST(SessionManifest, SealedCountsThatDoNotFitAreRefused) {
  const auto code = [](size_t field, auto value) {
    auto bytes = encode_session(some_session());
    std::memcpy(bytes.data() + field, &value, sizeof(value));
    const Hash128 hash = hash_bytes(std::span(bytes).first(bytes.size() - 16));
    std::memcpy(bytes.data() + bytes.size() - 16, &hash, 16);
    return code_of([&] { parse_session(bytes, "test"); });
  };
  EXPECT_EQ(code(12, uint32_t{7}), "none");
  for (const uint32_t name_bytes : {6u, 8u, 257u, UINT32_MAX})
    EXPECT_EQ(code(12, name_bytes), "bad_file") << name_bytes;
  EXPECT_EQ(code(32, uint64_t{3}), "none");
  EXPECT_EQ(code(40, uint64_t{2}), "none");
  for (const uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{4}, uint64_t{1} << 59,
                           (uint64_t{1} << 62) + 3, UINT64_MAX}) {
    EXPECT_EQ(code(32, n), "bad_file") << n;
    EXPECT_EQ(code(40, n), "bad_file") << n;
  }
}

TEST(SessionName, NoNameReachesAnotherFile) {
  for (const char* name : {"a", "My-book_2.txt", "A.session", "-", "0"})
    EXPECT_TRUE(is_session_name(name)) << name;
  EXPECT_TRUE(is_session_name(std::string(64, 'x')));
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string(".hidden"),
        std::string("a/b"), std::string("../a"), std::string("/a"), std::string("a\\b"),
        std::string("a b"), std::string("a\0b", 3), std::string("a\n"), std::string("%2e"),
        std::string("\xc3\xa4"), std::string(65, 'x')}) {
    EXPECT_FALSE(is_session_name(name)) << name;
    EXPECT_EQ(code_of([&] { session_file_name(name); }), "usage") << name;
    EXPECT_EQ(session_of_file_name(name + ".session"), "") << name;
  }
  EXPECT_EQ(session_of_file_name("A.session.session"), "A.session");
}

class Sessions : public ::testing::Test {
 protected:
  Sessions() : packs_(PackDirectory::open(fresh_.path(), {}, calls_)) {}

  /// Saves the first n tokens of a text under a name.
  std::vector<std::string> save(const std::string& name, uint64_t seed, size_t n) {
    const auto text = random_text(seed, n);
    const auto names = save_text(packs_, small_shape(), text, 256);
    packs_.pin(name, {small_shape().model, "m" + std::to_string(seed), text, names});
    return names;
  }

  FreshPath fresh_;
  WatchedCalls calls_;
  PackDirectory packs_;
};

TEST_F(Sessions, AreListedWithWhatTheyKeep) {
  save("book", 1, 300);
  save("code", 2, 600);
  const auto list = packs_.list();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, "book");
  EXPECT_EQ(list[1].name, "code");
  EXPECT_EQ(list[1].model_name, "m2");
  EXPECT_EQ(list[1].model, small_shape().model);
  EXPECT_EQ(list[1].n_tokens, 600u);
  EXPECT_EQ(list[1].n_packs, 3u);
  EXPECT_EQ(list[1].n_packs_missing, 0u);
  EXPECT_GT(list[1].saved_ns, 0);
  EXPECT_EQ(list[0].bytes + list[1].bytes, packs_.used_bytes());
  EXPECT_EQ(packs_.session("code")->tokens, random_text(2, 600));
  EXPECT_FALSE(packs_.session("other"));
}

TEST_F(Sessions, AnotherSaveReplacesTheEarlierOneWhole) {
  save("book", 1, 300);
  save("book", 2, 400);
  EXPECT_EQ(packs_.session("book")->tokens, random_text(2, 400));
  EXPECT_EQ(packs_.list().size(), 1u);
}

TEST_F(Sessions, RemovingOneKeepsThePacksOfOthers) {
  const auto shared = save("a", 1, 512);
  const auto text = random_text(1, 256);
  packs_.pin("b", {small_shape().model, "m", text, {shared[0]}});
  EXPECT_TRUE(packs_.remove("a"));
  EXPECT_EQ(packs_.n_packs(), 1u);
  EXPECT_EQ(problems_of(packs_), "");
  EXPECT_TRUE(packs_.unpin("b"));
  EXPECT_EQ(packs_.n_packs(), 1u);
  EXPECT_FALSE(packs_.unpin("b"));
  EXPECT_FALSE(packs_.remove("b"));
  EXPECT_EQ(names_in(fresh_.path()), std::vector<std::string>{shared[0]});
}

TEST_F(Sessions, APackThatIsGoneCannotBePinned) {
  const auto names = save_text(packs_, small_shape(), random_text(1, 40));
  packs_.remove_unpinned(names);
  EXPECT_EQ(code_of([&] { packs_.pin("a", {small_shape().model, "m", {}, names}); }), "io");
  EXPECT_TRUE(names_in(fresh_.path()).empty());
}

TEST_F(Sessions, ADamagedOneIsRefusedWholeAndCanBeRemoved) {
  save("book", 1, 40);
  const std::string file = fresh_.path() + "/book.session";
  auto bytes = bytes_of_file(file);
  bytes[60] ^= std::byte{1};
  write_file(file, bytes);
  EXPECT_EQ(code_of([&] { packs_.session("book"); }), "bad_file");
  EXPECT_NE(problems_of(packs_), "");
  EXPECT_NE(packs_.list().at(0).problem, "");
  EXPECT_TRUE(packs_.remove("book"));
  EXPECT_EQ(problems_of(packs_), "");
}

TEST_F(Sessions, AMissingPackIsReported) {
  const auto names = save("book", 1, 300);
  std::filesystem::remove(fresh_.path() + "/" + names[1]);
  EXPECT_EQ(packs_.list().at(0).n_packs_missing, 1u);
  EXPECT_NE(problems_of(packs_), "");
  EXPECT_EQ(packs_.find(small_shape(), {}, random_text(1, 300)).n_positions, 256u);
}

}  // namespace
}  // namespace strata::tiers

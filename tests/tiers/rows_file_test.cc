// Files of index rows: whole or refused, and never without their pack.
#include "tiers/rows_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/rows_fixture.h"
#include "tiers/pack_eviction.h"

namespace strata::tiers {
namespace {

const std::string kPack = pack_file_name(Hash128{1, 2}, Hash128{3, 4});

TEST(RowsFormat, SegmentsAreWithThePackThatTheyEndIn) {
  struct Case {
    uint32_t first_pos, end_pos, segment_positions, first, end;
  };
  for (const Case& c :
       {Case{0, 4096, 1024, 0, 4}, Case{0, 1023, 1024, 0, 0}, Case{0, 1024, 1024, 0, 1},
        Case{768, 4864, 1024, 0, 4}, Case{1024, 1100, 1024, 1, 1}, Case{1024, 2048, 1024, 1, 2},
        Case{2816, 3072, 1024, 2, 3}, Case{2816, 3071, 1024, 2, 2}, Case{256, 512, 256, 1, 2},
        Case{256, 300, 256, 1, 1}}) {
    const SegmentRange range = segments_ending_in(c.first_pos, c.end_pos, c.segment_positions);
    EXPECT_EQ(range.first, c.first) << c.first_pos << " " << c.end_pos;
    EXPECT_EQ(range.end, c.end) << c.first_pos << " " << c.end_pos;
  }
}

TEST(RowsFormat, OnlyNamesOfRowsAreTheirNames) {
  EXPECT_EQ(rows_file_name(kPack, "pq1"), kPack + ".pq1.rows");
  EXPECT_EQ(pack_of_rows_file(kPack + ".pq1.rows"), kPack);
  EXPECT_EQ(kind_of_rows_file(kPack + ".pq1.rows"), "pq1");
  EXPECT_FALSE(is_pack_file_name(kPack + ".pq1.rows"));
  for (const std::string& name :
       {kPack, kPack + ".rows", kPack + "..rows", kPack + ".PQ.rows", kPack + ".1q.rows",
        kPack + ".pq1.rows2", kPack + ".a2345678901234567.rows", "x" + kPack + ".pq1.rows",
        kPack + ".pq1.pq1.rows", std::string(".pq1.rows"), std::string("book.session")})
    EXPECT_EQ(pack_of_rows_file(name), "") << name;
}

RowsHead head_of(const RowsShape& shape, uint32_t first, uint32_t n) {
  RowsHead head{.shape = shape, .first_segment = first, .hashes = {}};
  for (uint32_t i = 0; i < n; ++i) head.hashes.push_back({i, i + 1});
  return head;
}

/// As the end of a file whose segments are zeros; of a pack of positions [first_pos, end_pos).
RowsHead parse(std::span<const std::byte> end, uint64_t file_bytes, uint32_t first_pos,
               uint32_t end_pos, const std::string& pack = kPack) {
  std::vector<std::byte> tail(std::min(file_bytes, kRowsEndBytesMax));
  std::ranges::copy(end, tail.end() - static_cast<std::ptrdiff_t>(end.size()));
  return parse_rows_end(tail, file_bytes, pack, first_pos, end_pos, "test");
}

TEST(RowsFormat, AnEndIsReadAsItWasWritten) {
  const RowsShape pq{"pq1", 90, 1024, 33024};
  for (const uint32_t n : {1u, 3u, 4u}) {
    const RowsHead head = head_of(pq, 4, n);
    const auto end = encode_rows_end(head, kPack);
    const uint64_t bytes = rows_file_bytes(pq, n);
    const RowsHead read = parse(end, bytes, 4096, 8192);
    EXPECT_EQ(read.shape, pq);
    EXPECT_EQ(read.first_segment, 4u);
    EXPECT_EQ(read.hashes, head.hashes);
    const auto refusal = [&](uint32_t first_pos, uint32_t end_pos, const std::string& pack) {
      return code_of([&] { parse(end, bytes, first_pos, end_pos, pack); });
    };
    EXPECT_EQ(refusal(4096, 8192, kPack), "none");
    EXPECT_EQ(refusal(4096, 4096 + n * 1024, kPack), "none");
    EXPECT_EQ(refusal(4096, 4095 + n * 1024, kPack), "bad_file") << "one too many";
    EXPECT_EQ(refusal(2816, 8192, kPack), "bad_file") << "not from its first on";
    EXPECT_EQ(refusal(4096, 8192, pack_file_name(Hash128{1, 2}, Hash128{3, 5})), "bad_file");
  }
}

TEST(RowsFormat, SealedEndsWithHostileFieldsAreRefused) {
  const RowsShape shape = small_rows();
  const auto good = encode_rows_end(head_of(shape, 0, 2), kPack);
  const uint64_t bytes = rows_file_bytes(shape, 2);
  const size_t trailer = good.size() - kRowsTrailerBytes;
  struct Field {
    size_t at;
    size_t n;
    std::vector<uint64_t> values;
  };
  const std::vector<Field> fields = {
      {8, 4, {0, 2, UINT32_MAX}},                                   // version
      {12, 4, {0, 1, 3, kRowsStreamsMax + 1, UINT32_MAX}},          // streams
      {16, 1, {0, ' ', '1', 'Q'}},                                  // kind
      {31, 1, {'a'}},                                               // behind its end
      {48, 4, {0, 255, 257, 512, UINT32_MAX}},                      // positions of a segment
      {52, 4, {1, UINT32_MAX}},                                     // the first segment
      {56, 8, {0, 1, 3, 16, 17, UINT64_MAX, UINT64_MAX / 16 + 3}},  // segments
      {64, 8, {0, 23, 25, kRowsStreamBytesMax + 1, UINT64_MAX}},    // bytes of a stream
      {72, 8, {0, bytes - 1, UINT64_MAX}}};                         // of the file
  EXPECT_EQ(code_of([&] { parse(good, bytes, 0, 512); }), "none");
  for (const Field& field : fields)
    for (const uint64_t value : field.values) {
      auto end = good;
      std::memcpy(end.data() + trailer + field.at, &value, field.n);
      const Hash128 hash = hash_bytes(std::span(end).first(end.size() - 16));
      std::memcpy(end.data() + end.size() - 16, &hash, 16);
      const std::string code = code_of([&] { parse(end, bytes, 0, 512); });
      EXPECT_EQ(code, field.at == 8 ? "unsupported" : "bad_file") << field.at << " " << value;
    }
}

class RowsFiles : public ::testing::Test {
 protected:
  RowsFiles() : packs_(PackDirectory::open(fresh_.path(), {}, calls_)) {}
  std::string path_of(const std::string& name) const { return fresh_.path() + "/" + name; }
  uint64_t n_bytes(const std::string& name) const {
    return std::filesystem::file_size(path_of(name));
  }
  FoundContext find(std::span<const int32_t> text) { return packs_.find(small_shape(), {}, text); }
  PackDirectory again() { return PackDirectory::open(fresh_.path(), {}, calls_); }

  FreshPath fresh_;
  WatchedCalls calls_;
  PackDirectory packs_;
  const std::vector<int32_t> text_ = random_text(1, 1100);
  const RowsShape shape_ = small_rows();
};

TEST_F(RowsFiles, WhatWasSavedIsFoundWithItsPack) {
  const auto names = save_text(packs_, small_shape(), text_, 512);
  EXPECT_TRUE(save_rows(packs_, names[0], shape_, 0, 2));
  EXPECT_TRUE(save_rows(packs_, names[1], shape_, 2, 1));
  PackDirectory packs = again();
  const FoundContext found = packs.find(small_shape(), {}, text_);
  EXPECT_EQ(expect_whole_rows(packs, found, shape_), 3u);
  EXPECT_EQ(packs.open_rows(*found.pieces[2].pack, shape_), nullptr);
  // More of them take the place of fewer.
  EXPECT_TRUE(save_rows(packs, names[1], shape_, 2, 2));
  EXPECT_EQ(expect_whole_rows(packs, found, shape_), 4u);
  // Others neither see nor disturb them.
  const RowsShape other{"pq1", 2, 256, 40};
  const FoundContext of_other = packs.find(small_shape(), {}, text_);
  EXPECT_EQ(expect_whole_rows(packs, of_other, other), 0u);
  EXPECT_TRUE(save_rows(packs, names[0], other, 0, 1));
  EXPECT_EQ(expect_whole_rows(packs, of_other, other), 1u);
  EXPECT_EQ(expect_whole_rows(packs, found, shape_), 4u);
  // Of another shape under the same kind they are refused, and no damage.
  RowsShape wider = shape_;
  wider.stream_bytes = 32;
  EXPECT_EQ(code_of([&] { packs.open_rows(*found.pieces[0].pack, wider); }), "unsupported");
  for (const std::string& name : names_in(fresh_.path())) {
    if (pack_of_rows_file(name).empty()) continue;
    EXPECT_EQ(std::filesystem::status(path_of(name)).permissions(),
              std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  }
}

TEST_F(RowsFiles, EveryTruncationAndEveryFlippedBitIsRefused) {
  const auto names = save_text(packs_, small_shape(), std::span(text_).first(512));
  ASSERT_TRUE(save_rows(packs_, names[0], shape_, 0, 2));
  const std::string rows = rows_file_name(names[0], shape_.kind);
  const auto good = bytes_of_file(path_of(rows));
  const FoundContext found = find(std::span(text_).first(512));
  const auto is_whole = [&](std::span<const std::byte> bytes) {
    write_file(path_of(rows), bytes);
    const std::string code = code_of([&] {
      const auto rows_of_pack = packs_.open_rows(*found.pieces[0].pack, shape_);
      if (rows_of_pack) rows_of_pack->check();
    });
    EXPECT_TRUE(code == "none" || code == "bad_file" || code == "unsupported") << code;
    return code == "none";
  };
  EXPECT_TRUE(is_whole(good));
  for (size_t n = 0; n < good.size(); ++n) EXPECT_FALSE(is_whole(std::span(good).first(n))) << n;
  auto bytes = good;
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1u << bit % 8);
    bytes[bit / 8] ^= mask;
    EXPECT_FALSE(is_whole(bytes)) << bit;
    bytes[bit / 8] ^= mask;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(is_whole(bytes));
}

TEST_F(RowsFiles, AreCountedListedAndVerified) {
  const auto names = save_text(packs_, small_shape(), text_, 512);
  packs_.pin("book", {small_shape().model, "m", text_, names});
  const uint64_t used = packs_.used_bytes();
  const uint64_t of_session = packs_.list()[0].bytes;
  ASSERT_TRUE(save_rows(packs_, names[0], shape_, 0, 2));
  ASSERT_TRUE(save_rows(packs_, names[0], {"pq1", 2, 512, 40}, 0, 1));
  const std::string rows = rows_file_name(names[0], shape_.kind);
  const uint64_t bytes = n_bytes(rows) + n_bytes(rows_file_name(names[0], "pq1"));
  EXPECT_EQ(packs_.used_bytes(), used + bytes);
  EXPECT_EQ(packs_.list()[0].bytes, of_session + bytes);
  for (const PackEntry& entry : packs_.packs()) {
    EXPECT_EQ(entry.rows_bytes, entry.name == names[0] ? bytes : 0);
    EXPECT_EQ(entry.bytes, n_bytes(entry.name) + entry.rows_bytes);
  }
  EXPECT_EQ(problems_of(packs_), "");
  auto wrong = bytes_of_file(path_of(rows));
  wrong[1] ^= std::byte{1};
  write_file(path_of(rows), wrong);
  const auto verdict = packs_.verify_pack(names[0]);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->problem, "");
  ASSERT_EQ(verdict->rows.size(), 1u);
  EXPECT_EQ(verdict->rows[0].name, rows);
  EXPECT_TRUE(packs_.discard_rows(rows));
  EXPECT_EQ(packs_.remove("book"), used + bytes - wrong.size());
  EXPECT_EQ(packs_.used_bytes(), 0u);
  EXPECT_TRUE(names_in(fresh_.path()).empty());
}

TEST_F(RowsFiles, GoWithTheirPack) {
  const auto names = save_text(packs_, small_shape(), text_, 512);
  ASSERT_TRUE(save_rows(packs_, names[0], shape_, 0, 2));
  EXPECT_EQ(packs_.remove_unpinned(std::span(names).first(1)).size(), 1u);
  auto left = std::vector{names[1], names[2]};
  std::ranges::sort(left);
  EXPECT_EQ(names_in(fresh_.path()), left);
  // A damaged pack, and a pack that is gone by the time its rows are sealed.
  ASSERT_TRUE(save_rows(packs_, names[1], shape_, 2, 2));
  RowsWriter late = packs_.start_rows(names[1], shape_, 2, 1);
  late.write(segment_bytes(shape_, names[1], 2));
  late.seal();
  auto bytes = bytes_of_file(path_of(names[1]));
  bytes[0] ^= std::byte{1};
  write_file(path_of(names[1]), bytes);
  EXPECT_EQ(packs_.discard(names[1]), Discarded::kPack);
  EXPECT_FALSE(packs_.publish_rows(std::move(late)));
  EXPECT_EQ(names_in(fresh_.path()), std::vector{names[2]});
}

TEST_F(RowsFiles, FewerNeverTakeThePlaceOfMoreThatAreWhole) {
  const auto names = save_text(packs_, small_shape(), text_, 512);
  RowsWriter late = packs_.start_rows(names[0], shape_, 0, 1);
  late.write(segment_bytes(shape_, names[0], 0));
  late.seal();
  PackDirectory other = again();
  ASSERT_TRUE(save_rows(other, names[0], shape_, 0, 2));
  EXPECT_FALSE(packs_.publish_rows(std::move(late)));
  EXPECT_EQ(expect_whole_rows(packs_, find(text_), shape_), 2u);
  // Wrong ones keep no place.
  const std::string path = path_of(rows_file_name(names[0], shape_.kind));
  auto bytes = bytes_of_file(path);
  bytes[60] ^= std::byte{1};
  write_file(path, bytes);
  EXPECT_TRUE(save_rows(packs_, names[0], shape_, 0, 1));
  EXPECT_EQ(expect_whole_rows(packs_, find(text_), shape_), 1u);
}

/// Files of one kind can't be opened, or those that are open can't be read; while it is told so.
class FailingFiles final : public WatchedCalls {
 public:
  enum class Of : uint8_t { kNone, kPackOpened, kPackRead, kRowsOpened, kRowsRead };
  Of of = Of::kNone;
  int open_at(int directory, const std::string& name, OpenFor purpose) override {
    const bool is_pack = is_pack_file_name(name);
    const bool is_rows = !pack_of_rows_file(name).empty();
    if ((is_pack && of == Of::kPackOpened) || (is_rows && of == Of::kRowsOpened)) return -EMFILE;
    const int file = WatchedCalls::open_at(directory, name, purpose);
    if ((is_pack && of == Of::kPackRead) || (is_rows && of == Of::kRowsRead))
      unreadable_.insert(file);
    return file;
  }
  void close(int descriptor) override {
    unreadable_.erase(descriptor);
    WatchedCalls::close(descriptor);
  }
  int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) override {
    if (unreadable_.contains(descriptor)) return -EIO;
    return WatchedCalls::read_at(descriptor, bytes, offset);
  }

 private:
  std::set<int> unreadable_;
};

TEST_F(RowsFiles, OnlyWhatIsWrongOrUnreadableIsDiscarded) {
  const auto names = save_text(packs_, small_shape(), text_, 512);
  const std::string rows = rows_file_name(names[0], shape_.kind);
  EXPECT_FALSE(packs_.discard_rows(rows)) << "there are none";
  ASSERT_TRUE(save_rows(packs_, names[0], shape_, 0, 2));
  EXPECT_FALSE(packs_.discard_rows(rows)) << "another process has replaced the wrong ones";
  EXPECT_EQ(expect_whole_rows(packs_, find(text_), shape_), 2u);
  FailingFiles calls;
  PackDirectory packs = PackDirectory::open(fresh_.path(), {}, calls);
  calls.of = FailingFiles::Of::kRowsRead;
  EXPECT_TRUE(packs.discard_rows(rows));
  calls.of = FailingFiles::Of::kNone;
  EXPECT_EQ(expect_whole_rows(packs_, find(text_), shape_), 0u);
}

TEST_F(RowsFiles, StayWhereNothingIsKnownOfThem) {
  const auto names = save_text(packs_, small_shape(), text_, 512);
  const std::string rows = rows_file_name(names[0], shape_.kind);
  ASSERT_TRUE(save_rows(packs_, names[0], shape_, 0, 2));
  using Of = FailingFiles::Of;
  for (const Of of : {Of::kPackOpened, Of::kPackRead, Of::kRowsOpened}) {
    SCOPED_TRACE(static_cast<int>(of));
    FailingFiles calls;
    PackDirectory packs = PackDirectory::open(fresh_.path(), {}, calls);
    RowsWriter fewer = packs.start_rows(names[0], shape_, 0, 1);
    fewer.write(segment_bytes(shape_, names[0], 0));
    fewer.seal();
    calls.of = of;
    EXPECT_EQ(code_of([&] { packs.discard_rows(rows); }), "io");
    EXPECT_EQ(code_of([&] { packs.publish_rows(std::move(fewer)); }), "io");
    calls.of = Of::kNone;
    EXPECT_EQ(expect_whole_rows(packs_, find(text_), shape_), 2u);
  }
}

TEST_F(RowsFiles, OrphansGoWhenTheDirectoryIsOpened) {
  const auto names = save_text(packs_, small_shape(), text_, 1100);
  ASSERT_TRUE(save_rows(packs_, names[0], shape_, 0, 2));
  std::filesystem::remove(path_of(names[0]));
  {
    const auto held = DurableDirectory::open(fresh_.path(), calls_);
    const DirectoryLock lock = held->lock(std::chrono::milliseconds(0));
    again();
    EXPECT_EQ(names_in(fresh_.path()).size(), 1u) << "somebody may be saving its pack";
  }
  again();
  EXPECT_TRUE(names_in(fresh_.path()).empty());
}

TEST_F(RowsFiles, PushOutOtherTextsAndNothingOfTheirOwn) {
  const auto other = random_text(2, 512);
  save_text(packs_, small_shape(), other);
  const auto names = save_text(packs_, small_shape(), std::span(text_).first(1024), 512);
  ASSERT_TRUE(find(text_).pieces.size() == 2);
  const uint64_t used = packs_.used_bytes();
  {
    PackDirectory small = PackDirectory::open(fresh_.path(), {.budget_bytes = used}, calls_);
    EXPECT_TRUE(save_rows(small, names[0], shape_, 0, 2));
    EXPECT_LE(small.used_bytes(), used);
    EXPECT_EQ(small.find(small_shape(), {}, other).n_positions, 0u);
    EXPECT_EQ(small.find(small_shape(), {}, text_).n_positions, 1024u);
  }
  PackDirectory full =
      PackDirectory::open(fresh_.path(), {.budget_bytes = packs_.used_bytes()}, calls_);
  EXPECT_EQ(code_of([&] { save_rows(full, names[1], shape_, 2, 2); }), "does_not_fit");
  const FoundContext found = full.find(small_shape(), {}, text_);
  EXPECT_EQ(found.n_positions, 1024u);
  EXPECT_EQ(expect_whole_rows(full, found, shape_), 2u);
}

TEST_F(RowsFiles, PushOutNothingOfTheirOwnThatIsPassedOver) {
  const auto names = save_text(packs_, small_shape(), std::span(text_).first(1024), 512);
  // The index has room for the text's end alone.
  const PackLimits limits = {.budget_bytes = packs_.used_bytes(), .index_bytes = 6000};
  for (const std::string& name : names) {
    PackDirectory full = PackDirectory::open(fresh_.path(), limits, calls_);
    ASSERT_EQ(full.n_passed_over(), 1u);
    const uint32_t first = name == names[0] ? 0 : 2;
    EXPECT_EQ(code_of([&] { save_rows(full, name, shape_, first, 2); }), "does_not_fit");
  }
  EXPECT_EQ(find(text_).n_positions, 1024u);
}

TEST(RowsEviction, ATextIsWhatContinuesEachOther) {
  // 0 - 1 - 2 and 0 - 3 continue each other; 4 stands alone.
  std::vector<EvictionCandidate> packs(5);
  const std::array<uint32_t, 5> positions = {0, 256, 512, 256, 0};
  for (uint32_t i = 0; i < 5; ++i) {
    packs[i].name = std::to_string(i);
    packs[i].first_pos = positions[i];
  }
  packs[1].continues = packs[3].continues = {0};
  packs[2].continues = {1};
  const auto pinned_by = [&](uint32_t of) {
    auto copy = packs;
    pin_text(copy, of);
    std::string pinned;
    for (const EvictionCandidate& pack : copy)
      if (pack.is_pinned) pinned += pack.name;
    return pinned;
  };
  EXPECT_EQ(pinned_by(0), "0123");
  EXPECT_EQ(pinned_by(1), "012");
  EXPECT_EQ(pinned_by(2), "012");
  EXPECT_EQ(pinned_by(3), "03");
  EXPECT_EQ(pinned_by(4), "4");
}

}  // namespace
}  // namespace strata::tiers

#include "tiers/pack_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/checked_math.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

/// Regions of zeros and an end with tags that name nothing: a whole file as far as heads go.
std::vector<std::byte> file_of(PackHead& head) {
  const PackGeometry geometry(head);
  const std::vector<std::byte> end =
      encode_pack_end(head, std::vector<Hash128>(static_cast<size_t>(geometry.n_tags())));
  std::vector<std::byte> file(static_cast<size_t>(geometry.tags_offset));
  file.insert(file.end(), end.begin(), end.end());
  return file;
}

PackHead parse(std::span<const std::byte> file) {
  return parse_pack_head(file.last(std::min<size_t>(file.size(), kPackTailBytes)), file.size(),
                         "test");
}

PackRun some_run(uint32_t first_pos, uint32_t n) {
  const auto text = random_text(7, first_pos + n);
  return run_of(small_shape(), text, first_pos, first_pos + n);
}

TEST(PackFormat, AHeadIsReadAsItWasWritten) {
  for (const uint32_t n : {1u, 31u, 32u, 33u, 256u, 257u, 1000u, 4096u}) {
    PackHead head = PackHead::of(some_run(512, n));
    head.presence[head.n_blocks()] = 0;  // the windowed layer lacks its first block
    head.run.is_generated[n / 2] = head.run.is_generated[n - 1] = 1;
    const auto file = file_of(head);
    const PackHead read = parse(file);
    EXPECT_EQ(read.run.shape, head.run.shape);
    EXPECT_EQ(read.run.first_pos, 512u);
    EXPECT_EQ(read.run.tokens, head.run.tokens);
    EXPECT_EQ(read.run.is_generated, head.run.is_generated);
    EXPECT_EQ(read.chains, head.chains);
    EXPECT_EQ(read.presence, head.presence);
    EXPECT_EQ(read.tags_hash, head.tags_hash);
    EXPECT_EQ(pack_file_name(read), pack_file_name(head));
    EXPECT_LE(file.size(), pack_bytes_max(head.run));
  }
}

TEST(PackFormat, RegionsAreAlignedAndDoNotOverlap) {
  PackHead head = PackHead::of(some_run(0, 600));
  for (uint32_t block = 8; block < 16; ++block) head.presence[head.n_blocks() + block] = 0;
  const PackGeometry geometry(head);
  uint64_t at = 0;
  for (uint32_t extent = 0; extent < head.n_extents(); ++extent) {
    for (uint32_t layer = 0; layer < head.n_layers(); ++layer) {
      if (layer == 2 || (layer == 1 && extent == 1)) {
        EXPECT_EQ(geometry.region_offset(extent, layer), PackGeometry::kNoRegion);
        continue;
      }
      EXPECT_EQ(geometry.region_offset(extent, layer), at);
      at += round_up(region_payload_bytes(head, geometry, extent, layer), kRegionAlignment);
    }
  }
  EXPECT_EQ(geometry.tags_offset, at);
  EXPECT_EQ(geometry.n_tags(), 3 * 19u);
  EXPECT_EQ(region_payload_bytes(head, geometry, 2, 0), 2 * 3 * geometry.block_bytes);
}

TEST(PackFormat, EveryTruncationIsRefused) {
  PackHead head = PackHead::of(some_run(0, 40));
  const auto file = file_of(head);
  for (size_t n = 0; n < file.size(); ++n)
    EXPECT_EQ(code_of([&] { parse(std::span(file).first(n)); }), "bad_file") << n;
}

TEST(PackFormat, EveryFlippedBitOfHeadAndTrailerIsRefused) {
  PackHead head = PackHead::of(some_run(256, 40));
  auto file = file_of(head);
  for (size_t bit = PackGeometry(head).head_offset * 8; bit < file.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1u << bit % 8);
    file[bit / 8] ^= mask;
    const std::string code = code_of([&] { parse(file); });
    EXPECT_TRUE(code == "bad_file" || code == "unsupported") << "bit " << bit << ": " << code;
    file[bit / 8] ^= mask;
  }
  EXPECT_EQ(code_of([&] { parse(file); }), "none");
}

TEST(PackFormat, EveryFlippedBitOfTheTagsIsRefused) {
  PackHead head = PackHead::of(some_run(0, 40));
  const auto file = file_of(head);
  const PackGeometry geometry(head);
  auto tags = std::vector<std::byte>(file.begin() + static_cast<long>(geometry.tags_offset),
                                     file.begin() + static_cast<long>(geometry.head_offset));
  for (size_t bit = 0; bit < tags.size() * 8; ++bit) {
    tags[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    EXPECT_EQ(code_of([&] { parse_pack_tags(head, geometry, tags, "test"); }), "bad_file");
    tags[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
  }
  EXPECT_EQ(parse_pack_tags(head, geometry, tags, "test").size(), geometry.n_tags());
}

/// Writes `value` over bytes of the head and seals the file again, as a hostile writer could.
template <typename T>
std::vector<std::byte> with_field(const std::vector<std::byte>& file, size_t head_offset,
                                  size_t field, T value) {
  auto changed = file;
  std::memcpy(changed.data() + head_offset + field, &value, sizeof(value));
  const auto sealed = std::span(changed).subspan(head_offset, changed.size() - head_offset - 16);
  const Hash128 hash = hash_bytes(sealed);
  std::memcpy(changed.data() + changed.size() - 16, &hash, 16);
  return changed;
}

TEST(PackFormat, SealedHeadsWithHostileFieldsAreRefused) {
  PackHead head = PackHead::of(some_run(256, 40));
  const auto file = file_of(head);
  const auto at = static_cast<size_t>(PackGeometry(head).head_offset);
  const auto code = [&](size_t field, uint32_t value) {
    return code_of([&] { parse(with_field(file, at, field, value)); });
  };
  EXPECT_EQ(code(0, kKvLayoutVersion), "none");
  EXPECT_EQ(code(0, kKvLayoutVersion + 1), "unsupported");
  for (const size_t codec_field : {4u, 8u}) {
    EXPECT_EQ(code(codec_field, 0), "bad_file");
    EXPECT_EQ(code(codec_field, 2), "bad_file");  // head_dim 8 is no multiple of 32
    EXPECT_EQ(code(codec_field, UINT32_MAX), "bad_file");
  }
  for (const uint32_t head_dim : {0u, 4u, 12u, 16u, 4096u, 4104u, 1u << 31})
    EXPECT_EQ(code(12, head_dim), "bad_file") << head_dim;
  for (const uint32_t n_layers : {0u, 2u, 4u, 1025u, UINT32_MAX})
    EXPECT_EQ(code(16, n_layers), "bad_file") << n_layers;
  for (const uint32_t first_pos : {1u, 32u, 1u << 31, UINT32_MAX - 255})
    EXPECT_EQ(code(20, first_pos), "bad_file") << first_pos;
  for (const uint32_t n_positions : {0u, 39u, 41u, 4097u, UINT32_MAX})
    EXPECT_EQ(code(24, n_positions), "bad_file") << n_positions;
  EXPECT_EQ(code(28, 1), "bad_file");
  EXPECT_EQ(code(48, 1), "bad_file");  // the chain before
  EXPECT_EQ(code(80, 3), "bad_file");  // KV heads: another size
  EXPECT_EQ(code(80, UINT32_MAX), "bad_file");
  EXPECT_EQ(code(80 + 3 * 8, 50001), "bad_file");  // a token: another chain
  const auto code_of_presence = [&](size_t layer, uint8_t bits) {
    return code_of([&] { parse(with_field(file, at, 80 + 3 * 8 + 160 + layer, bits)); });
  };
  EXPECT_EQ(code_of_presence(0, 2), "bad_file");  // the full layer lacks a block
  EXPECT_EQ(code_of_presence(0, 7), "bad_file");  // bits behind the end
  EXPECT_EQ(code_of_presence(1, 7), "bad_file");
  EXPECT_EQ(code_of_presence(1, 2), "none");      // the windowed one may, and needs as much room
  EXPECT_EQ(code_of_presence(1, 0), "bad_file");  // without a region the file is too long
}

TEST(PackFormat, OnlyNamesOfPacksArePackNames) {
  const std::string name = pack_file_name(PackHead::of(some_run(0, 40)));
  EXPECT_TRUE(is_pack_file_name(name));
  EXPECT_FALSE(is_pack_file_name(""));
  EXPECT_FALSE(is_pack_file_name("../" + name));
  EXPECT_FALSE(is_pack_file_name(name + "x"));
  for (size_t i = 0; i < name.size(); ++i) {
    std::string other = name;
    other[i] = 'X';
    EXPECT_FALSE(is_pack_file_name(other)) << other;
  }
}

TEST(PackFormat, AnotherTextPlaceOrShapeHasAnotherName) {
  const PackRun run = some_run(256, 40);
  std::vector<std::string> names = {pack_file_name(PackHead::of(run))};
  const auto add = [&](const std::function<void(PackRun&)>& change) {
    PackRun other = run;
    change(other);
    names.push_back(pack_file_name(PackHead::of(other)));
  };
  add([](PackRun& other) { other.tokens[3] ^= 1; });
  add([](PackRun& other) { other.tokens.pop_back(); });
  add([](PackRun& other) { other.first_pos += 256; });
  add([](PackRun& other) { other.chain_before.high ^= 1; });
  add([](PackRun& other) { other.shape.model.low ^= 1; });
  add([](PackRun& other) { other.shape.layers[1].window = 0; });
  PackHead lacking = PackHead::of(run);
  lacking.presence[lacking.n_blocks()] = 0;
  names.push_back(pack_file_name(lacking));
  std::ranges::sort(names);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
}

TEST(PackFormat, WhatWasGeneratedIsNoPartOfTheName) {
  PackRun run = some_run(256, 40);
  const std::string name = pack_file_name(PackHead::of(run));
  run.is_generated.assign(40, 1);
  EXPECT_EQ(pack_file_name(PackHead::of(run)), name);
}

TEST(PackFormat, ClearedRowsAreZeroAndTheOthersStay) {
  for (const KvCodec k : {KvCodec::kF16, KvCodec::kQ8_0}) {
    for (const KvCodec v : {KvCodec::kF16, KvCodec::kQ8_0}) {
      const KvLayout layout = KvLayout::make(k, v, 64);
      std::vector<std::byte> block(layout.block_bytes, std::byte{0xA5});
      clear_rows_from(20, layout, block);
      // Every byte of K, V and their scales belongs to one row; 20 of 32 rows stay.
      const auto n_kept = static_cast<uint64_t>(std::ranges::count(block, std::byte{0xA5}));
      EXPECT_EQ(n_kept, 20 * kv_position_bytes(layout) + layout.block_bytes -
                            32 * kv_position_bytes(layout));
      const size_t k_row = k == KvCodec::kF16 ? 2 : 1;
      EXPECT_EQ(block[19 * k_row], std::byte{0xA5});
      EXPECT_EQ(block[20 * k_row], std::byte{0});
    }
  }
}

}  // namespace
}  // namespace strata::tiers

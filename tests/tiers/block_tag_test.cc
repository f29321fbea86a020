#include "tiers/block_tag.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>
#include <utility>

#include "tests/tiers/xxh3_reference.h"

namespace strata::tiers {
namespace {

BlockIdentity some_identity() {
  return {.model = {0x0123456789abcdef, 0xfedcba9876543210},
          .chain = {0x1111222233334444, 0x5555666677778888},
          .layer = 3,
          .kv_head = 2,
          .first_pos = 4096,
          .n_positions = 32,
          .k_codec = KvCodec::kQ8_0,
          .v_codec = KvCodec::kF16,
          .generation = 7};
}

std::vector<std::byte> counted_bytes(size_t n) {
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  return bytes;
}

/// As xxHash prints it: the high half first.
std::string hex(const Hash128& hash) {
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(hash.high),
                static_cast<unsigned long long>(hash.low));
  return text;
}

TEST(BlockTag, FlippingAnyBitOfTheIdentityChangesIt) {
  const auto payload = counted_bytes(1000);
  std::set<std::string> tags = {hex(block_tag(some_identity(), payload))};
  size_t n_changes = 0;
  const auto expect_other_tag = [&](const char* what, const BlockIdentity& identity) {
    ++n_changes;
    EXPECT_TRUE(tags.insert(hex(block_tag(identity, payload))).second) << what;
  };
  BlockIdentity identity = some_identity();
  // A field that is added has to be named here, or this does not compile.
  auto& [model, chain, layer, kv_head, first_pos, n_positions, k_codec, v_codec, generation] =
      identity;
  const auto flip = [&](const char* what, auto& field) {
    for (size_t bit = 0; bit < 8 * sizeof(field); ++bit) {
      const auto mask = static_cast<std::remove_reference_t<decltype(field)>>(uint64_t{1} << bit);
      field ^= mask;
      expect_other_tag(what, identity);
      field ^= mask;
    }
  };
  flip("model", model.low);
  flip("model", model.high);
  flip("chain", chain.low);
  flip("chain", chain.high);
  flip("layer", layer);
  flip("kv_head", kv_head);
  flip("first_pos", first_pos);
  flip("n_positions", n_positions);
  flip("generation", generation);
  k_codec = KvCodec::kF16;
  expect_other_tag("k_codec", identity);
  v_codec = KvCodec::kQ8_0;
  expect_other_tag("both codecs", identity);
  k_codec = KvCodec::kQ8_0;
  expect_other_tag("v_codec", identity);
  EXPECT_EQ(n_changes, 5u * 64 + 4 * 32 + 3);
}

TEST(BlockTag, FieldsDoNotStandForEachOther) {
  const auto payload = counted_bytes(64);
  BlockIdentity a = some_identity();
  BlockIdentity b = some_identity();
  std::swap(b.layer, b.kv_head);
  EXPECT_NE(block_tag(a, payload), block_tag(b, payload));
  b = some_identity();
  std::swap(b.k_codec, b.v_codec);
  EXPECT_NE(block_tag(a, payload), block_tag(b, payload));
  b = some_identity();
  std::swap(b.model, b.chain);
  EXPECT_NE(block_tag(a, payload), block_tag(b, payload));
}

TEST(BlockTag, FlippingAnyBitOfThePayloadChangesIt) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (const size_t n_bytes : {size_t{1}, size_t{240}, size_t{4096}, size_t{16384}}) {
    SCOPED_TRACE(n_bytes);
    auto payload = counted_bytes(n_bytes);
    const Hash128 whole = block_tag(some_identity(), payload);
    for (int draw = 0; draw < 500; ++draw) {
      // The first and the last byte's bits, then any.
      const size_t bit = draw < 8    ? static_cast<size_t>(draw)
                         : draw < 16 ? n_bytes * 8 - 16 + static_cast<size_t>(draw)
                                     : random() % (n_bytes * 8);
      payload[bit / 8] ^= std::byte{1} << (bit % 8);
      ASSERT_NE(block_tag(some_identity(), payload), whole) << "bit " << bit;
      payload[bit / 8] ^= std::byte{1} << (bit % 8);
    }
    EXPECT_EQ(block_tag(some_identity(), payload), whole);
  }
}

TEST(BlockTag, AShorterAndALongerPayloadHaveOtherTags) {
  std::vector<std::byte> zeros(4096);
  std::set<std::string> tags;
  for (const size_t n : {0u, 1u, 63u, 64u, 65u, 4095u, 4096u})
    EXPECT_TRUE(tags.insert(hex(block_tag(some_identity(), {zeros.data(), n}))).second) << n;
}

TEST(BlockTag, BytesOfAnotherBlockDoNotPass) {
  std::vector<std::vector<std::byte>> payloads;
  std::vector<BlockIdentity> identities;
  for (uint32_t i = 0; i < 8; ++i) {
    payloads.push_back(counted_bytes(8192));
    payloads.back()[17] = std::byte{static_cast<uint8_t>(i)};
    identities.push_back(some_identity());
    identities.back().first_pos = i * kBlockPositions;
  }
  for (size_t i = 0; i < 8; ++i) {
    for (size_t j = 0; j < 8; ++j) {
      const bool is_same =
          block_tag(identities[i], payloads[i]) == block_tag(identities[i], payloads[j]);
      EXPECT_EQ(is_same, i == j) << i << " with the bytes of " << j;
    }
  }
  // Equal bytes at another place are still another block.
  EXPECT_NE(block_tag(identities[0], payloads[0]), block_tag(identities[1], payloads[0]));
}

TEST(BlockTag, HalvesOfAPayloadInTheOtherOrderDoNotPass) {
  auto payload = counted_bytes(16384);
  const Hash128 tag = block_tag(some_identity(), payload);
  std::swap_ranges(payload.begin(), payload.begin() + 8192, payload.begin() + 8192);
  EXPECT_NE(block_tag(some_identity(), payload), tag);
}

TEST(BlockTag, TheBlockAfterChangesNothing) {
  const auto payload = counted_bytes(8192);
  const std::span<const std::byte> first(payload.data(), 4096);
  const Hash128 tag = block_tag(some_identity(), first);
  for (const size_t n : {0u, 1u, 64u, 1000u, 4096u}) {
    EXPECT_EQ(block_tag(some_identity(), first, {payload.data() + 4096, n}), tag);
    EXPECT_EQ(block_tag(some_identity(), first, {payload.data() + 17, n}), tag);
  }
}

TEST(ExtendChain, GrowsBlockByBlockFromAnyEarlierBlock) {
  std::vector<int32_t> tokens(100);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * i);
  const auto chain_through = [&](Hash128 chain, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i += kBlockPositions)
      chain = extend_chain(
          chain, std::span(tokens).subspan(i, std::min<size_t>(kBlockPositions, end - i)));
    return chain;
  };
  const Hash128 whole = chain_through({}, 0, 100);
  for (const size_t border : {size_t{0}, size_t{32}, size_t{64}, size_t{96}})
    EXPECT_EQ(chain_through(chain_through({}, 0, border), border, 100), whole) << border;
  // Cut elsewhere it is another chain.
  EXPECT_NE(chain_through(chain_through({}, 0, 16), 16, 100), whole);
}

TEST(ExtendChain, EveryTokenItsPlaceAndTheChainBeforeCount) {
  const std::vector<int32_t> tokens = {5, -1, 0, 70000};
  std::set<std::string> chains = {hex(extend_chain({}, tokens))};
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (int bit = 0; bit < 32; ++bit) {
      auto other = tokens;
      other[i] = static_cast<int32_t>(static_cast<uint32_t>(other[i]) ^ (uint32_t{1} << bit));
      EXPECT_TRUE(chains.insert(hex(extend_chain({}, other))).second) << i << ", bit " << bit;
    }
  }
  EXPECT_TRUE(chains.insert(hex(extend_chain({}, std::vector<int32_t>{-1, 5, 0, 70000}))).second);
  EXPECT_TRUE(chains.insert(hex(extend_chain({}, std::vector<int32_t>{5, -1, 0}))).second);
  EXPECT_TRUE(chains.insert(hex(extend_chain({1, 0}, tokens))).second);
  EXPECT_TRUE(chains.insert(hex(extend_chain({0, 1}, tokens))).second);
}

TEST(ExtendChain, NoTokensLeaveItAsItIs) { EXPECT_EQ(extend_chain({3, 4}, {}), (Hash128{3, 4})); }

TEST(ExtendChainDeathTest, MoreTokensThanABlockHoldsAreABug) {
  const std::vector<int32_t> tokens(kBlockPositions + 1);
  EXPECT_DEATH(extend_chain({}, tokens), "33 tokens in a block of 32");
}

// Saved files carry these values: where one of the next two tests fails, every file that was ever
// saved becomes unreadable. A deliberate change needs another kKvLayoutVersion.
TEST(BlockTag, SavedTagsStayValid) {
  EXPECT_EQ(hex(block_tag({}, {})), "32a6c486e3c620a08d0bb14f5bde5dbe");
  EXPECT_EQ(hex(block_tag(some_identity(), {})), "cfe559864cf452f164686b707a4c8dc5");
  EXPECT_EQ(hex(block_tag(some_identity(), counted_bytes(1))), "01f8cd29bf510b7e837078ffdfbeb59b");
  EXPECT_EQ(hex(block_tag(some_identity(), counted_bytes(8192))),
            "311a616c08a1ac077c17773b23284519");
  EXPECT_EQ(hex(block_tag(some_identity(), counted_bytes(131072))),
            "f7af08b2827e5e94ac93f6ad0b197c31");
}

TEST(ExtendChain, SavedChainsStayValid) {
  std::vector<int32_t> tokens(kBlockPositions);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(1000 * i) - 3;
  const Hash128 first = extend_chain({}, tokens);
  EXPECT_EQ(hex(first), "e80d91d5f03e10757f334eb1a9636deb");
  EXPECT_EQ(hex(extend_chain(first, tokens)), "9fd9521f912f8202cf94fc5ebfb0ae5d");
  EXPECT_EQ(hex(extend_chain(first, std::span(tokens).first(5))),
            "662ce9a200f496e3d3fee009a0ff1407");
}

}  // namespace
}  // namespace strata::tiers

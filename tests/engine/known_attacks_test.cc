// Inputs that broke other readers of the format, by the public number of the finding; each must be
// an Error of ours, or be read as what it says. Readers' other weak spots: gguf_head_test.cc.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "engine/gguf/gguf_file.h"
#include "engine/inspect.h"
#include "engine/model_spec.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/small_model.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::make_small_model;
using testing::parse_file;
using testing::RawGguf;
using testing::SmallModel;

constexpr uint64_t kMost = ~uint64_t{0};

void expect_bad(const RawGguf& raw, std::string_view message, std::string_view where) {
  expect_error([&] { return parse_file(raw.bytes()); }, ErrorCode::kBadFile, message, where);
}

RawGguf one_tensor(const std::vector<uint64_t>& shape, uint32_t type, uint64_t n_bytes) {
  return RawGguf().header(1, 0).tensor("t", shape, type, 0).zeros(n_bytes);
}

// CVE-2024-21802, -21836, -23605, -21825, -23496, -25664 to -25668: counts and lengths of the
// header, multiplied or incremented unchecked.
TEST(KnownAttacks, HugeCountsAndLengths) {
  expect_bad(RawGguf().header(kMost / 8, 0).zeros(100), "tensor count: wanted at most 262144",
             "offset 8");
  expect_bad(RawGguf().header(0, kMost / 48).zeros(100), "key count: wanted at most 65536",
             "offset 16");
  expect_bad(RawGguf().header(0, 1).string("k").u32(9).u32(8).u64(uint64_t{1} << 61).zeros(64),
             "wanted at most 16777216 values", "key k");
  expect_bad(RawGguf().header(0, 1).string("k").u32(8).u64(kMost).zeros(64),
             "string: wanted a length of at most", "key k");
  expect_bad(RawGguf().header(1, 0).string("t").u32(0x40000000).zeros(64),
             "wanted 1 to 4 dimensions, found 1073741824", "tensor t");
}

// CVE-2024-32878: a file cut inside the key table freed pointers that were never set.
// CVE-2024-41130: a head without what follows it was dereferenced.
TEST(KnownAttacks, CutKeyTable) {
  RawGguf raw;
  raw.header(0, 2).string("a").u32(8).string("text").string("b").u32(8).u64(5).text("tex");
  expect_bad(raw, "truncated: wanted 5 bytes of string, found 3", "m.gguf: key b, offset");
  expect_bad(RawGguf().header(1, 0).zeros(41), "found an empty one", "tensor number 1");
}

// CVE-2025-49847: the length of a vocabulary entry, cut to 32 bits, passed its check.
TEST(KnownAttacks, TokenLongerThanTwoGiB) {
  const auto vocabulary = [](uint64_t length) {
    RawGguf raw;
    raw.header(0, 1).string("tokenizer.ggml.tokens").u32(9).u32(8).u64(2).string("a");
    return raw.u64(length).zeros(64);
  };
  for (const uint64_t length :
       {(uint64_t{1} << 31) + 1, uint64_t{1} << 32, (uint64_t{1} << 32) + 8})
    expect_bad(vocabulary(length),
               "string: wanted a length of at most 67108864 bytes, found " + std::to_string(length),
               "key tokenizer.ggml.tokens");
}

// CVE-2025-53630 and its bypass CVE-2026-27940: the sum of padded tensor sizes wrapped.
TEST(KnownAttacks, TensorSizesThatAddUpToNothing) {
  RawGguf raw;
  raw.header(2, 0);
  raw.tensor("a", {uint64_t{1} << 61}, 0, 0).tensor("b", {uint64_t{1} << 61}, 0, uint64_t{1} << 63);
  expect_bad(raw.zeros(600), "truncated: wanted 9223372036854775808 bytes at 0", "tensor a");
}

// CVE-2026-33298: elements times the size of a type wrapped.
TEST(KnownAttacks, ElementsTimesTypeSizeThatWraps) {
  expect_bad(one_tensor({(uint64_t{1} << 42) + 1}, 8, 600), "wanted rows of a multiple of 32", "t");
  expect_bad(one_tensor({uint64_t{1} << 42, uint64_t{1} << 20}, 8, 600),
             "truncated: wanted 4899916394579099648 bytes", "tensor t");
}

// CVE-2026-7482: a tensor larger than the file was read past its end.
TEST(KnownAttacks, TensorLargerThanItsFile) {
  expect_bad(one_tensor({1 << 20}, 0, 35),
             "truncated: wanted 4194304 bytes at 0 of the data section, "
             "found a file of 92 bytes",
             "tensor t");
}

// CVE-2026-53923: a product of dimensions above 2^31, cut to an int.
TEST(KnownAttacks, DimensionsThatDoNotFitAnInt) {
  RawGguf raw;
  raw.header(1, 0).tensor("t", {1 << 16, (1 << 16) + 1}, 8, 0).zeros(16);
  const uint64_t bytes = (uint64_t{1} << 16) * ((1 << 16) + 1) / 32 * 34;
  const GgufFile file = GgufFile::parse(raw.bytes(), 96 + bytes, "m.gguf");
  EXPECT_EQ(file.tensors().front().bytes, bytes);
  EXPECT_EQ(inspect_model(file).parameters, (uint64_t{1} << 32) + (1 << 16));
}

// llama.cpp 24759 and 26318: padding a size of 2^64 - 4 gave 0.
TEST(KnownAttacks, PaddingThatWraps) {
  expect_bad(one_tensor({(uint64_t{1} << 62) - 1}, 0, 71),
             "truncated: wanted 18446744073709551612 bytes", "tensor t");
}

// llama.cpp 24997, ggml 1516: an alignment without bound, and strings of a GiB in a file of 160
// bytes.
TEST(KnownAttacks, HugeAlignmentAndStrings) {
  for (const uint32_t alignment : {1u << 30, 1u << 31})
    expect_bad(RawGguf().header(0, 1).uint_key("general.alignment", alignment),
               "wanted a power of two from 8 to 1048576", "key general.alignment");
  expect_bad(RawGguf().header(0, 1).string("k").u32(8).u64(1 << 30).zeros(160 - 45),
             "string: wanted a length of at most 67108864 bytes, found 1073741824", "key k");
  expect_bad(RawGguf().header(0, 1).string("k").u32(9).u32(4).u64(1 << 24).zeros(111),
             "truncated: wanted 16777216 values of u32, found 111 bytes", "key k");
}

// llama.cpp 25596: an alignment of another type was asserted, a dimension of 0 divided by.
TEST(KnownAttacks, TypedAlignmentAndZeroDimension) {
  EXPECT_EQ(parse_file(RawGguf().header(0, 1).string("general.alignment").u32(5).u32(16).bytes())
                .alignment(),
            16u);
  expect_bad(RawGguf().header(0, 1).string("general.alignment").u32(12).u64(0),
             "wanted an integer, found f64", "key general.alignment");
  expect_bad(one_tensor({0, 4}, 0, 64), "wanted dimensions of at least 1, found 0", "tensor t");
}

/// A tokenizer of four tokens, its scores of type u8, its third a byte token of the text given.
std::vector<std::byte> tokenizer_head(const std::string& byte_token, uint64_t n_scores) {
  RawGguf raw;
  raw.header(0, 4).string("tokenizer.ggml.model").u32(8).string("llama");
  raw.string("tokenizer.ggml.tokens").u32(9).u32(8).u64(4);
  raw.string("<unk>").string("<s>").string(byte_token).string("a");
  raw.string("tokenizer.ggml.scores").u32(9).u32(0).u64(n_scores);
  for (uint64_t i = 0; i < n_scores; ++i) raw.u8(static_cast<uint8_t>(250 + i));
  raw.string("tokenizer.ggml.token_type").u32(9).u32(0).u64(4).u8(2).u8(3).u8(6).u8(1);
  return raw.bytes();
}

// llama.cpp 26690: scores and types were read as four bytes each, whatever their type.
TEST(KnownAttacks, ScoresAndTypesOfOneByte) {
  const TokenizerSpec spec = read_tokenizer_spec(parse_file(tokenizer_head("<0x41>", 4)));
  EXPECT_EQ(spec.scores, (std::vector<float>{250, 251, 252, 253}));
  EXPECT_EQ(spec.kinds[2], TokenKind::kByte);
  expect_error([] { return read_tokenizer_spec(parse_file(tokenizer_head("<0x41>", 3))); },
               ErrorCode::kBadFile, "3 scores for 4 tokens", "m.gguf: tokenizer.ggml.scores");
}

// llama.cpp 26511 and 27226: a byte token of "-1" wrote before a table.
TEST(KnownAttacks, ByteTokensThatAreNoByte) {
  for (const char* token : {"<0x-1>", "<0x+1>", "<0xG0>", "<0x 1>", "<0x100>", "<0x1>", ""})
    expect_error([&] { return read_tokenizer_spec(parse_file(tokenizer_head(token, 4))); },
                 ErrorCode::kBadFile, "token 2 is of type byte", "m.gguf: tokenizer.ggml.tokens");
}

// llama.cpp 26051: more layers than arrays of fixed size had room for.
TEST(KnownAttacks, MoreLayersThanOthersHaveRoomFor) {
  SmallModel model = make_small_model();
  model.set("llama.block_count", uint32_t{513});
  expect_error([&] { return read_model_spec(parse_file(model.bytes())); }, ErrorCode::kBadFile,
               "missing tensors of llama: blk.2.attn_norm.weight, ", "m.gguf");
  model.set("llama.attention.head_count", std::vector<int32_t>(513, 4));
  expect_error([&] { return read_model_spec(parse_file(model.bytes())); }, ErrorCode::kBadFile,
               "missing tensors of llama", "m.gguf");
  model.set("llama.block_count", uint32_t{1025});
  expect_error([&] { return read_model_spec(parse_file(model.bytes())); }, ErrorCode::kBadFile,
               "wanted 1 to 1024, found 1025", "m.gguf: key llama.block_count");
}

// gguf-py 27188: a length of 2^63 in a file of 43 bytes was read for ever.
TEST(KnownAttacks, LengthOfTwoToThe63InASmallFile) {
  RawGguf raw;
  raw.header(0, 1).u64(uint64_t{1} << 63).zeros(11);
  ASSERT_EQ(raw.bytes().size(), 43u);
  expect_bad(raw, "key: wanted a length of at most 65535 bytes, found 9223372036854775808",
             "key number 1, offset 24");
}

// openvino.genai 4170: the only bound on the dimensions was an assert.
TEST(KnownAttacks, NineDimensions) {
  expect_bad(RawGguf().header(1, 0).string("t").u32(9).zeros(128),
             "wanted 1 to 4 dimensions, found 9", "tensor t, offset 33");
}

}  // namespace
}  // namespace strata::engine

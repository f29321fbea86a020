#include "engine/gguf/gguf_head.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::RawGguf;

constexpr uint32_t kF32 = 0, kQ8_0 = 8;
constexpr uint64_t kMost = ~uint64_t{0};

GgufFile parse(const std::vector<std::byte>& bytes, uint64_t file_bytes) {
  return GgufFile::parse(bytes, file_bytes, "m.gguf");
}
GgufFile parse(const RawGguf& raw) { return parse(raw.bytes(), raw.bytes().size()); }

void expect_bad(const RawGguf& raw, std::string_view message, std::string_view where) {
  expect_error([&] { return parse(raw); }, ErrorCode::kBadFile, message, where);
}

/// A head whose only key is `general.alignment`, up to its value.
RawGguf alignment_key(uint64_t n_tensors, uint32_t type) {
  RawGguf raw;
  raw.header(n_tensors, 1).string("general.alignment").u32(type);
  return raw;
}

/// A file with one tensor of type F32 and 64 bytes of tensor bytes behind the head.
RawGguf one_tensor(const std::vector<uint64_t>& shape, uint32_t type, uint64_t offset) {
  RawGguf raw;
  raw.header(1, 0).tensor("t", shape, type, offset);
  return raw.zeros(64 - raw.bytes().size() % 32);
}

TEST(GgufHead, TakesAFileOfNothing) {
  for (const uint32_t version : {2u, 3u}) {
    const GgufFile file = parse(RawGguf().header(0, 0, version));
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.alignment(), 32u);
    EXPECT_TRUE(file.tensors().empty());
    EXPECT_TRUE(file.metadata().empty());
  }
}

TEST(GgufHead, RefusesWhatIsNoGguf) {
  expect_bad(RawGguf(), "truncated: wanted 8 bytes of magic and version, found 0",
             "m.gguf: magic, offset 0");
  expect_bad(RawGguf().text("PK\x03\x04____________________"),
             "not a GGUF file: wanted the bytes 47 47 55 46, found 50 4b 03 04", "magic, offset 0");
  expect_bad(RawGguf().text("GGUF").u32(3).u64(0),
             "truncated: wanted 8 bytes of key count, found 0", "m.gguf: header, offset 16");
}

TEST(GgufHead, RefusesOtherVersions) {
  for (const uint32_t version : {0u, 1u, 4u})
    expect_bad(RawGguf().header(0, 0, version),
               "wanted version 2 or 3, found " + std::to_string(version), "version, offset 4");
  expect_bad(RawGguf().header(0, 0, 3u << 24),
             "wanted a little-endian file, found a big-endian one (version 3)", "offset 4");
}

TEST(GgufHead, RefusesCountsThatTheFileCannotHold) {
  expect_bad(RawGguf().header(kMost, 0),
             "tensor count: wanted at most 262144, found 18446744073709551615", "header, offset 8");
  expect_bad(RawGguf().header(0, kMost),
             "key count: wanted at most 65536, found 18446744073709551615", "header, offset 16");
  expect_bad(RawGguf().header(0, kMost / 14 + 1), "key count: wanted at most 65536", "offset 16");
  expect_bad(RawGguf().header(2, 0).zeros(41),
             "truncated: wanted 2 tensors of at least 33 bytes each, found 49 bytes", "offset 8");
  expect_bad(RawGguf().header(0, 2).zeros(27),
             "truncated: wanted 2 keys of at least 14 bytes each, found 27 bytes", "offset 16");
}

TEST(GgufHead, RefusesBadKeys) {
  expect_bad(RawGguf().header(0, 1).u64(0).u32(4).u32(1),
             "wanted a key of at least one byte, found an empty one", "offset 24");
  expect_bad(RawGguf().header(0, 1).u64(kMost).zeros(20),
             "key: wanted a length of at most 65535 bytes, found 18446744073709551615",
             "key number 1, offset 24");
  expect_bad(RawGguf().header(0, 1).u64(65536).zeros(65560),
             "key: wanted a length of at most 65535 bytes, found 65536", "offset 24");
  expect_bad(RawGguf().header(0, 1).u64(40).zeros(20),
             "truncated: wanted 40 bytes of key, found 20", "key number 1, offset 32");
  expect_bad(RawGguf().header(0, 2).uint_key("a.b", 1).uint_key("a.b", 2), "the key appears twice",
             "m.gguf: key a.b, offset 43");
  expect_bad(RawGguf().header(0, 1).string("k").u32(13).u64(0),
             "wanted a value type from 0 to 12, found 13", "key k, offset 33");
  expect_bad(RawGguf().header(0, 1).string("k").u32(kMost & 0xffffffff).u64(0), "found 4294967295",
             "key k, offset 33");
}

TEST(GgufHead, TakesTheLongestKey) {
  const std::string key(65535, 'k');
  EXPECT_EQ(parse(RawGguf().header(0, 1).uint_key(key, 7)).get_uint(key), 7u);
}

TEST(GgufHead, RefusesBadValues) {
  const auto key = [] { return RawGguf().header(0, 1).string("k"); };
  expect_bad(key().u32(10).u32(0), "truncated: wanted 1 values of u64, found 4 bytes",
             "key k, offset 37");
  expect_bad(key().u32(8).u64(kMost).zeros(9),
             "string: wanted a length of at most 67108864 bytes, found 18446744073709551615",
             "key k, offset 37");
  expect_bad(key().u32(8).u64(uint64_t{1} << 63).zeros(9), "found 9223372036854775808",
             "offset 37");
  expect_bad(key().u32(8).u64(uint64_t{1} << 30).zeros(100), "found 1073741824", "offset 37");
  expect_bad(key().u32(8).u64(uint64_t{1} << 26).zeros(100),
             "truncated: wanted 67108864 bytes of string, found 100", "offset 45");
  expect_error([&] { return parse(key().u32(9).u32(9).u64(1).u32(9).u32(0).u64(0)); },
               ErrorCode::kUnsupported, "found an array of arrays", "m.gguf: key k, offset 37");
  expect_bad(key().u32(9).u32(13).u64(0), "wanted a value type from 0 to 12, found 13",
             "offset 37");
}

TEST(GgufHead, RefusesArraysThatTheFileCannotHold) {
  const auto array = [](uint32_t type, uint64_t count) {
    return RawGguf().header(0, 1).string("k").u32(9).u32(type).u64(count).zeros(64);
  };
  expect_bad(array(4, uint64_t{1} << 61),
             "wanted at most 16777216 values in all, found 2305843009213", "key k, offset 41");
  expect_bad(array(0, kMost), "wanted at most 16777216 values in all", "offset 41");
  expect_bad(array(0, 65), "truncated: wanted 65 values of u8, found 64 bytes", "offset 49");
  expect_bad(array(4, 17), "truncated: wanted 17 values of u32, found 64 bytes", "offset 49");
  expect_bad(array(12, 9), "truncated: wanted 9 values of f64, found 64 bytes", "offset 49");
  expect_bad(array(8, 9), "truncated: wanted 9 values of string, found 64 bytes", "offset 49");
  EXPECT_EQ(parse(array(8, 8)).get_strings("k")->size(), 8u);  // eight empty strings
  EXPECT_EQ(parse(array(12, 0)).find("k")->size(), 0u);
}

TEST(GgufHead, CountsValuesOverAllKeys) {
  constexpr uint64_t kHalf = kGgufElementsMax / 2;
  const auto two_arrays = [](uint64_t second) {
    RawGguf raw;
    raw.header(0, 2).string("a").u32(9).u32(0).u64(kHalf).zeros(kHalf);
    return raw.string("b").u32(9).u32(0).u64(second).zeros(second);
  };
  EXPECT_EQ(parse(two_arrays(kHalf)).find("b")->size(), kHalf);
  expect_bad(two_arrays(kHalf + 1),
             "wanted at most 16777216 values in all, found 8388609 after 8388608", "key b, ");
}

TEST(GgufHead, RefusesOtherAlignments) {
  for (const uint32_t alignment : {0u, 1u, 3u, 4u, 12u, 33u, 1u << 21, 1u << 30, 1u << 31})
    expect_bad(alignment_key(0, 4).u32(alignment),
               "wanted a power of two from 8 to 1048576, found " + std::to_string(alignment),
               "m.gguf: key general.alignment, offset 53");
  expect_bad(alignment_key(0, 10).u64(uint64_t{1} << 63), "found 9223372036854775808", "offset 53");
  expect_bad(alignment_key(0, 5).u32(static_cast<uint32_t>(-32)), "found -32", "offset 53");
}

TEST(GgufHead, RefusesAlignmentsThatAreNoInteger) {
  expect_bad(alignment_key(0, 8).string("32"), "wanted an integer, found string",
             "key general.alignment, offset 53");
  expect_bad(alignment_key(0, 6).u32(0x42000000), "wanted an integer, found f32", "offset 53");
  expect_bad(alignment_key(0, 7).u8(1), "wanted an integer, found bool", "offset 53");
  expect_bad(alignment_key(0, 9).u32(4).u64(1).u32(32), "wanted an integer, found an array of u32",
             "offset 65");
}

TEST(GgufHead, AlignsTensorBytesAsTheFileSays) {
  for (const uint64_t alignment : {8u, 32u, 64u, 1u << 20}) {
    RawGguf raw = alignment_key(2, 4);
    raw.u32(static_cast<uint32_t>(alignment));
    raw.tensor("a", {2}, kF32, 0).tensor("b", {2}, kF32, alignment);
    const uint64_t begin = (raw.bytes().size() + alignment - 1) / alignment * alignment;
    const uint64_t file_bytes = begin + alignment + 8;
    const GgufFile file = parse(raw.bytes(), file_bytes);
    EXPECT_EQ(file.alignment(), alignment);
    EXPECT_EQ(file.find_tensor("a")->file_offset, begin);
    EXPECT_EQ(file.find_tensor("b")->file_offset, begin + alignment);
    EXPECT_EQ(file.find_tensor("b")->bytes, 8u);
    // One byte less, and tensor b is not all there: padding behind the last tensor is not asked
    // for.
    expect_error([&] { return parse(raw.bytes(), file_bytes - 1); }, ErrorCode::kBadFile,
                 "truncated: wanted 8 bytes at " + std::to_string(alignment) +
                     " of the data section, found a file of " + std::to_string(file_bytes - 1),
                 "tensor b, offset " + std::to_string(begin + alignment));
  }
  // i32, u64 and u8 say the same as u32.
  EXPECT_EQ(parse(alignment_key(0, 5).u32(64)).alignment(), 64u);
  EXPECT_EQ(parse(alignment_key(0, 10).u64(64)).alignment(), 64u);
  EXPECT_EQ(parse(alignment_key(0, 0).u8(64)).alignment(), 64u);
}

TEST(GgufHead, RefusesBadTensorNames) {
  const auto named = [](const std::string& name) {
    return RawGguf().header(1, 0).tensor(name, {1}, kF32, 0).zeros(64);
  };
  expect_bad(named(""), "wanted a name of at least one byte, found an empty one", "offset 24");
  expect_bad(named(std::string(65, 'n')),
             "tensor name: wanted a length of at most 64 bytes, found 65",
             "tensor number 1, offset 24");
  EXPECT_EQ(parse(named(std::string(64, 'n'))).tensors().front().name.size(), 64u);
  expect_bad(RawGguf().header(1, 0).u64(kMost).zeros(64), "found 18446744073709551615",
             "offset 24");
  RawGguf twice;
  twice.header(2, 0).tensor("t", {1}, kF32, 0).tensor("t", {1}, kF32, 32).zeros(96);
  expect_bad(twice, "the tensor appears twice", "m.gguf: tensor t, offset 57");
}

TEST(GgufHead, RefusesBadShapes) {
  const auto dims = [](uint32_t n_dims) {
    return RawGguf().header(1, 0).string("t").u32(n_dims).zeros(128);
  };
  for (const uint32_t n_dims : {0u, 5u, 9u, 0xffffffffu})
    expect_bad(dims(n_dims), "wanted 1 to 4 dimensions, found " + std::to_string(n_dims),
               "tensor t, offset 33");
  expect_bad(one_tensor({0, 1}, kF32, 0), "wanted dimensions of at least 1, found 0",
             "tensor t, offset 37");
  expect_bad(one_tensor({1, 0}, kF32, 0), "wanted dimensions of at least 1, found 0",
             "tensor t, offset 45");
  expect_bad(one_tensor({uint64_t{1} << 32, uint64_t{1} << 32}, kF32, 0),
             "the product of the dimensions does not fit 63 bits", "tensor t, offset 53");
  expect_bad(one_tensor({uint64_t{1} << 63}, kF32, 0), "does not fit 63 bits", "tensor t");
  expect_bad(one_tensor({1, 1, 1, kMost}, kF32, 0), "does not fit 63 bits", "tensor t");
  expect_bad(one_tensor({33}, kQ8_0, 0),
             "wanted rows of a multiple of 32 elements (Q8_0), found 33", "tensor t, offset 45");
  expect_bad(one_tensor({128, 2}, 12, 0),
             "wanted rows of a multiple of 256 elements (Q4_K), found 128", "tensor t");
}

TEST(GgufHead, RefusesTypesItCannotDecodeByName) {
  const auto typed = [](uint32_t type) { return one_tensor({32}, type, 0); };
  const std::string known =
      "wanted a tensor type of F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K "
      "IQ4_NL IQ4_XS, found ";
  for (const auto& [number, name] : {std::pair(16u, "IQ2_XXS"), std::pair(39u, "MXFP4"),
                                     std::pair(4u, "unknown"), std::pair(0xffffffffu, "unknown")})
    expect_error([&, n = number] { return parse(typed(n)); }, ErrorCode::kUnsupported,
                 known + name + " (number " + std::to_string(number) + ")",
                 "m.gguf: tensor t, offset 45");
}

TEST(GgufHead, RefusesTensorsOutsideTheFile) {
  RawGguf raw = one_tensor({16}, kF32, 0);  // the head ends at 57, 64 bytes of tensor from 64
  ASSERT_EQ(raw.bytes().size(), 96u);
  EXPECT_EQ(parse(raw.zeros(32)).tensors().front().file_offset, 64u);
  expect_error([&] { return parse(raw.bytes(), 127); }, ErrorCode::kBadFile,
               "truncated: wanted 64 bytes at 0 of the data section, found a file of 127 bytes",
               "m.gguf: tensor t, offset 64");
  expect_bad(one_tensor({1}, kF32, 16), "wanted an offset that is a multiple of 32, found 16",
             "tensor t, offset 49");
  expect_bad(one_tensor({1}, kF32, 32), "truncated: wanted 4 bytes at 32", "tensor t, offset 96");
  expect_bad(one_tensor({1}, kF32, kMost - 31), "truncated: wanted 4 bytes at 18446744073709551584",
             "tensor t, offset 57");
}

TEST(GgufHead, RefusesSizesThatWrap) {
  // Padding 2^64 - 4 bytes to 32 gives 0.
  expect_bad(one_tensor({(uint64_t{1} << 62) - 1}, kF32, 0),
             "truncated: wanted 18446744073709551612 bytes", "tensor t, offset 64");
  // Elements times bytes of a block, over the blocks' elements, wraps where it multiplies first.
  expect_bad(one_tensor({(uint64_t{1} << 42) + 1}, kQ8_0, 0), "wanted rows of a multiple of 32",
             "tensor t");
  expect_bad(one_tensor({(uint64_t{1} << 42) + 32}, kQ8_0, 0),
             "truncated: wanted 4672924418082 bytes", "tensor t");
  expect_bad(one_tensor({uint64_t{1} << 62}, kF32, 0), "the tensor's size does not fit 64 bits",
             "tensor t, offset 45");
  // Dimensions whose product passes 2^31, which a reader with int sizes cuts to a small number.
  expect_bad(one_tensor({65536, 65537}, kF32, 0), "truncated: wanted 17180131328 bytes",
             "tensor t");
  // Many tensors whose sizes sum to 2^64.
  RawGguf many;
  many.header(4, 0);
  for (const char* name : {"a", "b", "c", "d"}) many.tensor(name, {uint64_t{1} << 60}, kF32, 0);
  expect_bad(many.zeros(600), "truncated: wanted 4611686018427387904 bytes", "tensor a");
  // 4 MiB announced by a file of 96 bytes.
  expect_bad(one_tensor({1 << 20}, kF32, 0), "truncated: wanted 4194304 bytes", "tensor t");
}

TEST(GgufHead, RefusesTensorsThatShareBytes) {
  const auto two = [](uint64_t offset_a, uint64_t offset_b) {
    RawGguf raw;
    raw.header(2, 0).tensor("a", {16}, kF32, offset_a).tensor("b", {8}, kF32, offset_b);
    return raw.zeros(96 - raw.bytes().size()).zeros(192);
  };
  EXPECT_EQ(parse(two(0, 64)).tensors().size(), 2u);
  EXPECT_EQ(parse(two(32, 0)).tensors().size(), 2u);   // any order
  EXPECT_EQ(parse(two(0, 128)).tensors().size(), 2u);  // gaps
  expect_bad(two(0, 32), "overlaps tensor a, which ends at 160", "m.gguf: tensor b, offset 128");
  expect_bad(two(0, 0), "overlaps tensor a, which ends at 160", "m.gguf: tensor b, offset 96");
  expect_bad(two(64, 96), "overlaps tensor a, which ends at 224", "m.gguf: tensor b, offset 192");
}

/// A sparse file: one array of four strings of the greatest length, all zeros.
class SparseHead final : public GgufBytes {
 public:
  SparseHead() : GgufBytes("m.gguf", kGgufHeadBytesMax * 2, kGgufHeadBytesMax * 2) {
    raw_.header(0, 1).string("k").u32(9).u32(8).u64(4);
  }
  void read(uint64_t offset, std::span<std::byte> out) override {
    const std::vector<std::byte>& begin = raw_.bytes();
    std::ranges::fill(out, std::byte{0});
    if (offset < begin.size())
      std::ranges::copy(std::span(begin).subspan(offset, out.size()), out.begin());
    else if (out.size() == sizeof(uint64_t) && (offset - begin.size()) % kStringBytes == 0)
      std::memcpy(out.data(), &kGgufStringBytesMax, out.size());
  }

 private:
  static constexpr uint64_t kStringBytes = sizeof(uint64_t) + kGgufStringBytesMax;
  RawGguf raw_;
};

TEST(GgufHead, RefusesAHeadOfMoreThanItsLimit) {
  SparseHead head;
  expect_error([&] { return read_gguf_head(head); }, ErrorCode::kBadFile,
               "the head is too large: string ends past 268435456 bytes", "m.gguf: key k, offset");
}

TEST(GgufHead, ShowsNoControlBytesOfAFile) {
  expect_bad(RawGguf().header(0, 1).string("a\x1b[2J\n\xff").u32(13).u64(0), "found 13",
             "key a?[2J??, offset");
  EXPECT_EQ(printable(std::string(100, 'x')), std::string(80, 'x').append("..."));
}

TEST(GgufHead, NamesItsTypes) {
  EXPECT_EQ(gguf_type_name(0), "u8");
  EXPECT_EQ(gguf_type_name(8), "string");
  EXPECT_EQ(gguf_type_name(12), "f64");
  EXPECT_EQ(gguf_type_name(13), "unknown");
}

}  // namespace
}  // namespace strata::engine

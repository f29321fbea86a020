#include "engine/gguf/gguf_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/gguf/gguf_file.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::RawGguf;
using testing::TestFolder;

TEST(GgufWriter, WritesTheFormatByteForByte) {
  const std::vector<float> values = {1, 2};
  const std::vector<float> others = {3};
  GgufWriter writer;
  writer.add_uint("a", 7);
  writer.add_strings("s", {"x", ""});
  writer.add_tensor("t", TensorType::kF32, {2}, std::as_bytes(std::span(values)));
  writer.add_tensor("u", TensorType::kF32, {1, 1}, std::as_bytes(std::span(others)));
  RawGguf wanted;
  wanted.header(2, 2).uint_key("a", 7);
  wanted.string("s").u32(9).u32(8).u64(2).string("x").string("");
  wanted.tensor("t", {2}, 0, 0).tensor("u", {1, 1}, 0, 32);
  wanted.zeros(160 - wanted.bytes().size());
  wanted.u32(0x3f800000).u32(0x40000000).zeros(24).u32(0x40400000).zeros(28);
  EXPECT_EQ(writer.serialise(), wanted.bytes());
}

TEST(GgufWriter, EveryKindOfKeyComesBack) {
  GgufWriter writer;
  writer.add_uint("uint", 0xffffffff);
  writer.add_u64("u64", ~uint64_t{0});
  writer.add_real("real", -0.5f);
  writer.add_bool("yes", true);
  writer.add_bool("no", false);
  writer.add_string("string", std::string("text with \0 inside", 18));
  writer.add_strings("strings", {"a", "", "ccc"});
  writer.add_ints("ints", {-1, 0, 2147483647});
  writer.add_reals("reals", {0.25f, -3});
  writer.add_bools("bools", {true, false});
  writer.add_ints("none", {});
  const std::vector<std::byte> bytes = writer.serialise();
  const GgufFile file = testing::parse_file(bytes);
  EXPECT_EQ(file.get_uint("uint"), 0xffffffffu);
  EXPECT_EQ(file.get_uint("u64"), ~uint64_t{0});
  EXPECT_EQ(file.get_real("real"), -0.5);
  EXPECT_EQ(file.get_bool("yes"), true);
  EXPECT_EQ(file.get_bool("no"), false);
  EXPECT_EQ(file.get_string("string"), std::string_view("text with \0 inside", 18));
  EXPECT_EQ(*file.get_strings("strings"), (std::vector<std::string>{"a", "", "ccc"}));
  EXPECT_EQ(file.get_reals("ints"), (std::vector<double>{-1, 0, 2147483647}));
  EXPECT_EQ(file.get_reals("reals"), (std::vector<double>{0.25, -3}));
  EXPECT_EQ(std::get<GgufValue::Integers>(file.find("bools")->values),
            (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(file.find("none")->size(), 0u);
  ASSERT_EQ(file.metadata().size(), 11u);
  EXPECT_EQ(file.metadata()[0].first, "uint");  // in the order of the calls
  EXPECT_EQ(file.metadata()[10].first, "none");
}

TEST(GgufWriter, AlignsAsItsKeySays) {
  const std::vector<float> values = {1};
  for (const uint32_t alignment : {8u, 64u, 4096u}) {
    GgufWriter writer;
    writer.add_uint("general.alignment", alignment);
    writer.add_tensor("a", TensorType::kF32, {1}, std::as_bytes(std::span(values)));
    writer.add_tensor("b", TensorType::kF32, {1}, std::as_bytes(std::span(values)));
    const std::vector<std::byte> bytes = writer.serialise();
    const GgufFile file = testing::parse_file(bytes);
    EXPECT_EQ(file.alignment(), alignment);
    EXPECT_EQ(file.tensors()[0].file_offset % alignment, 0u);
    EXPECT_EQ(file.tensors()[1].file_offset, file.tensors()[0].file_offset + alignment);
    EXPECT_EQ(bytes.size(), file.tensors()[1].file_offset + alignment);
  }
}

TEST(GgufWriter, EveryTensorTypeComesBack) {
  std::vector<std::vector<std::byte>> held;
  GgufWriter writer;
  for (const TensorTypeInfo& info : tensor_types()) {
    held.emplace_back(tensor_row_bytes(info.type, 256) * 3, std::byte{0x5a});
    writer.add_tensor(std::string(info.name), info.type, {256, 3}, held.back());
  }
  const std::vector<std::byte> bytes = writer.serialise();
  const GgufFile file = testing::parse_file(bytes);
  for (const TensorTypeInfo& info : tensor_types()) {
    const GgufTensor* tensor = file.find_tensor(info.name);
    ASSERT_NE(tensor, nullptr) << info.name;
    EXPECT_EQ(tensor->type, info.type);
    EXPECT_EQ(tensor->bytes, tensor_row_bytes(info.type, 256) * 3);
    EXPECT_EQ(bytes[tensor->file_offset + tensor->bytes - 1], std::byte{0x5a});
  }
}

TEST(GgufWriter, WritesToAFileWhatItSerialises) {
  const testing::SmallModel model = testing::make_small_model();
  const TestFolder folder;
  const std::string path = folder.path("m.gguf");
  model.writer().write(path);
  std::ifstream file(path, std::ios::binary);
  const std::string found((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::vector<std::byte> wanted = model.bytes();
  ASSERT_EQ(found.size(), wanted.size());
  EXPECT_EQ(std::memcmp(found.data(), wanted.data(), wanted.size()), 0);
}

TEST(GgufWriter, AnnouncesTensorsThatItDoesNotWrite) {
  constexpr uint64_t kRows = uint64_t{1} << 31;  // 128 GiB of them
  GgufWriter writer;
  writer.add_string("general.architecture", "llama");
  writer.add_generated_tensor("large", TensorType::kF32, {16, kRows},
                              [](uint64_t, std::span<std::byte>) { FAIL() << "a row is made"; });
  const std::vector<std::byte> bytes(64);
  writer.add_tensor("small", TensorType::kF32, {16}, bytes);
  const TestFolder folder;
  const std::string path = folder.path("m.gguf");
  writer.write_announced(path);
  const GgufFile file = GgufFile::open(path);
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].bytes, 64 * kRows);
  const uint64_t end = file.tensors()[1].file_offset + file.tensors()[1].bytes;
  EXPECT_EQ(std::filesystem::file_size(path), end);
}

TEST(GgufWriter, SaysWhyItCannotWrite) {
  const testing::SmallModel model = testing::make_small_model();
  const TestFolder folder;
  const std::string path = folder.path("no folder/m.gguf");
  expect_error([&] { model.writer().write(path); }, ErrorCode::kIo,
               "cannot create the file: No such file or directory", path);
  // A device without room: the write fails, or the last of it when the file is closed.
  expect_error([&] { model.writer().write("/dev/full"); }, ErrorCode::kIo,
               "the file: No space left on device", "/dev/full");
}

TEST(GgufWriterDeathTest, RefusesTensorsThatAreNotWhatTheySay) {
  const std::vector<std::byte> bytes(64);
  GgufWriter writer;
  EXPECT_DEATH(writer.add_tensor("t", TensorType::kF32, {15}, bytes), "wanted 60 bytes, found 64");
  EXPECT_DEATH(writer.add_tensor("", TensorType::kF32, {16}, bytes), "a name of 0 bytes");
  EXPECT_DEATH(writer.add_tensor(std::string(64, 'n'), TensorType::kF32, {16}, bytes), "64 bytes");
  EXPECT_DEATH(writer.add_tensor("t", TensorType::kF32, {}, bytes), "0 dimensions");
  writer.add_uint("general.alignment", 12);
  EXPECT_DEATH(writer.serialise(), "an alignment of 12");
}

}  // namespace
}  // namespace strata::engine

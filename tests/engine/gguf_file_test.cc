#include "engine/gguf/gguf_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/inspect.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/thrown_error.h"
#include "tests/sanitizer.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::make_small_model;
using testing::parse_file;
using testing::RawGguf;
using testing::SmallModel;
using testing::SmallModelOptions;
using testing::TestFolder;

/// A model of one layer and eight dimensions: a head of 2 KB.
SmallModelOptions smallest() {
  return {.n_layers = 1, .d_model = 8, .n_heads = 1, .n_kv_heads = 1, .d_ff = 8, .vocab_size = 4};
}

uint64_t head_bytes_of(const std::vector<std::byte>& bytes) {
  return parse_file(bytes).tensors().front().file_offset;
}

TEST(GgufFile, HoldsWhatTheWriterWrote) {
  const std::vector<std::byte> bytes = make_small_model().bytes();
  const TestFolder folder;
  const std::string path = folder.write("m.gguf", bytes);
  const GgufFile file = GgufFile::open(path);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.file_bytes(), bytes.size());
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.n_shards(), 1u);
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  const GgufTensor* tensor = file.find_tensor("blk.1.attn_k.weight");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (std::vector<uint64_t>{32, 16}));
  EXPECT_EQ(tensor->n_rows(), 16u);
  EXPECT_EQ(tensor->bytes, 32u * 16u * 4u);
  EXPECT_EQ(file.find_tensor("blk.2.attn_k.weight"), nullptr);
  std::vector<float> values(4);
  file.read(*tensor, 16, std::as_writable_bytes(std::span(values)));
  EXPECT_EQ(values, std::vector<float>(4, 0.5f));
}

TEST(GgufFile, ReadsHeadsLargerThanItsWindow) {
  // 64 KiB at first and 4 MiB at most are read at a time: strings that cross both, and one above.
  std::vector<std::string> strings;
  for (size_t i = 0; i < 20000; ++i) strings.emplace_back(i % 300, static_cast<char>('a' + i % 26));
  std::string longest(5 << 20, 'x');
  for (size_t i = 0; i < longest.size(); i += 997) longest[i] = static_cast<char>('A' + i % 26);
  std::vector<int32_t> integers(1 << 17);
  for (size_t i = 0; i < integers.size(); ++i) integers[i] = static_cast<int32_t>(i * 7919);
  SmallModel model = make_small_model();
  model.set("integers", integers);
  model.set("strings", strings);
  model.set("longest", longest);
  model.set("last", uint32_t{77});
  const TestFolder folder;
  const GgufFile file = GgufFile::open(folder.write("m.gguf", model.bytes()));
  EXPECT_TRUE(*file.get_strings("strings") == strings);
  EXPECT_TRUE(file.get_string("longest") == longest);
  EXPECT_TRUE(file.get_uints("integers") ==
              std::vector<uint64_t>(integers.begin(), integers.end()));
  EXPECT_EQ(file.get_uint("last"), 77u);
  EXPECT_TRUE(inspect_model(file).can_run);
}

TEST(GgufFile, ReadsFieldsWhereverItsWindowEnds) {
  const TestFolder folder;
  for (uint64_t i = 0; i < 54; ++i) {  // 64 KiB end in every byte of the two keys
    RawGguf raw;
    raw.header(0, 3).string("pad").u32(8).string(std::string(65536 - 100 + i, 'p'));
    raw.uint_key("abcdefgh", 0x12345678).uint_key("ijklmnop", 0x9abcdef0);
    const GgufFile file = GgufFile::open(folder.write("m.gguf", raw.bytes()));
    EXPECT_EQ(file.get_uint("abcdefgh"), 0x12345678u) << i;
    EXPECT_EQ(file.get_uint("ijklmnop"), 0x9abcdef0u) << i;
  }
}

TEST(GgufFile, TakesVersionTwo) {
  std::vector<std::byte> bytes = make_small_model().bytes();
  bytes[4] = std::byte{2};
  EXPECT_EQ(parse_file(bytes).version(), 2u);
  EXPECT_TRUE(inspect_model(parse_file(bytes)).can_run);
}

TEST(GgufFile, RefusesWhatIsNoFile) {
  const TestFolder folder;
  expect_error([&] { return GgufFile::open(folder.path("absent.gguf")); }, ErrorCode::kIo,
               "cannot open the file: No such file or directory", folder.path("absent.gguf"));
  expect_error([&] { return GgufFile::open(folder.path("")); }, ErrorCode::kIo,
               "wanted a regular file, found a directory or device", folder.path(""));
  const std::string fifo = folder.path("fifo.gguf");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_error([&] { return GgufFile::open(fifo); }, ErrorCode::kIo, "wanted a regular file", fifo);
  expect_error([&] { return GgufFile::open(folder.write("empty.gguf", "")); }, ErrorCode::kBadFile,
               "truncated: wanted 8 bytes of magic and version, found 0", "empty.gguf");
}

TEST(GgufFile, CutShortWhileItIsOpenIsAnError) {
  const TestFolder folder;
  const std::string path = folder.write("m.gguf", make_small_model().bytes());
  const GgufFile file = GgufFile::open(path);
  const GgufTensor& last = file.tensors().back();
  std::filesystem::resize_file(path, last.file_offset + 10);
  std::vector<std::byte> bytes(last.bytes);
  expect_error(
      [&] { file.read(last, 0, bytes); }, ErrorCode::kIo,
      "found the end of the file: it was cut short after it was opened",
      path + ": tensor " + last.name + ", offset " + std::to_string(last.file_offset + 10));
}

TEST(GgufFile, ParsedFromMemoryHasNoTensorBytes) {
  const GgufFile file = parse_file(make_small_model().bytes());
  std::vector<std::byte> bytes(4);
  expect_error([&] { file.read(file.tensors().front(), 0, bytes); }, ErrorCode::kIo,
               "there is no file to read from", "m.gguf: tensor token_embd.weight, offset ");
}

TEST(GgufFileDeathTest, ReadsOnlyInsideATensor) {
  const GgufFile file = parse_file(make_small_model().bytes());
  const GgufTensor& tensor = file.tensors().front();
  std::vector<std::byte> bytes(8);
  EXPECT_DEATH(file.read(tensor, tensor.bytes - 7, bytes), "8 bytes of a tensor");
  EXPECT_DEATH(file.read(tensor, ~uint64_t{0}, bytes), "8 bytes of a tensor");
}

/// One key of every type, written by hand.
GgufFile file_of_all_types() {
  RawGguf raw;
  raw.header(0, 20);
  raw.string("u8").u32(0).u8(200).string("i8").u32(1).u8(200);
  raw.string("u16").u32(2).u8(1).u8(2).string("i16").u32(3).u8(0xff).u8(0xff);
  raw.string("u32").u32(4).u32(4000000000).string("i32").u32(5).u32(4000000000);
  raw.string("f32").u32(6).u32(0x3fc00000).string("bool").u32(7).u8(3);
  raw.string("string").u32(8).string("text").string("u64").u32(10).u64(~uint64_t{0});
  raw.string("i64").u32(11).u64(~uint64_t{0}).string("f64").u32(12).u64(0x3ff8000000000000);
  raw.string("i64 max").u32(11).u64(INT64_MAX);
  raw.string("u16s").u32(9).u32(2).u64(2).u8(1).u8(0).u8(2).u8(0);
  raw.string("i8s").u32(9).u32(1).u64(2).u8(1).u8(0xff);
  raw.string("f32s").u32(9).u32(6).u64(2).u32(0x3f800000).u32(0xc0000000);
  raw.string("bools").u32(9).u32(7).u64(2).u8(0).u8(9);
  raw.string("strings").u32(9).u32(8).u64(2).string("a").string("");
  raw.string("u64s").u32(9).u32(10).u64(1).u64(uint64_t{1} << 63);
  raw.string("none").u32(9).u32(8).u64(0);
  return parse_file(raw.bytes());
}

TEST(GgufFile, GivesIntegersOfEveryWidth) {
  const GgufFile file = file_of_all_types();
  EXPECT_EQ(file.get_uint("u8"), 200u);
  EXPECT_EQ(file.get_uint("u16"), 513u);
  EXPECT_EQ(file.get_uint("u32"), 4000000000u);
  EXPECT_EQ(file.get_uint("u64"), ~uint64_t{0});
  EXPECT_EQ(file.get_uint("i64 max"), uint64_t{INT64_MAX});
  EXPECT_EQ(file.get_uint("absent"), std::nullopt);
  for (const auto& [key, value] : {std::pair("i8", "-56"), std::pair("i16", "-1"),
                                   std::pair("i32", "-294967296"), std::pair("i64", "-1")})
    expect_error([&, k = key] { return file.get_uint(k); }, ErrorCode::kBadFile,
                 std::string("wanted an integer of at least 0, found ") + value,
                 std::string("m.gguf: key ") + key);
  for (const auto& [key, found] :
       {std::pair("f32", "f32"), std::pair("f64", "f64"), std::pair("bool", "bool"),
        std::pair("string", "string"), std::pair("u16s", "an array of u16")})
    expect_error([&, k = key] { return file.get_uint(k); }, ErrorCode::kBadFile,
                 std::string("wanted an integer, found ") + found,
                 std::string("m.gguf: key ") + key);
}

TEST(GgufFile, GivesNumbersAsReals) {
  const GgufFile file = file_of_all_types();
  EXPECT_EQ(file.get_real("f32"), 1.5);
  EXPECT_EQ(file.get_real("f64"), 1.5);
  EXPECT_EQ(file.get_real("i8"), -56.0);
  EXPECT_EQ(file.get_real("u64"), 0x1p64);
  EXPECT_EQ(file.get_real("absent"), std::nullopt);
  for (const auto& [key, found] : {std::pair("bool", "bool"), std::pair("string", "string"),
                                   std::pair("f32s", "an array of f32")})
    expect_error([&, k = key] { return file.get_real(k); }, ErrorCode::kBadFile,
                 std::string("wanted a number, found ") + found, std::string("key ") + key);
}

TEST(GgufFile, GivesBoolsAndStringsOfTheirTypeOnly) {
  const GgufFile file = file_of_all_types();
  EXPECT_EQ(file.get_bool("bool"), true);  // any byte but 0
  EXPECT_EQ(file.get_string("string"), "text");
  EXPECT_EQ(file.get_bool("absent"), std::nullopt);
  EXPECT_EQ(file.get_string("absent"), std::nullopt);
  for (const auto& [key, found] : {std::pair("u8", "u8"), std::pair("bools", "an array of bool")})
    expect_error([&, k = key] { return file.get_bool(k); }, ErrorCode::kBadFile,
                 std::string("wanted a bool, found ") + found, std::string("key ") + key);
  for (const auto& [key, found] :
       {std::pair("u8", "u8"), std::pair("strings", "an array of string")})
    expect_error([&, k = key] { return file.get_string(k); }, ErrorCode::kBadFile,
                 std::string("wanted a string, found ") + found, std::string("key ") + key);
}

TEST(GgufFile, GivesArraysOfTheirTypeOnly) {
  const GgufFile file = file_of_all_types();
  EXPECT_EQ(file.get_uints("u16s"), (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(file.get_uints("u64s"), (std::vector<uint64_t>{uint64_t{1} << 63}));
  EXPECT_EQ(file.get_uints("u8"), (std::vector<uint64_t>{200}));
  EXPECT_EQ(file.get_reals("f32s"), (std::vector<double>{1.0, -2.0}));
  EXPECT_EQ(file.get_reals("i8s"), (std::vector<double>{1.0, -1.0}));
  EXPECT_EQ(*file.get_strings("strings"), (std::vector<std::string>{"a", ""}));
  EXPECT_TRUE(file.get_strings("none")->empty());
  EXPECT_EQ(file.get_uints("absent"), std::nullopt);
  EXPECT_EQ(file.get_reals("absent"), std::nullopt);
  EXPECT_EQ(file.get_strings("absent"), nullptr);
  const auto refuses = [&](auto get, const std::string& message, const std::string& key) {
    expect_error([&] { return get(key); }, ErrorCode::kBadFile, message, "m.gguf: key " + key);
  };
  const auto uints = [&](const std::string& key) { return file.get_uints(key); };
  const auto reals = [&](const std::string& key) { return file.get_reals(key); };
  const auto strings = [&](const std::string& key) { return file.get_strings(key); };
  refuses(uints, "wanted an integer of at least 0, found -1", "i8s");
  refuses(uints, "wanted an array of integers, found an array of f32", "f32s");
  refuses(uints, "wanted an array of integers, found an array of bool", "bools");
  refuses(uints, "wanted integers, found an array of string", "strings");
  refuses(reals, "wanted an array of numbers, found an array of bool", "bools");
  refuses(reals, "wanted numbers, found string", "string");
  refuses(strings, "wanted an array of strings, found string", "string");
  refuses(strings, "wanted an array of strings, found an array of u16", "u16s");
}

TEST(GgufFile, CutAtAnyByteIsAnError) {
  const std::vector<std::byte> bytes = make_small_model(smallest()).bytes();
  const uint64_t head_bytes = head_bytes_of(bytes);
  ASSERT_LT(head_bytes, 4096u);
  for (uint64_t n = 0; n < head_bytes; ++n) {
    SCOPED_TRACE(n);
    expect_error(
        [&] {
          return parse_file({bytes.begin(), bytes.begin() + static_cast<int64_t>(n)});
        },
        ErrorCode::kBadFile, "truncated: wanted ", "m.gguf: ");
    if (::testing::Test::HasFailure()) return;
  }
  for (uint64_t n = head_bytes; n < bytes.size(); n += 61)
    expect_error(
        [&] {
          return parse_file({bytes.begin(), bytes.begin() + static_cast<int64_t>(n)});
        },
        ErrorCode::kBadFile, "found a file of " + std::to_string(n) + " bytes", "tensor ");
}

TEST(GgufFile, OpenedWhereItIsCutIsAnError) {
  const std::vector<std::byte> bytes = make_small_model().bytes();
  const TestFolder folder;
  const std::string path = folder.write("m.gguf", bytes);
  for (uint64_t n = bytes.size(); n > 0; n -= std::min<uint64_t>(n, 251)) {
    if (n < bytes.size()) {
      expect_error([&] { return GgufFile::open(path); }, ErrorCode::kBadFile, "truncated: wanted ",
                   path);
    }
    std::filesystem::resize_file(path, n - std::min<uint64_t>(n, 251));
  }
}

/// Allocating more than this is refused while it lives; sanitizers reserve address space of their
/// own, so there it does nothing.
class MemoryLimit {
 public:
  explicit MemoryLimit(uint64_t bytes) {
    ::getrlimit(RLIMIT_AS, &before_);
    if (sanitizer::kAny) return;
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit limit{pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + bytes,
                       before_.rlim_max};
    ::setrlimit(RLIMIT_AS, &limit);
  }
  ~MemoryLimit() { ::setrlimit(RLIMIT_AS, &before_); }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  rlimit before_ = {};
};

/// Every byte of a head inverted, cleared and, `with_bits`, each of its bits flipped: an Error or a
/// file that can be inspected, within 16 MiB.
void expect_sound_under_change(const SmallModel& model, bool with_bits) {
  std::vector<std::byte> bytes = model.bytes();
  const uint64_t head_bytes = head_bytes_of(bytes);
  const MemoryLimit limit(16 << 20);
  uint64_t n_refused = 0, n_taken = 0;
  for (uint64_t at = 0; at < head_bytes; ++at) {
    const std::byte original = bytes[at];
    for (uint32_t change = 0; change < (with_bits ? 10u : 2u); ++change) {
      bytes[at] = original ^ static_cast<std::byte>(1u << (change + 6) % 8);
      if (change == 0) bytes[at] = ~original;
      if (change == 1) bytes[at] = std::byte{0};
      try {
        (void)inspect_model(parse_file(bytes));
        ++n_taken;
      } catch (const Error& error) {
        EXPECT_NE(error.what()[0], '\0');
        ++n_refused;
      }
    }
    bytes[at] = original;
  }
  EXPECT_GT(n_refused, head_bytes / 2);
  EXPECT_GT(n_taken, head_bytes / 2);
}

TEST(GgufFile, SurvivesAnyChangedByteOfAHead) {
  SmallModelOptions options = smallest();
  for (const char* architecture : {"llama", "gemma3"}) {
    SCOPED_TRACE(architecture);
    options.architecture = architecture;
    SmallModel model = make_small_model(options);
    model.set("general.alignment", uint32_t{64});
    model.set(options.architecture + ".rope.scaling.type", std::string("yarn"));
    model.set(options.architecture + ".rope.scaling.factor", 4.0f);
    model.set("tokenizer.ggml.scores", std::vector<float>{0, 1, 2, 3});
    expect_sound_under_change(model, options.architecture == "llama");
  }
}

}  // namespace
}  // namespace strata::engine

// tests/fuzz/gguf_fuzz.cc - libFuzzer target: any bytes as the head of a model file.
// Each input is parsed as the head of a file that claims a terabyte more, and every eighth length
// as a whole file. What parses is inspected, which reads its spec. Wanted: success or
// strata::Error; live memory never above a small multiple of the input.
// Run: gguf_fuzz -max_len=4096 -rss_limit_mb=512 -timeout=60 CORPUS_DIR; for many inputs as
// docs/measurements.md, "Fuzzing", says.
// The mutator knows the format: it starts from valid heads and changes whole fields, so no corpus
// has to be kept.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/gguf/gguf_file.h"
#include "engine/inspect.h"
#include "tests/engine/small_model.h"
#include "tests/fuzz/live_memory.h"

namespace {

// A key of 14 bytes becomes a pair, a value, an index node and up to twice its share of a growing
// vector: about 30 bytes per byte of input. 1,024 layers of a claimed model take 60 KiB.
constexpr uint64_t kLiveBytesPerByte = 64;
constexpr uint64_t kLiveBytesMin = uint64_t{1} << 20;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  strata::fuzz::count_live_memory();
  return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using strata::engine::testing::make_small_model;
using strata::engine::testing::RawGguf;
using strata::engine::testing::SmallModel;
using strata::engine::testing::SmallModelOptions;

void run(std::span<const std::byte> head, uint64_t file_bytes) {
  try {
    const auto file = strata::engine::GgufFile::parse(head, file_bytes, "fuzz");
    (void)strata::engine::inspect_model(file);
  } catch (const strata::Error& error) {
    if (error.what()[0] == '\0') std::abort();
  }
}

std::vector<uint8_t> bytes_of(std::span<const std::byte> bytes) {
  std::vector<uint8_t> seed(bytes.size());
  std::memcpy(seed.data(), bytes.data(), bytes.size());
  return seed;
}

/// A head of a few keys and tensors that is no model: the reader's own rules, at a tenth of the
/// time.
std::vector<uint8_t> make_short_seed(std::mt19937& random) {
  RawGguf raw;
  static constexpr uint8_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 8, 8, 8, 8};
  static constexpr uint32_t kSmallBlocks[] = {0, 1, 2, 8};  // F32 F16 Q4_0 Q8_0
  raw.header(2, 3, 2 + random() % 2);
  raw.uint_key("general.alignment", 8u << random() % 4);
  const bool is_text = random() % 2;
  raw.string("a").u32(9).u32(is_text ? 8 : 4).u64(is_text ? 2 : 4).zeros(16);
  const uint32_t type = random() % std::size(kBytes);
  raw.string("b").u32(type == 9 ? 8 : type).zeros(kBytes[type]);
  raw.tensor("t", {32, 2}, kSmallBlocks[random() % 4], 0);
  raw.tensor("u", {256}, 10 + random() % 5, 256);  // Q2_K to Q6_K
  return bytes_of(raw.bytes());
}

/// The head of a small model (no tensor bytes) of an architecture, with a few optional keys.
std::vector<uint8_t> make_model_seed(std::mt19937& random) {
  static const char* const kNames[] = {"llama", "smollm3", "qwen2", "qwen3", "gemma3", "phi3"};
  SmallModelOptions options{.architecture = kNames[random() % 6],
                            .n_layers = random() % 8 ? 1u : 2u,
                            .d_model = 8,
                            .n_heads = 1,
                            .n_kv_heads = 1,
                            .head_dim = 8,
                            .d_ff = 8,
                            .vocab_size = 4};
  SmallModel model = make_small_model(options);
  const std::string prefix = options.architecture + ".";
  if (random() % 2)
    model.set(prefix + "attention.head_count", std::vector<int32_t>(options.n_layers, 1));
  if (random() % 2)
    model.set(prefix + "attention.sliding_window_pattern",
              std::vector<bool>(options.n_layers, true));
  if (random() % 2)
    model.set(prefix + "rope.scaling.type", std::string(random() % 2 ? "yarn" : "longrope"));
  if (random() % 2) model.set("general.alignment", uint32_t{64});
  if (random() % 2) model.set(prefix + "rope.scaling.factor", 4.0f);
  if (random() % 2) model.set("tokenizer.ggml.scores", std::vector<float>{0, 1, 2, 3});
  if (random() % 2) model.add_tensor("rope_freqs.weight", {4});
  const std::vector<std::byte> bytes = model.bytes();
  const auto file = strata::engine::GgufFile::parse(bytes, bytes.size(), "seed");
  return bytes_of(std::span(bytes).first(file.tensors().front().file_offset));
}

/// Valid and nearly valid heads, made once.
const std::vector<std::vector<uint8_t>>& seeds() {
  static const std::vector<std::vector<uint8_t>> all = [] {
    std::mt19937 random(1);
    std::vector<std::vector<uint8_t>> made;
    for (int i = 0; i < 256; ++i)
      made.push_back(i % 2 ? make_short_seed(random) : make_model_seed(random));
    return made;
  }();
  return all;
}

/// Positions of the fields of a head, as far as it can be walked.
struct Field {
  size_t offset, size;
};

class FieldWalk {
 public:
  FieldWalk(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  std::vector<Field> run() {
    take(4);
    take(4);
    const uint64_t n_tensors = take(8);
    const uint64_t n_keys = take(8);
    for (uint64_t i = 0; i < n_keys && !is_over_; ++i) {
      string();
      value();
    }
    for (uint64_t i = 0; i < n_tensors && !is_over_; ++i) {
      string();
      const uint64_t n_dims = take(4);
      for (uint64_t d = 0; d < n_dims && d < 8; ++d) take(8);
      take(4);
      take(8);
    }
    return fields_;
  }

 private:
  uint64_t take(size_t n) {
    if (is_over_ || size_ - at_ < n) {
      is_over_ = true;
      return 0;
    }
    uint64_t value = 0;
    std::memcpy(&value, data_ + at_, n <= 8 ? n : 8);
    fields_.push_back({at_, n});
    at_ += n;
    return value;
  }
  void string() {
    const uint64_t length = take(8);
    if (length > 0 && length <= size_ - at_)
      take(length);
    else
      is_over_ = is_over_ || length > 0;
  }
  void value() {
    static constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t type = take(4), count = 1;
    if (type == 9) {
      type = take(4);
      count = take(8);
    }
    for (uint64_t i = 0; i < count && !is_over_; ++i) {
      if (type == 8)
        string();
      else if (type < 13 && kBytes[type] > 0)
        take(kBytes[type]);
      else
        is_over_ = true;
    }
  }

  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
  bool is_over_ = false;
  std::vector<Field> fields_;
};

// clang-format off
constexpr uint64_t kInteresting[] = {
    0, 1, 2, 3, 4, 7, 8, 9, 10, 12, 13, 16, 31, 32, 33, 63, 64, 65, 255, 256, 512, 513, 1023,
    1024, 1025, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff, uint64_t{1} << 32,
    uint64_t{1} << 42, (uint64_t{1} << 62) - 1, uint64_t{1} << 62, uint64_t{1} << 63,
    ~uint64_t{0}, ~uint64_t{0} - 3, ~uint64_t{0} - 31, 0x3f800000, 0x7f800000, 0x7fc00000,
};
// clang-format on

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  std::minstd_rand random(seed);  // seeding mt19937 takes a tenth of an input's time
  random.discard(2);
  const unsigned choice = random() % 16;
  std::vector<Field> fields;
  if (choice > 0 && size >= 24) fields = FieldWalk(data, size).run();
  if (choice == 0 ||
      fields.size() < 6) {  // not a head: start from a valid one, or let the blind mutator try
    const std::vector<uint8_t>& valid = seeds()[random() % seeds().size()];
    if (random() % 4 != 0 && valid.size() <= max_size) {
      std::memcpy(data, valid.data(), valid.size());
      return valid.size();
    }
    return LLVMFuzzerMutate(data, size, max_size);
  }
  if (choice < 4) return LLVMFuzzerMutate(data, size, max_size);
  const Field field = fields[random() % fields.size()];
  if (choice < 6) {  // copy another field's bytes over this one: duplicate names, swapped offsets
    const Field from = fields[random() % fields.size()];
    std::memmove(data + field.offset, data + from.offset, std::min(field.size, from.size));
    return size;
  }
  if (choice == 6) return field.offset;  // truncate
  if (choice == 7 && field.size > 8)
    return LLVMFuzzerMutate(data + field.offset, field.size, field.size), size;
  uint64_t value = 0;
  const size_t n = std::min<size_t>(field.size, 8);
  std::memcpy(&value, data + field.offset, n);
  value = random() % 3 == 0 ? value + random() % 9 - 4
                            : kInteresting[random() % std::size(kInteresting)];
  std::memcpy(data + field.offset, &value, n);
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto head = std::as_bytes(std::span(data, size));
  const uint64_t peak_bytes = strata::fuzz::peak_bytes_of([&] {
    run(head, size + (uint64_t{1} << 40));
    if (size % 8 == 0) run(head, size);
  });
  if (peak_bytes > kLiveBytesMin + kLiveBytesPerByte * size) {
    std::fprintf(stderr, "%lu live bytes for an input of %zu\n",
                 static_cast<unsigned long>(peak_bytes), size);
    std::abort();
  }
  return 0;
}

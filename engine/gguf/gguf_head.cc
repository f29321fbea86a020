#include "engine/gguf/gguf_head.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "base/checked_math.h"
#include "base/error.h"

static_assert(std::endian::native == std::endian::little, "GGUF files are read as little endian");

namespace strata::engine {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kKeyBytesMin = 8 + 1 + 4 + 1;  // length, name, type, value
// Length, name, n_dims, one dim, type, offset.
constexpr uint64_t kTensorBytesMin = 8 + 1 + 4 + 8 + 4 + 8;
constexpr std::string_view kDamaged = "fetch the file again: it is damaged or not complete";
constexpr std::string_view kHostile =
    "get the file from a source you trust, or convert the model again";

constexpr std::array<std::string_view, 13> kTypeNames = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
// A string takes at least its length. The array's entry is not used: arrays do not nest.
constexpr std::array<uint8_t, 13> kTypeBytesMin = {1, 1, 2, 2, 4, 4, 4, 1, 8, 8, 8, 8, 8};

class HeadReader {
 public:
  explicit HeadReader(GgufBytes& bytes)
      : bytes_(bytes), end_(std::min(bytes.head_size(), kGgufHeadBytesMax)) {}

  GgufHead read() {
    read_magic_and_version();
    at_item("header");
    const uint64_t n_tensors = take_count("tensor", kTensorBytesMin, kGgufTensorsMax);
    const uint64_t n_keys = take_count("key", kKeyBytesMin, kGgufKeysMax);
    head_.metadata.reserve(n_keys);  // the bytes of the file justify both counts
    head_.tensors.reserve(n_tensors);
    for (uint64_t idx = 0; idx < n_keys; ++idx) read_key(idx);
    for (uint64_t idx = 0; idx < n_tensors; ++idx) read_tensor(idx);
    head_.head_bytes = offset_;
    place_tensors();
    return std::move(head_);
  }

 private:
  uint64_t left() const { return end_ - offset_; }

  [[noreturn]] void fail(const std::string& message, std::string_view remedy,
                         ErrorCode code = ErrorCode::kBadFile) const {
    const std::string item =
        item_name_.empty() ? item_kind_ : fmt::format("{} {}", item_kind_, printable(item_name_));
    throw Error(code, message, fmt::format("{}: {}, offset {}", bytes_.name(), item, field_),
                std::string(remedy));
  }

  void at_item(const char* kind, std::string_view name = "") {
    item_kind_ = kind;
    item_name_ = name;
  }

  /// Everything that is read asks here first, so that nothing is allocated or read past the end.
  void want(uint64_t n, std::string_view what) {
    field_ = offset_;
    if (n <= left()) return;
    if (bytes_.head_size() > kGgufHeadBytesMax && n <= bytes_.head_size() - offset_)
      fail(fmt::format("the head is too large: {} ends past {} bytes", what, kGgufHeadBytesMax),
           kHostile);
    fail(fmt::format("truncated: wanted {} bytes of {}, found {}", n, what, left()), kDamaged);
  }

  template <typename T>
  T take(std::string_view what) {
    want(sizeof(T), what);
    T value;
    bytes_.read(offset_, std::as_writable_bytes(std::span(&value, 1)));
    offset_ += sizeof(T);
    return value;
  }

  std::string take_string(std::string_view what, uint64_t bytes_max) {
    const auto length = take<uint64_t>(what);
    if (length > bytes_max)
      fail(
          fmt::format("{}: wanted a length of at most {} bytes, found {}", what, bytes_max, length),
          kHostile);
    want(length, what);
    std::string text(length, '\0');
    bytes_.read(offset_, std::as_writable_bytes(std::span(text)));
    offset_ += length;
    return text;
  }

  void read_magic_and_version() {
    at_item("magic");
    want(kMagic.size() + sizeof(uint32_t), "magic and version");
    std::array<char, 4> magic = {};
    bytes_.read(0, std::as_writable_bytes(std::span(magic)));
    if (std::string_view(magic.data(), magic.size()) != kMagic)
      fail(fmt::format(
               "not a GGUF file: wanted the bytes 47 47 55 46, found {:02x} {:02x} {:02x} {:02x}",
               static_cast<uint8_t>(magic[0]), static_cast<uint8_t>(magic[1]),
               static_cast<uint8_t>(magic[2]), static_cast<uint8_t>(magic[3])),
           "give a .gguf file; other formats have to be converted first");
    offset_ = kMagic.size();
    at_item("version");
    head_.version = take<uint32_t>("version");
    if (head_.version == 2 || head_.version == 3) return;
    if ((head_.version & 0xffffu) == 0 && head_.version != 0)
      fail(fmt::format("wanted a little-endian file, found a big-endian one (version {})",
                       __builtin_bswap32(head_.version)),
           "convert the model for a little-endian machine");
    fail(fmt::format("wanted version 2 or 3, found {}", head_.version),
         head_.version > 3 ? "convert the model to GGUF v3, or use a later Strata"
                           : "convert the model again with a current converter");
  }

  uint64_t take_count(std::string_view what, uint64_t bytes_min, uint64_t count_max) {
    const auto count = take<uint64_t>(fmt::format("{} count", what));
    if (count > count_max)
      fail(fmt::format("{} count: wanted at most {}, found {}", what, count_max, count), kHostile);
    if (count > left() / bytes_min)
      fail(fmt::format("truncated: wanted {} {}s of at least {} bytes each, found {} bytes", count,
                       what, bytes_min, left()),
           kDamaged);
    return count;
  }

  void read_key(uint64_t idx) {
    at_item("key number", std::to_string(idx + 1));
    const uint64_t begin = offset_;
    std::string key = take_string("key", kGgufKeyBytesMax);
    field_ = begin;
    if (key.empty()) fail("wanted a key of at least one byte, found an empty one", kHostile);
    at_item("key", key);
    if (!head_.key_idx.emplace(key, static_cast<uint32_t>(idx)).second)
      fail("the key appears twice", kHostile);
    GgufValue value;
    value.type = take<uint32_t>("value type");
    if (value.type == static_cast<uint32_t>(GgufType::kArray)) {
      value.is_array = true;
      value.type = take<uint32_t>("element type");
    }
    if (value.type >= kTypeNames.size())
      fail(fmt::format("wanted a value type from 0 to 12, found {}", value.type), kDamaged);
    if (value.type == static_cast<uint32_t>(GgufType::kArray))
      fail("found an array of arrays, which no known model uses", kHostile,
           ErrorCode::kUnsupported);
    const uint64_t count = value.is_array ? take<uint64_t>("element count") : 1;
    check_element_count(value.type, count);
    const uint64_t value_offset = offset_;
    read_values(value, count);
    field_ = value_offset;
    if (key == "general.alignment") set_alignment(value);
    head_.metadata.emplace_back(std::move(key), std::move(value));
  }

  /// Elements are counted over the whole head: in memory an array takes several times its bytes (a
  /// byte takes eight, an empty string 32 for its eight), which many arrays would add up.
  void check_element_count(uint32_t type, uint64_t count) {
    if (count > kGgufElementsMax - n_elements_)
      fail(fmt::format("wanted at most {} values in all, found {} after {}", kGgufElementsMax,
                       count, n_elements_),
           kHostile);
    const uint64_t element_bytes = kTypeBytesMin[type];
    field_ = offset_;
    if (count > left() / element_bytes)
      fail(fmt::format("truncated: wanted {} values of {}, found {} bytes", count, kTypeNames[type],
                       left()),
           kDamaged);
    n_elements_ += count;
  }

  void read_values(GgufValue& value, uint64_t count) {
    switch (static_cast<GgufType>(value.type)) {
      case GgufType::kU8:
        return read_numbers<uint8_t, int64_t>(value, count);
      case GgufType::kI8:
        return read_numbers<int8_t, int64_t>(value, count);
      case GgufType::kU16:
        return read_numbers<uint16_t, int64_t>(value, count);
      case GgufType::kI16:
        return read_numbers<int16_t, int64_t>(value, count);
      case GgufType::kU32:
        return read_numbers<uint32_t, int64_t>(value, count);
      case GgufType::kI32:
        return read_numbers<int32_t, int64_t>(value, count);
      case GgufType::kI64:
        return read_numbers<int64_t, int64_t>(value, count);
      case GgufType::kU64:
        return read_numbers<uint64_t, uint64_t>(value, count);
      case GgufType::kF32:
        return read_numbers<float, double>(value, count);
      case GgufType::kF64:
        return read_numbers<double, double>(value, count);
      case GgufType::kBool: {
        read_numbers<uint8_t, int64_t>(value, count);
        for (auto& element : std::get<GgufValue::Integers>(value.values)) element = element != 0;
        return;
      }
      case GgufType::kString: {
        GgufValue::Strings strings;  // grows as bytes arrive: a count alone justifies no memory
        for (uint64_t idx = 0; idx < count; ++idx)
          strings.push_back(take_string("string", kGgufStringBytesMax));
        value.values = std::move(strings);
        return;
      }
      case GgufType::kArray:
        break;
    }
  }

  /// `count` elements are known to lie in the file. They are converted in pieces, so that no second
  /// copy stands beside them.
  template <typename Stored, typename Held>
  void read_numbers(GgufValue& value, uint64_t count) {
    std::vector<Held> held;
    held.reserve(count);
    std::array<Stored, 512> piece;
    while (held.size() < count) {
      const uint64_t n = std::min<uint64_t>(piece.size(), count - held.size());
      bytes_.read(offset_, std::as_writable_bytes(std::span(piece.data(), n)));
      offset_ += n * sizeof(Stored);
      for (uint64_t i = 0; i < n; ++i) held.push_back(static_cast<Held>(piece[i]));
    }
    value.values = std::move(held);
  }

  void set_alignment(const GgufValue& value) {
    const auto* wide = std::get_if<GgufValue::Unsigned>(&value.values);
    const auto* integers = std::get_if<GgufValue::Integers>(&value.values);
    if (value.is_array || (!wide && !integers) ||
        value.type == static_cast<uint32_t>(GgufType::kBool))
      fail(fmt::format("wanted an integer, found {}{}", value.is_array ? "an array of " : "",
                       kTypeNames[value.type]),
           kHostile);
    const uint64_t alignment = wide ? wide->front() : static_cast<uint64_t>(integers->front());
    if (!std::has_single_bit(alignment) || alignment < kGgufAlignmentMin ||
        alignment > kGgufAlignmentMax)
      fail(fmt::format("wanted a power of two from {} to {}, found {}", kGgufAlignmentMin,
                       kGgufAlignmentMax,
                       wide ? fmt::format("{}", alignment) : fmt::format("{}", integers->front())),
           kHostile);
    head_.alignment = alignment;
  }

  void read_tensor(uint64_t idx) {
    at_item("tensor number", std::to_string(idx + 1));
    const uint64_t begin = offset_;
    GgufTensor tensor;
    tensor.name = take_string("tensor name", kGgufTensorNameBytesMax);
    field_ = begin;
    if (tensor.name.empty())
      fail("wanted a name of at least one byte, found an empty one", kHostile);
    at_item("tensor", tensor.name);
    if (!head_.tensor_idx.emplace(tensor.name, static_cast<uint32_t>(idx)).second)
      fail("the tensor appears twice", kHostile);
    const auto n_dims = take<uint32_t>("dimension count");
    if (n_dims < 1 || n_dims > kGgufDimensionsMax)
      fail(fmt::format("wanted 1 to {} dimensions, found {}", kGgufDimensionsMax, n_dims),
           kDamaged);
    tensor.shape.reserve(n_dims);
    for (uint32_t i = 0; i < n_dims; ++i) {
      tensor.shape.push_back(take<uint64_t>("dimension"));
      if (tensor.shape.back() == 0) fail("wanted dimensions of at least 1, found 0", kHostile);
    }
    const auto type_number = take<uint32_t>("tensor type");
    const auto type = tensor_type_from_number(type_number);
    if (!type) fail_type(type_number);
    tensor.type = *type;
    tensor.bytes = tensor_bytes(tensor);
    tensor.file_offset = take<uint64_t>("tensor offset");  // relative until place_tensors
    if (tensor.file_offset % head_.alignment != 0)
      fail(fmt::format("wanted an offset that is a multiple of {}, found {}", head_.alignment,
                       tensor.file_offset),
           kDamaged);
    head_.tensors.push_back(std::move(tensor));
  }

  [[noreturn]] void fail_type(uint32_t number) const {
    std::string known;
    for (const auto& info : tensor_types())
      known.append(known.empty() ? "" : " ").append(info.name);
    fail(fmt::format("wanted a tensor type of {}, found {} (number {})", known,
                     tensor_type_number_name(number), number),
         "use a file quantised to one of these types", ErrorCode::kUnsupported);
  }

  uint64_t tensor_bytes(const GgufTensor& tensor) const {
    const TensorTypeInfo& info = tensor_type_info(tensor.type);
    std::optional<uint64_t> elements = 1;
    for (const uint64_t dim : tensor.shape)
      elements = elements ? checked_mul(*elements, dim) : std::nullopt;
    // Signed 64 bits are what every other reader counts in; a real tensor is far below.
    if (!elements || *elements > uint64_t{INT64_MAX})
      fail("the product of the dimensions does not fit 63 bits", kHostile);
    if (tensor.shape[0] % info.block_elements != 0)
      fail(fmt::format("wanted rows of a multiple of {} elements ({}), found {}",
                       info.block_elements, info.name, tensor.shape[0]),
           kHostile);
    const auto bytes = checked_mul(*elements / info.block_elements, info.block_bytes);
    if (!bytes) fail("the tensor's size does not fit 64 bits", kHostile);
    return *bytes;
  }

  /// Makes offsets absolute, checks that each tensor lies inside the file and that no two share a
  /// byte.
  void place_tensors() {
    if (head_.tensors.empty()) return;
    const auto begin = checked_round_up(head_.head_bytes, head_.alignment);
    for (GgufTensor& tensor : head_.tensors) {
      at_item("tensor", tensor.name);
      const auto absolute = begin ? checked_add(*begin, tensor.file_offset) : std::nullopt;
      const auto tensor_end = absolute ? checked_add(*absolute, tensor.bytes) : std::nullopt;
      field_ = absolute.value_or(head_.head_bytes);
      if (!tensor_end || *tensor_end > bytes_.file_size())
        fail(fmt::format(
                 "truncated: wanted {} bytes at {} of the data section, found a file of {} bytes",
                 tensor.bytes, tensor.file_offset, bytes_.file_size()),
             kDamaged);
      tensor.file_offset = *absolute;
    }
    std::vector<uint32_t> order(head_.tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::sort(order, {}, [&](uint32_t idx) { return head_.tensors[idx].file_offset; });
    for (size_t i = 1; i < order.size(); ++i) {
      const GgufTensor& before = head_.tensors[order[i - 1]];
      const GgufTensor& after = head_.tensors[order[i]];
      if (before.file_offset + before.bytes <= after.file_offset) continue;
      at_item("tensor", after.name);
      field_ = after.file_offset;
      fail(fmt::format("overlaps tensor {}, which ends at {}", printable(before.name),
                       before.file_offset + before.bytes),
           kHostile);
    }
  }

  GgufBytes& bytes_;
  uint64_t end_;
  uint64_t offset_ = 0;      // of the next byte to read
  uint64_t field_ = 0;       // of the field an error is about
  uint64_t n_elements_ = 0;  // values of all keys so far
  const char* item_kind_ =
      "header";  // what `where` of an error names: "key NAME", "tensor number 3"
  std::string item_name_;
  GgufHead head_;
};

}  // namespace

std::string_view gguf_type_name(uint32_t number) {
  return number < kTypeNames.size() ? kTypeNames[number] : "unknown";
}

std::string printable(std::string_view text) {
  constexpr size_t kLengthMax = 80;
  std::string safe(text.substr(0, kLengthMax));
  for (char& c : safe)
    if (c < 0x20 || c > 0x7e) c = '?';
  return text.size() > kLengthMax ? safe + "..." : safe;
}

GgufHead read_gguf_head(GgufBytes& bytes) { return HeadReader(bytes).read(); }

}  // namespace strata::engine

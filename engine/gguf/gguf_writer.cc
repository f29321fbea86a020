#include "engine/gguf/gguf_writer.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <type_traits>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "engine/gguf/gguf_head.h"

namespace strata::engine {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint32_t kVersion = 3;
constexpr uint64_t kPieceBytes = uint64_t{1}
                                 << 20;  // of a generated tensor, made and written at a time

// resize and memcpy: g++ 12 warns of an overflow that cannot happen in the inlined range insert.
void append(Bytes& out, std::span<const std::byte> bytes) {
  const size_t begin = out.size();
  out.resize(begin + bytes.size());
  if (!bytes.empty()) std::memcpy(out.data() + begin, bytes.data(), bytes.size());
}

template <typename T>
requires std::is_trivially_copyable_v<T>
void append(Bytes& out, T value) { append(out, std::as_bytes(std::span(&value, 1))); }

void append_string(Bytes& out, const std::string& text) {
  append(out, uint64_t{text.size()});
  append(out, std::as_bytes(std::span(text)));
}

template <typename T>
Bytes encode_scalar(GgufType type, T value) {
  Bytes out;
  append(out, static_cast<uint32_t>(type));
  append(out, value);
  return out;
}

Bytes begin_array(GgufType type, uint64_t count) {
  Bytes out;
  append(out, static_cast<uint32_t>(GgufType::kArray));
  append(out, static_cast<uint32_t>(type));
  append(out, count);
  return out;
}

struct FileCloser {
  void operator()(std::FILE* file) const { (void)std::fclose(file); }
};

/// What fails ends it with kIo.
class WrittenFile {
 public:
  explicit WrittenFile(const std::string& path)
      : path_(path), file_(std::fopen(path.c_str(), "wbe")) {
    if (!file_) fail("create", errno);
  }
  void put(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;  // no padding: an empty vector has no address to give
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size())
      fail("write", errno);
  }
  void finish() {
    if (std::fclose(file_.release()) != 0) fail("finish", errno);
  }
  [[noreturn]] void fail(const char* what, int reason) const {
    throw Error(
        ErrorCode::kIo,
        fmt::format("cannot {} the file: {}", what, std::generic_category().message(reason)), path_,
        "check that the folder exists, that you may write there and that the disk has room");
  }

 private:
  const std::string& path_;
  std::unique_ptr<std::FILE, FileCloser> file_;
};

}  // namespace

void GgufWriter::add_uint(const std::string& key, uint32_t value) {
  entries_.push_back({key, encode_scalar(GgufType::kU32, value)});
}
void GgufWriter::add_u64(const std::string& key, uint64_t value) {
  entries_.push_back({key, encode_scalar(GgufType::kU64, value)});
}
void GgufWriter::add_real(const std::string& key, float value) {
  entries_.push_back({key, encode_scalar(GgufType::kF32, value)});
}
void GgufWriter::add_bool(const std::string& key, bool value) {
  entries_.push_back({key, encode_scalar(GgufType::kBool, static_cast<uint8_t>(value))});
}

void GgufWriter::add_string(const std::string& key, const std::string& value) {
  Bytes encoded;
  append(encoded, static_cast<uint32_t>(GgufType::kString));
  append_string(encoded, value);
  entries_.push_back({key, std::move(encoded)});
}

void GgufWriter::add_strings(const std::string& key, const std::vector<std::string>& values) {
  Bytes encoded = begin_array(GgufType::kString, values.size());
  for (const std::string& value : values) append_string(encoded, value);
  entries_.push_back({key, std::move(encoded)});
}

void GgufWriter::add_ints(const std::string& key, const std::vector<int32_t>& values) {
  Bytes encoded = begin_array(GgufType::kI32, values.size());
  append(encoded, std::as_bytes(std::span(values)));
  entries_.push_back({key, std::move(encoded)});
}

void GgufWriter::add_reals(const std::string& key, const std::vector<float>& values) {
  Bytes encoded = begin_array(GgufType::kF32, values.size());
  append(encoded, std::as_bytes(std::span(values)));
  entries_.push_back({key, std::move(encoded)});
}

void GgufWriter::add_bools(const std::string& key, const std::vector<bool>& values) {
  Bytes encoded = begin_array(GgufType::kBool, values.size());
  for (const bool value : values) append(encoded, static_cast<uint8_t>(value));
  entries_.push_back({key, std::move(encoded)});
}

GgufWriter::Tensor GgufWriter::checked_tensor(const std::string& name, TensorType type,
                                              const std::vector<uint64_t>& shape) {
  STRATA_CHECK(!name.empty() && name.size() < kGgufTensorNameBytesMax, "a name of %zu bytes",
               name.size());
  STRATA_CHECK(!shape.empty() && shape.size() <= kGgufDimensionsMax, "%zu dimensions",
               shape.size());
  Tensor tensor{.name = name, .type = type, .shape = shape, .bytes = {}, .source = {}};
  tensor.row_bytes = tensor_row_bytes(type, shape[0]);
  tensor.n_rows = 1;
  for (size_t i = 1; i < shape.size(); ++i) tensor.n_rows *= shape[i];
  STRATA_CHECK(tensor.total_bytes() > 0, "tensor %s has no bytes", name.c_str());
  return tensor;
}

void GgufWriter::add_tensor(const std::string& name, TensorType type,
                            const std::vector<uint64_t>& shape, std::span<const std::byte> bytes) {
  Tensor tensor = checked_tensor(name, type, shape);
  STRATA_CHECK(tensor.total_bytes() == bytes.size(), "tensor %s: wanted %lu bytes, found %zu",
               name.c_str(), static_cast<unsigned long>(tensor.total_bytes()), bytes.size());
  tensor.bytes = bytes;
  tensors_.push_back(std::move(tensor));
}

void GgufWriter::add_generated_tensor(const std::string& name, TensorType type,
                                      const std::vector<uint64_t>& shape, RowSource source) {
  Tensor tensor = checked_tensor(name, type, shape);
  tensor.source = std::move(source);
  tensors_.push_back(std::move(tensor));
}

template <typename Put>
void GgufWriter::put_tensor(const Tensor& tensor, const Put& put) {
  if (!tensor.source) return put(tensor.bytes);
  const uint64_t rows_per_piece = std::max<uint64_t>(1, kPieceBytes / tensor.row_bytes);
  Bytes piece(std::min(rows_per_piece, tensor.n_rows) * tensor.row_bytes);
  for (uint64_t first = 0; first < tensor.n_rows; first += rows_per_piece) {
    const uint64_t n = std::min(rows_per_piece, tensor.n_rows - first);
    for (uint64_t i = 0; i < n; ++i)
      tensor.source(first + i, std::span(piece).subspan(i * tensor.row_bytes, tensor.row_bytes));
    put(std::span<const std::byte>(piece).first(n * tensor.row_bytes));
  }
}

std::vector<std::byte> GgufWriter::serialise_head(uint64_t& alignment) const {
  alignment = kGgufAlignmentDefault;
  Bytes out;
  append(out, std::as_bytes(std::span("GGUF", 4)));
  append(out, kVersion);
  append(out, uint64_t{tensors_.size()});
  append(out, uint64_t{entries_.size()});
  for (const Entry& entry : entries_) {
    append_string(out, entry.key);
    append(out, std::span<const std::byte>(entry.encoded));
    if (entry.key != "general.alignment") continue;
    STRATA_CHECK(entry.encoded.size() == 2 * sizeof(uint32_t),
                 "general.alignment of %zu bytes is not a u32", entry.encoded.size());
    uint32_t wanted = 0;
    std::memcpy(&wanted, entry.encoded.data() + sizeof(uint32_t), sizeof(wanted));
    STRATA_CHECK(std::has_single_bit(wanted), "an alignment of %u", wanted);
    alignment = wanted;
  }
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    append_string(out, tensor.name);
    append(out, static_cast<uint32_t>(tensor.shape.size()));
    for (const uint64_t dim : tensor.shape) append(out, dim);
    append(out, static_cast<uint32_t>(tensor.type));
    append(out, offset);
    offset += round_up(tensor.total_bytes(), alignment);
  }
  out.resize(round_up(out.size(), alignment));
  return out;
}

std::vector<std::byte> GgufWriter::serialise() const {
  uint64_t alignment = 0;
  Bytes out = serialise_head(alignment);
  for (const Tensor& tensor : tensors_) {
    put_tensor(tensor, [&](std::span<const std::byte> bytes) { append(out, bytes); });
    out.resize(round_up(out.size(), alignment));
  }
  return out;
}

void GgufWriter::write(const std::string& path) const {
  WrittenFile file(path);
  uint64_t alignment = 0;
  file.put(serialise_head(alignment));
  for (const Tensor& tensor : tensors_) {
    put_tensor(tensor, [&](std::span<const std::byte> bytes) { file.put(bytes); });
    file.put(Bytes(round_up(tensor.total_bytes(), alignment) - tensor.total_bytes()));
  }
  file.finish();
}

void GgufWriter::write_announced(const std::string& path) const {
  WrittenFile file(path);
  uint64_t alignment = 0;
  const Bytes head = serialise_head(alignment);
  file.put(head);
  file.finish();
  uint64_t bytes = head.size();
  for (const Tensor& tensor : tensors_) bytes += round_up(tensor.total_bytes(), alignment);
  std::error_code failed;
  std::filesystem::resize_file(path, bytes, failed);
  if (failed) file.fail("extend", failed.value());
}

}  // namespace strata::engine

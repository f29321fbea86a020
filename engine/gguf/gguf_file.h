// engine/gguf/gguf_file.h - a GGUF model file (v2, v3; one file or shards), read without trusting a
// byte. Source: the format's specification (ggml docs/gguf.md); limits and the inputs that broke
// other readers: docs/file-format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/tensor_type.h"

namespace strata::engine {

/// One metadata value. Integers of any width are held as int64 or uint64; arrays are homogeneous
/// and not nested.
struct GgufValue {
  using Integers = std::vector<int64_t>;   // u8 i8 u16 i16 u32 i32 i64, and bool as 0 / 1
  using Unsigned = std::vector<uint64_t>;  // u64
  using Reals = std::vector<double>;       // f32 f64
  using Strings = std::vector<std::string>;
  uint32_t type = 0;  // the file's number: 0-7 and 10-12 scalar types, 8 string; for an array that
                      // of its elements
  bool is_array = false;
  std::variant<Integers, Unsigned, Reals, Strings> values;  // one element unless is_array
  uint64_t size() const;
};

struct GgufTensor {
  std::string name;
  TensorType type;              // decodable; others are rejected by name when the file is opened
  std::vector<uint64_t> shape;  // 1 to 4 dimensions, shape[0] is the row length
  uint64_t bytes = 0;           // file bytes of the tensor
  // Absolute, inside shard `shard`; file_offset + bytes <= that file's size.
  uint64_t file_offset = 0;
  uint32_t shard = 0;
  uint64_t n_rows() const;  // product of shape[1..]
};

/// An open model file. Immutable; reads may come from several threads.
class GgufFile {
 public:
  /// Opens `path` (or the first of its shards) and checks everything that later reads rely on.
  /// Errors: kIo (cannot open or read), kBadFile (says key or tensor, offset, wanted, found),
  /// kUnsupported (tensor type).
  static GgufFile open(const std::string& path);
  /// Parses the head of a file held in memory; tensor data need only be announced by `file_bytes`.
  /// For fuzzing and tests.
  static GgufFile parse(std::span<const std::byte> head, uint64_t file_bytes,
                        const std::string& name);
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& path() const;
  uint64_t file_bytes() const;  // all shards
  uint32_t version() const;
  uint32_t n_shards() const;
  uint64_t alignment() const;

  /// Metadata in file order, and by key; null where the key is absent.
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const;
  const GgufValue* find(std::string_view key) const;
  const std::vector<GgufTensor>& tensors() const;
  const GgufTensor* find_tensor(std::string_view name) const;

  /// Typed getters: nothing where the key is absent; kBadFile naming key, wanted and found type
  /// where it has another type. Any integer width is accepted where the value fits.
  std::optional<uint64_t> get_uint(std::string_view key) const;
  std::optional<double> get_real(std::string_view key) const;  // integers too
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string_view> get_string(std::string_view key) const;
  const std::vector<std::string>* get_strings(std::string_view key) const;
  std::optional<std::vector<uint64_t>> get_uints(
      std::string_view key) const;  // a scalar counts as one element
  std::optional<std::vector<double>> get_reals(std::string_view key) const;

  /// Reads bytes [offset, offset + out.size()) of a tensor. Errors: kIo.
  void read(const GgufTensor& tensor, uint64_t offset, std::span<std::byte> out) const;
  /// Has the disk bring these bytes of a tensor while others are asked for: read one after the
  /// other, each would wait for its own. Advice: where it is not taken they are only read slower.
  void ask_for(const GgufTensor& tensor, uint64_t offset, uint64_t bytes) const;

  /// For readers of their own: a shard's path, its descriptor (this object's; reads by position
  /// only) and its size when it was opened. Errors: kIo where the head was parsed from memory.
  struct Shard {
    std::string_view path;
    int descriptor;
    uint64_t bytes;
  };
  Shard shard(uint32_t idx) const;
  /// Errors: kIo where the shard is no longer the file that was opened: another size, or written
  /// to. Costs one system call.
  void check_unchanged(uint32_t shard_idx) const;

 private:
  struct State;
  explicit GgufFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace strata::engine

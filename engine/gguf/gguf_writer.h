// engine/gguf/gguf_writer.h - writes a GGUF v3 file: the developer's model makers and
// the tests use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/tensor_type.h"

namespace strata::engine {

/// Collects metadata and tensors, then writes the file in one pass.
/// Tensor bytes are borrowed until write().
class GgufWriter {
 public:
  /// Fills `out` with the bytes of row `row`, always the same ones: a tensor may be written twice.
  using RowSource = std::function<void(uint64_t row, std::span<std::byte> out)>;

  void add_uint(const std::string& key, uint32_t value);
  void add_u64(const std::string& key, uint64_t value);
  void add_real(const std::string& key, float value);
  void add_bool(const std::string& key, bool value);
  void add_string(const std::string& key, const std::string& value);
  void add_strings(const std::string& key, const std::vector<std::string>& values);
  void add_ints(const std::string& key, const std::vector<int32_t>& values);
  void add_reals(const std::string& key, const std::vector<float>& values);
  void add_bools(const std::string& key, const std::vector<bool>& values);
  /// shape[0] is the row length; `bytes` must have the size that type and shape give.
  void add_tensor(const std::string& name, TensorType type, const std::vector<uint64_t>& shape,
                  std::span<const std::byte> bytes);
  /// A tensor whose rows are made while the file is written, so that a model of gigabytes never
  /// lies in memory.
  void add_generated_tensor(const std::string& name, TensorType type,
                            const std::vector<uint64_t>& shape, RowSource source);
  /// Serialises everything (magic, metadata, tensor infos, padding, data).
  std::vector<std::byte> serialise() const;
  /// Errors: kIo.
  void write(const std::string& path) const;
  /// The head alone, and a hole where the tensors' bytes would be: a model of any size for what
  /// reads heads. Errors: kIo.
  void write_announced(const std::string& path) const;

 private:
  /// Everything before the first tensor's bytes; says the alignment in force
  /// (general.alignment, or 32).
  std::vector<std::byte> serialise_head(uint64_t& alignment) const;
  struct Entry {
    std::string key;
    std::vector<std::byte> encoded;
  };  // type and value as the file holds them
  struct Tensor {
    std::string name;
    TensorType type;
    std::vector<uint64_t> shape;
    std::span<const std::byte> bytes;  // empty where rows are generated
    RowSource source;
    uint64_t row_bytes = 0;
    uint64_t n_rows = 0;
    uint64_t total_bytes() const { return row_bytes * n_rows; }
  };
  /// Checks name and shape, and gives the tensor without its bytes.
  static Tensor checked_tensor(const std::string& name, TensorType type,
                               const std::vector<uint64_t>& shape);
  /// Calls put(bytes) with the tensor's bytes in order, in pieces.
  template <typename Put>
  static void put_tensor(const Tensor& tensor, const Put& put);
  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
};

}  // namespace strata::engine

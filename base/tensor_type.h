// base/tensor_type.h - how a tensor's values are encoded in a GGUF file. Numbers are the file
// format's own (ggml's enum).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace strata {

enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30,
};

/// One type Strata decodes: a row of n elements (n a multiple of block_elements) takes n /
/// block_elements * block_bytes bytes.
struct TensorTypeInfo {
  TensorType type;
  std::string_view name;  // as llama.cpp prints it: "F32", "Q4_K"
  uint32_t block_elements;
  uint32_t block_bytes;
};

/// Facts of a decodable type; a value outside the enum is a bug.
const TensorTypeInfo& tensor_type_info(TensorType type);
/// The decodable type of a file's number, or nothing.
std::optional<TensorType> tensor_type_from_number(uint32_t number);
/// The name of any number the format has defined, also of types Strata cannot decode ("IQ2_XXS");
/// "unknown" otherwise.
std::string_view tensor_type_number_name(uint32_t number);
/// Every type Strata decodes.
std::span<const TensorTypeInfo> tensor_types();

/// Bytes of a row of n_elements; n_elements must be a multiple of the type's block.
uint64_t tensor_row_bytes(TensorType type, uint64_t n_elements);

}  // namespace strata

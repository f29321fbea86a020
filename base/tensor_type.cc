#include "base/tensor_type.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"

namespace strata {
namespace {

// Block sizes: ggml's block structures, compiled and measured (see docs/file-format.md).
constexpr std::array kTypes = {
    TensorTypeInfo{TensorType::kF32, "F32", 1, 4},
    TensorTypeInfo{TensorType::kF16, "F16", 1, 2},
    TensorTypeInfo{TensorType::kBF16, "BF16", 1, 2},
    TensorTypeInfo{TensorType::kQ4_0, "Q4_0", 32, 18},
    TensorTypeInfo{TensorType::kQ4_1, "Q4_1", 32, 20},
    TensorTypeInfo{TensorType::kQ5_0, "Q5_0", 32, 22},
    TensorTypeInfo{TensorType::kQ5_1, "Q5_1", 32, 24},
    TensorTypeInfo{TensorType::kQ8_0, "Q8_0", 32, 34},
    TensorTypeInfo{TensorType::kQ2_K, "Q2_K", 256, 84},
    TensorTypeInfo{TensorType::kQ3_K, "Q3_K", 256, 110},
    TensorTypeInfo{TensorType::kQ4_K, "Q4_K", 256, 144},
    TensorTypeInfo{TensorType::kQ5_K, "Q5_K", 256, 176},
    TensorTypeInfo{TensorType::kQ6_K, "Q6_K", 256, 210},
    TensorTypeInfo{TensorType::kIQ4_NL, "IQ4_NL", 32, 18},
    TensorTypeInfo{TensorType::kIQ4_XS, "IQ4_XS", 256, 136},
};

// Names of numbers that exist in files but that Strata does not decode, for error messages.
constexpr std::array<std::pair<uint32_t, std::string_view>, 19> kOtherNames = {{
    {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
    {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {24, "I8"},     {25, "I16"},
    {26, "I32"},   {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},
    {35, "TQ2_0"}, {39, "MXFP4"}, {40, "NVFP4"},   {41, "Q1_0"},
}};

}  // namespace

std::span<const TensorTypeInfo> tensor_types() { return kTypes; }

std::optional<TensorType> tensor_type_from_number(uint32_t number) {
  for (const auto& info : kTypes)
    if (static_cast<uint32_t>(info.type) == number) return info.type;
  return std::nullopt;
}

const TensorTypeInfo& tensor_type_info(TensorType type) {
  const auto* found = std::ranges::find(kTypes, type, &TensorTypeInfo::type);
  STRATA_CHECK(found != kTypes.end(), "tensor type %u", static_cast<uint32_t>(type));
  return *found;
}

std::string_view tensor_type_number_name(uint32_t number) {
  if (const auto type = tensor_type_from_number(number)) return tensor_type_info(*type).name;
  for (const auto& [other, name] : kOtherNames)
    if (other == number) return name;
  return "unknown";
}

uint64_t tensor_row_bytes(TensorType type, uint64_t n_elements) {
  const auto& info = tensor_type_info(type);
  STRATA_CHECK(n_elements % info.block_elements == 0, "%lu elements of a type with blocks of %u",
               static_cast<unsigned long>(n_elements), info.block_elements);
  return n_elements / info.block_elements * info.block_bytes;
}

}  // namespace strata

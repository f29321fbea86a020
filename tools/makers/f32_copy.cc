#include "tools/makers/f32_copy.h"

#include <vector>

#include "base/error.h"
#include "engine/gguf/dequantise.h"
#include "engine/gguf/gguf_file.h"
#include "engine/gguf/gguf_writer.h"

namespace strata::makers {
namespace {

using engine::dequantise;
using engine::GgufFile;
using engine::GgufValue;
using engine::GgufWriter;

constexpr uint32_t kBool = 7;  // value type numbers of the format
constexpr uint32_t kFileTypeAllF32 = 0;

void copy_array(GgufWriter& writer, const std::string& key, const GgufValue& value) {
  if (const auto* strings = std::get_if<GgufValue::Strings>(&value.values))
    return writer.add_strings(key, *strings);
  if (const auto* reals = std::get_if<GgufValue::Reals>(&value.values))
    return writer.add_reals(key, std::vector<float>(reals->begin(), reals->end()));
  if (const auto* integers = std::get_if<GgufValue::Integers>(&value.values)) {
    if (value.type == kBool)
      return writer.add_bools(key, std::vector<bool>(integers->begin(), integers->end()));
    return writer.add_ints(key, std::vector<int32_t>(integers->begin(), integers->end()));
  }
  throw Error(ErrorCode::kUnsupported, "an array of u64 is not copied", key);
}

void copy_value(GgufWriter& writer, const std::string& key, const GgufValue& value) {
  if (key == "general.file_type") return writer.add_uint(key, kFileTypeAllF32);
  if (value.is_array) return copy_array(writer, key, value);
  if (const auto* strings = std::get_if<GgufValue::Strings>(&value.values))
    return writer.add_string(key, strings->front());
  if (const auto* reals = std::get_if<GgufValue::Reals>(&value.values))
    return writer.add_real(key, static_cast<float>(reals->front()));
  if (const auto* wide = std::get_if<GgufValue::Unsigned>(&value.values))
    return writer.add_u64(key, wide->front());
  const int64_t integer = std::get<GgufValue::Integers>(value.values).front();
  if (value.type == kBool) return writer.add_bool(key, integer != 0);
  writer.add_uint(key, static_cast<uint32_t>(integer));
}

}  // namespace

void write_f32_copy(const std::string& in, const std::string& out) {
  const auto file = GgufFile::open(in);
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) copy_value(writer, key, value);
  std::vector<std::vector<float>> decoded;  // borrowed by the writer until it writes
  decoded.reserve(file.tensors().size());
  std::vector<std::byte> bytes;
  for (const auto& tensor : file.tensors()) {
    bytes.resize(tensor.bytes);
    file.read(tensor, 0, bytes);
    auto& values = decoded.emplace_back(tensor.shape[0] * tensor.n_rows());
    dequantise(tensor.type, bytes, values);
    writer.add_tensor(tensor.name, TensorType::kF32, tensor.shape,
                      std::as_bytes(std::span(values)));
  }
  writer.write(out);
}

}  // namespace strata::makers

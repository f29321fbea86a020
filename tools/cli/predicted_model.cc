#include "tools/cli/predicted_model.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/model_spec.h"

namespace strata::cli {
namespace {

bool is_float(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

/// Bytes of the tensors with these names; one that is not there counts nothing.
uint64_t bytes_of(const engine::GgufFile& file, std::initializer_list<std::string> names) {
  uint64_t bytes = 0;
  for (const std::string& name : names)
    if (const engine::GgufTensor* tensor = file.find_tensor(name)) bytes += tensor->bytes;
  return bytes;
}

}  // namespace

planner::PredictedModel predicted_model(const engine::GgufFile& file, KvCodec k_codec,
                                        KvCodec v_codec) {
  planner::PredictedModel model;
  model.shape = engine::read_model_spec(file).shape;
  const bool is_q8 = k_codec == KvCodec::kQ8_0 || v_codec == KvCodec::kQ8_0;
  if (is_q8 && model.shape.head_dim % 32 != 0)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("q8_0 wants a head_dim that is a multiple of 32, the model has {}",
                            model.shape.head_dim),
                "--cache-type-k, --cache-type-v", "use -ctk f16 -ctv f16");
  model.layout = KvLayout::make(k_codec, v_codec, model.shape.head_dim);
  for (uint32_t i = 0; i < model.shape.n_layers; ++i) {
    const auto of = [i](const char* name) { return fmt::format("blk.{}.{}.weight", i, name); };
    model.pieces.layers.push_back(
        {.qkv = bytes_of(file, {of("attn_q"), of("attn_k"), of("attn_v")}),
         .attn_output = bytes_of(file, {of("attn_output")}),
         .ffn_gate_up = bytes_of(file, {of("ffn_gate"), of("ffn_up")}),
         .ffn_down = bytes_of(file, {of("ffn_down")})});
  }
  const engine::GgufTensor& embedding = *file.find_tensor("token_embd.weight");
  const engine::GgufTensor* output = file.find_tensor("output.weight");
  model.pieces.embedding_row = tensor_row_bytes(embedding.type, model.shape.d_model);
  model.pieces.output_head = output != nullptr ? output->bytes : embedding.bytes;
  uint64_t float_bytes = 0, all_bytes = 0;
  for (const engine::GgufTensor& tensor : file.tensors()) {
    all_bytes += tensor.bytes;
    if (is_float(tensor.type)) float_bytes += tensor.bytes;
  }
  model.is_quantised = float_bytes < all_bytes / 2;
  return model;
}

}  // namespace strata::cli

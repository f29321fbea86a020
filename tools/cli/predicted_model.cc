#include "tools/cli/predicted_model.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/context_size.h"
#include "engine/device_choice.h"
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

const planner::DeviceProfile& virtual_profile(const Command& command) {
  try {
    return planner::device_profile(engine::parse_device_choice(command.settings.device).profile);
  } catch (const Error& error) {
    std::string remedy;
    for (const planner::DeviceProfile& profile : planner::device_profiles())
      remedy += fmt::format("{}virtual:{}", remedy.empty() ? "use " : ", ", profile.name);
    throw Error(error.code(), error.what(), command.where("device"), remedy);
  }
}

planner::PredictedModel predicted_model(const engine::GgufFile& file, KvCodec k_codec,
                                        KvCodec v_codec) {
  planner::PredictedModel model;
  model.shape = engine::read_model_spec(file).shape;
  engine::check_codecs(model.shape, {.k_codec = k_codec, .v_codec = v_codec});
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

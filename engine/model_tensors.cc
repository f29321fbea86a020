#include "engine/model_tensors.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/gguf/gguf_head.h"

namespace strata::engine {
namespace {

enum class Need : uint8_t { kAlways, kOptional, kQkvBias, kQkNorm, kPostNorms, kRopeFactors };
enum class Dim : uint8_t { kNone, kModel, kQ, kKv, kHead, kFf, kVocab, kHalfRot };

struct Wanted {
  std::string_view name;  // after "blk.N." for a layer's
  Need need;
  Dim row;   // shape[0]
  Dim rows;  // shape[1]; kNone: a vector
};

constexpr std::array kModelTensors = {
    Wanted{"token_embd.weight", Need::kAlways, Dim::kModel, Dim::kVocab},
    Wanted{"output_norm.weight", Need::kAlways, Dim::kModel, Dim::kNone},
    Wanted{"output.weight", Need::kOptional, Dim::kModel, Dim::kVocab},
    Wanted{"rope_freqs.weight", Need::kRopeFactors, Dim::kHalfRot, Dim::kNone},
    Wanted{"rope_factors_long.weight", Need::kRopeFactors, Dim::kHalfRot, Dim::kNone},
    Wanted{"rope_factors_short.weight", Need::kRopeFactors, Dim::kHalfRot, Dim::kNone},
};

constexpr std::array kLayerTensors = {
    Wanted{"attn_norm.weight", Need::kAlways, Dim::kModel, Dim::kNone},
    Wanted{"attn_q.weight", Need::kAlways, Dim::kModel, Dim::kQ},
    Wanted{"attn_k.weight", Need::kAlways, Dim::kModel, Dim::kKv},
    Wanted{"attn_v.weight", Need::kAlways, Dim::kModel, Dim::kKv},
    Wanted{"attn_output.weight", Need::kAlways, Dim::kQ, Dim::kModel},
    Wanted{"attn_q.bias", Need::kQkvBias, Dim::kQ, Dim::kNone},
    Wanted{"attn_k.bias", Need::kQkvBias, Dim::kKv, Dim::kNone},
    Wanted{"attn_v.bias", Need::kQkvBias, Dim::kKv, Dim::kNone},
    Wanted{"attn_output.bias", Need::kOptional, Dim::kModel, Dim::kNone},
    Wanted{"attn_q_norm.weight", Need::kQkNorm, Dim::kHead, Dim::kNone},
    Wanted{"attn_k_norm.weight", Need::kQkNorm, Dim::kHead, Dim::kNone},
    Wanted{"post_attention_norm.weight", Need::kPostNorms, Dim::kModel, Dim::kNone},
    Wanted{"ffn_norm.weight", Need::kAlways, Dim::kModel, Dim::kNone},
    Wanted{"ffn_gate.weight", Need::kAlways, Dim::kModel, Dim::kFf},
    Wanted{"ffn_up.weight", Need::kAlways, Dim::kModel, Dim::kFf},
    Wanted{"ffn_down.weight", Need::kAlways, Dim::kFf, Dim::kModel},
    Wanted{"post_ffw_norm.weight", Need::kPostNorms, Dim::kModel, Dim::kNone},
};

enum class Presence : uint8_t { kRequired, kAllowed, kRefused };

Presence presence_of(Need need, const Architecture& row) {
  switch (need) {
    case Need::kAlways:
      return Presence::kRequired;
    case Need::kOptional:
      return Presence::kAllowed;
    case Need::kQkvBias:
      return row.has_qkv_bias ? Presence::kRequired : Presence::kAllowed;
    case Need::kQkNorm:
      return row.has_qk_norm ? Presence::kRequired : Presence::kRefused;
    case Need::kPostNorms:
      return row.has_post_norms ? Presence::kRequired : Presence::kRefused;
    case Need::kRopeFactors:
      return row.has_rope_factors ? Presence::kAllowed : Presence::kRefused;
  }
  return Presence::kRefused;
}

class TensorCheck {
 public:
  TensorCheck(const GgufFile& file, const Architecture& row, const ModelSpec& spec)
      : file_(file), row_(row), spec_(spec) {}

  void run() {
    check_group(kModelTensors, "", spec_.shape.layers.front());
    for (uint32_t i = 0; i < spec_.shape.n_layers && missing_.size() < kMissingNamesMax; ++i)
      check_group(kLayerTensors, fmt::format("blk.{}.", i), spec_.shape.layers[i]);
    if (!missing_.empty()) fail_missing();
    for (const GgufTensor& tensor : file_.tensors())
      if (!is_known(tensor.name)) refuse(tensor);
  }

 private:
  static constexpr size_t kMissingNamesMax = 8;

  void check_group(std::span<const Wanted> group, const std::string& prefix,
                   const LayerShape& layer) {
    for (const Wanted& wanted : group) {
      const Presence presence = presence_of(wanted.need, row_);
      if (presence == Presence::kRefused) continue;
      const std::string name = prefix + std::string(wanted.name);
      const GgufTensor* tensor = file_.find_tensor(name);
      if (tensor)
        check_shape(*tensor, wanted, layer);
      else if (presence == Presence::kRequired)
        missing_.push_back(name);
    }
  }

  uint64_t size_of(Dim dim, const LayerShape& layer) const {
    const ModelShape& shape = spec_.shape;
    switch (dim) {
      case Dim::kNone:
        return 1;
      case Dim::kModel:
        return shape.d_model;
      case Dim::kQ:
        return uint64_t{layer.n_heads} * shape.head_dim;
      case Dim::kKv:
        return uint64_t{layer.n_kv_heads} * shape.head_dim;
      case Dim::kHead:
        return shape.head_dim;
      case Dim::kFf:
        return layer.d_ff;
      case Dim::kVocab:
        return shape.vocab_size;
      case Dim::kHalfRot:
        return spec_.rope_sets.front().n_rot / 2;
    }
    return 0;
  }

  void check_shape(const GgufTensor& tensor, const Wanted& wanted, const LayerShape& layer) const {
    const uint64_t row = size_of(wanted.row, layer);
    const uint64_t rows = size_of(wanted.rows, layer);
    const bool is_flat =
        std::ranges::all_of(tensor.shape.begin() + std::min<ptrdiff_t>(2, std::ssize(tensor.shape)),
                            tensor.shape.end(), [](uint64_t dim) { return dim == 1; });
    if (tensor.shape[0] == row && tensor.n_rows() == rows && is_flat) return;
    throw Error(
        ErrorCode::kBadFile,
        fmt::format("wanted shape [{}, {}], found [{}]", row, rows, fmt::join(tensor.shape, ", ")),
        fmt::format("{}: tensor {}, offset {}", file_.path(), printable(tensor.name),
                    tensor.file_offset),
        "the sizes in the file's keys and its tensors disagree: convert the model again");
  }

  [[noreturn]] void fail_missing() const {
    const bool is_cut = missing_.size() >= kMissingNamesMax;
    throw Error(ErrorCode::kBadFile,
                fmt::format("missing tensors of {}: {}{}", row_.name, fmt::join(missing_, ", "),
                            is_cut ? " and possibly more" : ""),
                file_.path(), "fetch the whole model (all shards), or convert it again");
  }

  bool is_known(std::string_view name) const {
    std::span<const Wanted> group = kModelTensors;
    if (name.starts_with("blk.")) {
      uint32_t layer = 0;
      const char* end = name.data() + name.size();
      const auto [next, error] = std::from_chars(name.data() + 4, end, layer);
      if (error != std::errc() || next == end || *next != '.' || layer >= spec_.shape.n_layers)
        return false;
      if (name[4] == '0' && next != name.data() + 5)
        return false;  // "blk.00." would be a second name of layer 0
      name = std::string_view(next + 1, static_cast<size_t>(end - next - 1));
      group = kLayerTensors;
    }
    return std::ranges::any_of(group, [&](const Wanted& wanted) {
      return wanted.name == name && presence_of(wanted.need, row_) != Presence::kRefused;
    });
  }

  [[noreturn]] void refuse(const GgufTensor& tensor) const {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format(
            "the tensor is no part of what Strata computes for {}: leaving it out would change the "
            "answers",
            row_.name),
        fmt::format("{}: tensor {}, offset {}", file_.path(), printable(tensor.name),
                    tensor.file_offset),
        "use a model without it");
  }

  const GgufFile& file_;
  const Architecture& row_;
  const ModelSpec& spec_;
  std::vector<std::string> missing_;
};

}  // namespace

void check_model_tensors(const GgufFile& file, const Architecture& architecture,
                         const ModelSpec& spec) {
  TensorCheck(file, architecture, spec).run();
}

}  // namespace strata::engine

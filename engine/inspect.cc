#include "engine/inspect.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>

#include "base/error.h"
#include "engine/gguf/dequantise.h"
#include "engine/gguf/gguf_head.h"
#include "engine/model_spec.h"
#include "engine/sha256.h"

namespace strata::engine {
namespace {

constexpr std::string_view kTemplateKey = "tokenizer.chat_template";

/// The value of a getter, or nothing where the key is absent or of another type: facts are
/// gathered, not demanded.
template <typename Get>
auto lenient(Get get) -> decltype(get()) {
  try {
    return get();
  } catch (const Error&) {
    return {};
  }
}

/// Text of the file for one line of a terminal: control characters could move the cursor or hide
/// text. In UTF-8 a terminal also obeys U+0080 to U+009F, written c2 80 to c2 9f.
std::string one_line(const GgufFile& file, std::string_view key) {
  std::string text(lenient([&] { return file.get_string(key); }).value_or(""));
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const uint8_t next = i + 1 < text.size() ? static_cast<uint8_t>(text[i + 1]) : 0;
    if (byte < 0x20 || byte == 0x7f) text[i] = '?';
    if (byte == 0xc2 && next >= 0x80 && next <= 0x9f) text[i] = text[i + 1] = '?';
  }
  return text;
}

std::optional<uint32_t> narrow(std::optional<uint64_t> value) {
  if (!value || *value > std::numeric_limits<uint32_t>::max()) return std::nullopt;
  return static_cast<uint32_t>(*value);
}

/// A scalar, or the largest of a per-layer array.
std::optional<uint32_t> largest(const GgufFile& file, const std::string& key) {
  const auto values = lenient([&] { return file.get_uints(key); });
  if (!values || values->empty()) return std::nullopt;
  return narrow(*std::ranges::max_element(*values));
}

void fill_from_keys(const GgufFile& file, ModelFacts& facts) {
  const std::string prefix = facts.architecture + ".";
  facts.n_layers = largest(file, prefix + "block_count");
  facts.n_heads = largest(file, prefix + "attention.head_count");
  facts.n_kv_heads = largest(file, prefix + "attention.head_count_kv");
  facts.head_dim = largest(file, prefix + "attention.key_length");
  facts.d_model = largest(file, prefix + "embedding_length");
  facts.d_ff = largest(file, prefix + "feed_forward_length");
  facts.n_ctx_train = largest(file, prefix + "context_length");
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  facts.vocab_size = narrow(embedding ? embedding->n_rows() : facts.n_tokens);
}

void fill_from_shape(const ModelShape& shape, ModelFacts& facts) {
  const auto most = [&](auto member) { return std::ranges::max(shape.layers, {}, member).*member; };
  facts.n_layers = shape.n_layers;
  facts.n_heads = most(&LayerShape::n_heads);
  facts.n_kv_heads = most(&LayerShape::n_kv_heads);
  facts.d_ff = most(&LayerShape::d_ff);
  facts.head_dim = shape.head_dim;
  facts.d_model = shape.d_model;
  facts.vocab_size = shape.vocab_size;
  facts.n_ctx_train = shape.n_ctx_train;
  facts.kv_bytes_per_token = kv_bytes_per_token(shape);
  facts.layers = shape.layers;
}

void fill_tensors(const GgufFile& file, ModelFacts& facts) {
  facts.tensors = file.tensors();
  for (const GgufTensor& tensor : file.tensors()) {
    facts.parameters += tensor.shape[0] *
                        tensor.n_rows();  // at most four elements a byte of a file without overlaps
    const std::string_view type = tensor_type_info(tensor.type).name;
    auto use = std::ranges::find(facts.tensor_types, type, &TensorTypeUse::type);
    if (use == facts.tensor_types.end())
      use = facts.tensor_types.insert(use, TensorTypeUse{type, 0, 0});
    ++use->n_tensors;
    use->bytes += tensor.bytes;
  }
  std::ranges::sort(facts.tensor_types, [](const TensorTypeUse& a, const TensorTypeUse& b) {
    return a.bytes != b.bytes ? a.bytes > b.bytes : a.type < b.type;
  });
}

void fill_text(const GgufFile& file, ModelFacts& facts) {
  facts.tokenizer_model = one_line(file, "tokenizer.ggml.model");
  facts.tokenizer_pre = one_line(file, "tokenizer.ggml.pre");
  if (const GgufValue* tokens = file.find("tokenizer.ggml.tokens"); tokens && tokens->is_array)
    facts.n_tokens = tokens->size();
  if (const auto text = lenient([&] { return file.get_string(kTemplateKey); })) {
    facts.chat_template = std::string(*text);
    facts.chat_template_sha256 = sha256_hex(*text);
  }
  for (const auto& [key, value] : file.metadata())
    if (key.size() > kTemplateKey.size() + 1 && key.starts_with(kTemplateKey) &&
        key[kTemplateKey.size()] == '.')
      facts.named_templates.push_back(printable(key.substr(kTemplateKey.size() + 1)));
}

/// Counts what is not finite in one decoded piece that starts at element `begin` of its tensor.
void scan(std::span<const float> values, uint64_t begin, TensorProblem& problem) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    if (problem.n_nan + problem.n_infinite == 0) problem.first_element = begin + i;
    ++(std::isnan(values[i]) ? problem.n_nan : problem.n_infinite);
  }
}

}  // namespace

ModelFacts inspect_model(const GgufFile& file) {
  ModelFacts facts;
  facts.architecture = one_line(file, "general.architecture");
  facts.name = one_line(file, "general.name");
  facts.license = one_line(file, "general.license");
  facts.file_bytes = file.file_bytes();
  facts.gguf_version = file.version();
  facts.n_shards = file.n_shards();
  fill_tensors(file, facts);
  fill_text(file, facts);
  try {
    fill_from_shape(read_model_spec(file).shape, facts);
    facts.can_run = true;
  } catch (const Error& error) {
    facts.why_not = error.what();
    facts.why_not_where = error.where();
    facts.remedy = error.remedy();
    fill_from_keys(file, facts);
  }
  return facts;
}

std::string_view layer_kind_name(LayerKind kind) {
  switch (kind) {
    case LayerKind::kFull:
      return "full";
    case LayerKind::kWindow:
      return "window";
    case LayerKind::kShared:
      return "shared";
    case LayerKind::kLatent:
      return "latent";
    case LayerKind::kRecurrent:
      return "recurrent";
  }
  return "unknown";
}

CheckReport check_tensors(const GgufFile& file,
                          const std::function<bool(uint64_t, uint64_t)>& progress) {
  constexpr uint64_t kPieceElements = uint64_t{1}
                                      << 18;  // a multiple of every type's block; 1 MiB decoded
  uint64_t total_bytes = 0;
  for (const GgufTensor& tensor : file.tensors()) total_bytes += tensor.bytes;
  CheckReport report;
  std::vector<std::byte> bytes;
  std::vector<float> values;
  for (const GgufTensor& tensor : file.tensors()) {
    const uint64_t n_elements = tensor.shape[0] * tensor.n_rows();
    TensorProblem problem{.tensor = tensor.name};
    for (uint64_t begin = 0; begin < n_elements; begin += kPieceElements) {
      const uint64_t n = std::min(kPieceElements, n_elements - begin);
      bytes.resize(tensor_row_bytes(tensor.type, n));
      values.resize(n);
      file.read(tensor, tensor_row_bytes(tensor.type, begin), bytes);
      dequantise(tensor.type, bytes, values);
      scan(values, begin, problem);
      report.bytes_read += bytes.size();
      if (progress && !progress(report.bytes_read, total_bytes))
        throw Error(ErrorCode::kCancelled, "the check was stopped", file.path());
    }
    if (problem.n_nan + problem.n_infinite > 0) report.problems.push_back(std::move(problem));
    ++report.n_tensors;
  }
  return report;
}

}  // namespace strata::engine

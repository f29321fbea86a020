// engine/inspect.h - the facts `strata inspect` prints of a model file, and `--check`, which reads
// every tensor. Why: the facts of a file that Strata cannot run are still wanted; what is missing
// there says so instead of failing.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/model_shape.h"
#include "engine/gguf/gguf_file.h"

namespace strata::engine {

struct TensorTypeUse {
  std::string_view type;  // "Q4_K"
  uint64_t n_tensors = 0;
  uint64_t bytes = 0;
};

/// Names are those of `inspect --json`. Empty or absent: the file does not say, or says it wrongly.
/// Strings come from the file: control characters are replaced in all but `chat_template`; they may
/// still not be UTF-8.
struct ModelFacts {
  std::string architecture, name, license;
  uint64_t file_bytes = 0;  // all shards
  uint32_t gguf_version = 0;
  uint32_t n_shards = 1;
  uint64_t parameters = 0;  // elements of all tensors
  // The largest where layers differ.
  std::optional<uint32_t> n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff;
  std::optional<uint32_t> vocab_size, n_ctx_train;
  std::optional<uint64_t> kv_bytes_per_token;  // f16
  std::vector<TensorTypeUse> tensor_types;     // by bytes, largest first, then by name
  std::string tokenizer_model, tokenizer_pre;
  std::optional<uint64_t> n_tokens;          // entries of the tokenizer
  std::optional<std::string> chat_template;  // tokenizer.chat_template, as it stands
  std::string chat_template_sha256;          // of its bytes; empty where there is none
  std::vector<std::string> named_templates;  // NAME of tokenizer.chat_template.NAME
  std::vector<LayerShape> layers;            // [n_layers] where Strata runs the model, else empty
  std::vector<GgufTensor> tensors;           // file order
  bool can_run = false;
  std::string why_not, why_not_where, remedy;  // of the error that running it would give
};

/// Errors: none that the file's content causes.
ModelFacts inspect_model(const GgufFile& file);

std::string_view layer_kind_name(LayerKind kind);  // "full", "window", ...

/// A tensor whose decoded values are not all finite.
struct TensorProblem {
  std::string tensor;
  uint64_t n_nan = 0;
  uint64_t n_infinite = 0;
  uint64_t first_element = 0;  // index in file order
};

struct CheckReport {
  uint64_t n_tensors = 0;
  uint64_t bytes_read = 0;
  std::vector<TensorProblem> problems;
};

/// Reads and decodes every tensor once, in pieces of about 1 MiB. A scale that is NaN or infinite
/// shows in the values it scales. `progress(done_bytes, total_bytes)` after each piece; it returns
/// false to stop. Errors: kIo, kCancelled.
CheckReport check_tensors(const GgufFile& file,
                          const std::function<bool(uint64_t, uint64_t)>& progress = {});

}  // namespace strata::engine

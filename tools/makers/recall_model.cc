#include "tools/makers/recall_model.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "engine/gguf/gguf_writer.h"
#include "engine/model_spec.h"
#include "tools/makers/recall_weights.h"

namespace strata::makers {
namespace {

// The vocabulary's own tokens, in the order that other engines expect of SPM.
constexpr uint32_t kUnknown = 0, kBegin = 1, kEnd = 2, kBytes = 256;
constexpr uint32_t kSpace = 3 + kBytes, kFirstWord = kSpace + 2;
constexpr const char* kSpaceMark = "\xE2\x96\x81";  // U+2581

// What of the options the tensors do not show.
constexpr const char* kKeyWordsKey = "strata.recall.key_words";
constexpr const char* kAliasKey = "strata.recall.asks_by_alias";

constexpr int32_t kNormalKind = 1, kUnknownKind = 2, kControlKind = 3, kByteKind = 6;

void check_range(const char* what, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return;
  throw Error(ErrorCode::kUsage, fmt::format("wanted {} to {}, found {}", min, max, value), what);
}

/// Words are grown by merging one character after another to the right, each step a piece of its
/// own: "w" "w5" "w57", with the space mark in front.
void add_vocabulary(engine::GgufWriter& writer, uint32_t n_words) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> kinds = {kUnknownKind, kControlKind, kControlKind};
  for (uint32_t byte = 0; byte < kBytes; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    kinds.push_back(kByteKind);
  }
  tokens.emplace_back(kSpaceMark);
  tokens.push_back(fmt::format("{}w", kSpaceMark));
  for (uint32_t word = 0; word < n_words; ++word)
    tokens.push_back(fmt::format("{}w{}", kSpaceMark, word));
  kinds.resize(tokens.size(), kNormalKind);
  std::vector<float> scores(tokens.size());
  for (size_t i = kSpace; i < scores.size(); ++i) scores[i] = -static_cast<float>(i);
  writer.add_string("tokenizer.ggml.model", "llama");
  writer.add_string("tokenizer.ggml.pre", "default");
  writer.add_strings("tokenizer.ggml.tokens", tokens);
  writer.add_reals("tokenizer.ggml.scores", scores);
  writer.add_ints("tokenizer.ggml.token_type", kinds);
  writer.add_uint("tokenizer.ggml.bos_token_id", kBegin);
  writer.add_uint("tokenizer.ggml.eos_token_id", kEnd);
  writer.add_uint("tokenizer.ggml.unknown_token_id", kUnknown);
  writer.add_bool("tokenizer.ggml.add_bos_token", true);
  writer.add_bool("tokenizer.ggml.add_eos_token", false);
  writer.add_bool("tokenizer.ggml.add_space_prefix", true);
}

void add_hyper_parameters(engine::GgufWriter& writer, const RecallOptions& options,
                          const RecallWeights& weights) {
  writer.add_string("general.architecture", "llama");
  writer.add_string("general.name",
                    fmt::format("recall, {} hop(s), seed {}", options.n_layers - 1, options.seed));
  writer.add_string("general.license", "apache-2.0");
  writer.add_uint(kKeyWordsKey, options.key_words);
  writer.add_bool(kAliasKey, options.asks_by_alias);
  writer.add_uint("general.file_type", 0);  // all F32
  writer.add_uint("llama.block_count", options.n_layers);
  writer.add_uint("llama.context_length", kRecallContext);
  writer.add_uint("llama.embedding_length", weights.d_model());
  writer.add_uint("llama.feed_forward_length", RecallWeights::kFeedForward);
  writer.add_uint("llama.attention.head_count", options.n_kv_heads * options.group);
  writer.add_uint("llama.attention.head_count_kv", options.n_kv_heads);
  writer.add_uint("llama.attention.key_length", options.head_dim);
  writer.add_uint("llama.attention.value_length", options.head_dim);
  writer.add_real("llama.attention.layer_norm_rms_epsilon", RecallWeights::kNormEpsilon);
  writer.add_uint("llama.rope.dimension_count", options.head_dim);
  writer.add_real("llama.rope.freq_base", RecallWeights::kRopeBase);
  writer.add_uint("llama.vocab_size", options.vocab_size);
}

}  // namespace

RecallOptions recall_variant() { return {}; }

RecallOptions key_value_variant() {
  RecallOptions options;
  options.group = 2;
  options.key_words = 2;
  return options;
}

RecallOptions multi_hop_variant() {
  RecallOptions options;
  options.n_layers = 3;
  options.group = 2;
  options.asks_by_alias = true;
  return options;
}

std::optional<RecallOptions> read_recall_options(const engine::GgufFile& file) {
  const auto key_words = file.get_uint(kKeyWordsKey);
  if (!key_words) return std::nullopt;
  const ModelShape shape = engine::read_model_spec(file).shape;
  RecallOptions options;
  options.vocab_size = shape.vocab_size;
  options.n_layers = shape.n_layers;
  options.n_kv_heads = shape.layers.front().n_kv_heads;
  options.group = shape.layers.front().n_heads / options.n_kv_heads;
  options.head_dim = shape.head_dim;
  options.key_words = static_cast<uint32_t>(*key_words);
  options.asks_by_alias = file.get_bool(kAliasKey).value_or(false);
  return options;
}

RecallModel RecallModel::make(const RecallOptions& options) {
  check_range("vocabulary", options.vocab_size, kFirstWord + 16, 1u << 20);
  check_range("layers", options.n_layers, 2, 64);
  check_range("kv heads", options.n_kv_heads, 1, 64);
  check_range("group", options.group, 1, 16);
  check_range("head_dim", options.head_dim, 64, 512);
  check_range("key words", options.key_words, 1, 2);
  if (options.head_dim % 8 != 0)
    throw Error(ErrorCode::kUsage,
                fmt::format("wanted a multiple of 8, found {}", options.head_dim), "head_dim");
  const uint32_t n_roles = RecallWeights::n_roles(options);
  if (options.group < n_roles)
    throw Error(ErrorCode::kUsage,
                fmt::format("wanted a group of {} or more, found {}", n_roles, options.group),
                "group", "layer 0 needs a query head for each thing that it notes");
  if (options.key_words == 2 && (options.n_layers != 2 || options.asks_by_alias))
    throw Error(ErrorCode::kUsage, "keys of two words need two layers and no aliases", "key words");
  const uint32_t n_words = (options.vocab_size - kFirstWord) / 4 * 4;
  const uint32_t dims = RecallWeights::code_room(options);
  if (!RecallCode::fits(n_words, dims, options.n_kv_heads))
    throw Error(ErrorCode::kUsage,
                fmt::format("{} words in {} slices do not fit codes of {} dimensions", n_words,
                            options.n_kv_heads, dims),
                "head_dim", "raise head_dim, or lower kv heads or vocabulary");
  return {options, n_words, RecallCode(n_words, dims, options.n_kv_heads, options.seed)};
}

RecallModel::RecallModel(const RecallOptions& options, uint32_t n_words, const RecallCode& code)
    : options_(options), n_words_(n_words), code_(code) {}

int32_t RecallModel::token(uint32_t word) const {
  STRATA_CHECK(word < n_words_, "word %u of %u", word, n_words_);
  return static_cast<int32_t>(kFirstWord + word);
}

uint32_t RecallModel::word(int32_t token) const {
  const int64_t word = int64_t{token} - kFirstWord;
  return word < 0 || word >= n_words_ ? n_words_ : static_cast<uint32_t>(word);
}

std::string RecallModel::text(const std::vector<uint32_t>& words) const {
  std::string text;
  for (const uint32_t word : words) text += fmt::format("{}w{}", text.empty() ? "" : " ", word);
  return text;
}

std::vector<double> RecallModel::phases() const { return RecallWeights(options_, code_).phases(); }

void RecallModel::write(const std::string& path) const {
  const RecallWeights weights(options_, code_);
  engine::GgufWriter writer;
  add_hyper_parameters(writer, options_, weights);
  add_vocabulary(writer, options_.vocab_size - kFirstWord);
  const RecallVocabulary vocabulary{.size = options_.vocab_size,
                                    .unknown = kUnknown,
                                    .begin = kBegin,
                                    .first_word = kFirstWord,
                                    .n_words = n_words_};
  const std::vector<RecallTensor> tensors = weights.tensors(vocabulary);
  for (const RecallTensor& tensor : tensors)
    writer.add_tensor(tensor.name, TensorType::kF32, tensor.shape,
                      std::as_bytes(std::span(tensor.values)));
  writer.write(path);
}

}  // namespace strata::makers

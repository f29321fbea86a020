// tests/engine/tiny_engine.h - a small model loaded and ready to walk, and models whose answers are
// known beforehand.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cpu_attn/kernels.h"
#include "engine/gguf/gguf_file.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/text/tokenizer.h"
#include "engine/walk.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"

namespace strata::engine::testing {

/// A model file that goes with the object.
class TemporaryModel {
 public:
  explicit TemporaryModel(const SmallModel& model) : path_(folder_.path("model.gguf")) {
    model.writer().write(path_);
  }
  const std::string& path() const { return path_; }

 private:
  TestFolder folder_;
  std::string path_;
};

/// Every weight drawn anew: every position of the context then moves every logit.
inline void draw_weights(SmallModel& model, uint32_t seed) {
  std::mt19937 random(seed);
  for (SmallModel::Tensor& tensor : model.tensors)
    for (float& value : tensor.values)
      value = static_cast<float>(random()) / 4294967296.0f - 0.5f +
              (tensor.shape.size() == 1 ? 1.0f : 0.0f);  // norms around 1
}

// The vocabulary of letter models: <unk> <s> </s>, a..z, a space, the two bytes of "é".
inline constexpr TokenId kEnd = 2, kLetterA = 3, kSpace = 29, kByteC3 = 30, kByteA9 = 31;
inline constexpr uint32_t kLetterVocabulary = 32;

inline TokenId letter(char c) { return kLetterA + (c - 'a'); }

/// `q` is what that letter is written as.
inline void set_letters(SmallModel& model, const std::string& q = "q") {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> kinds = {2, 3, 3};
  for (char c = 'a'; c <= 'z'; ++c) {
    tokens.push_back(c == 'q' ? q : std::string(1, c));
    kinds.push_back(1);
  }
  for (const char* last : {"\xE2\x96\x81", "<0xC3>", "<0xA9>"}) tokens.emplace_back(last);
  kinds.insert(kinds.end(), {1, 6, 6});
  model.set("tokenizer.ggml.scores", std::vector<float>(tokens.size(), 0.0f));
  model.set("tokenizer.ggml.tokens", std::move(tokens));
  model.set("tokenizer.ggml.token_type", std::move(kinds));
}

/// After token t comes next[t], whatever stood before: embeddings are unit vectors, the layers add
/// nothing, and the output matrix sends each unit vector to its successor. The last letters of a
/// chain without an entry repeat themselves.
inline SmallModel make_chain_model(const std::vector<std::pair<TokenId, TokenId>>& next,
                                   uint32_t n_ctx_train = 64) {
  SmallModel model = make_small_model(
      {.d_model = kLetterVocabulary, .vocab_size = kLetterVocabulary, .n_ctx_train = n_ctx_train});
  set_letters(model);
  const auto clear = [&](const std::string& name) -> std::vector<float>& {
    auto& values = model.tensor(name).values;
    values.assign(values.size(), 0.0f);
    return values;
  };
  std::vector<float>& embedding = clear("token_embd.weight");
  for (uint32_t i = 0; i < kLetterVocabulary; ++i) embedding[i * kLetterVocabulary + i] = 1;
  for (const char* layer : {"blk.0.", "blk.1."}) {
    clear(std::string(layer) + "attn_output.weight");
    clear(std::string(layer) + "ffn_down.weight");
  }
  model.add_tensor("output.weight", {kLetterVocabulary, kLetterVocabulary}, 0);
  std::vector<float>& output = model.tensor("output.weight").values;
  std::vector<TokenId> successor(kLetterVocabulary);
  for (uint32_t i = 0; i < kLetterVocabulary; ++i) successor[i] = static_cast<TokenId>(i);
  for (const auto& [from, to] : next) successor[static_cast<size_t>(from)] = to;
  for (uint32_t from = 0; from < kLetterVocabulary; ++from)
    output[static_cast<uint32_t>(successor[from]) * kLetterVocabulary + from] = 1;
  return model;
}

struct TinyOptions {
  uint32_t n_ctx = 64;
  uint32_t chunk_rows = 16;
  uint32_t n_threads = 1;
  uint64_t kv_bytes = 0;             // 0 = what n_ctx needs, twice, for a fork
  std::vector<PieceSet> streamed{};  // per layer; empty = all weights stay
};

/// All that Engine holds, with the sizes a test wants.
class TinyEngine {
 public:
  explicit TinyEngine(const SmallModel& model, const TinyOptions& options = {})
      : temporary_(model),
        file_(GgufFile::open(temporary_.path())),
        tokenizer_(Tokenizer::make(read_tokenizer_spec(file_))),
        pool_(options.n_threads),
        model_(Model::load(file_, read_model_spec(file_), pool_, {}, weight_options(options))),
        cache_(model_.shape(), kv_options(options)),
        walk_(model_, cache_, cpu_attn::choose_kernels(""), pool_, options.chunk_rows) {}

  const GgufFile& file() const { return file_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const Model& model() const { return model_; }
  KvCache& cache() { return cache_; }
  Walk& walk() { return walk_; }

 private:
  KvCacheOptions kv_options(const TinyOptions& options) const {
    KvCacheOptions kv;
    kv.chunk_rows = options.chunk_rows;
    kv.n_ctx = options.n_ctx;
    kv.budget_bytes = options.kv_bytes;
    if (kv.budget_bytes == 0)
      kv.budget_bytes = 2 * kv_bytes_for_context(model_.shape(), kv.k_codec, kv.v_codec,
                                                 options.n_ctx, options.chunk_rows);
    return kv;
  }
  WeightOptions weight_options(const TinyOptions& options) const {
    WeightOptions weights;
    if (!options.streamed.empty())
      weights.plan = weight_plan_of(weight_sizes(file_, read_model_spec(file_)), options.streamed);
    return weights;
  }
  TemporaryModel temporary_;
  GgufFile file_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ThreadPool pool_;
  Model model_;
  KvCache cache_;
  Walk walk_;
};

}  // namespace strata::engine::testing

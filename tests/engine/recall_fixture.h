// tests/engine/recall_fixture.h - a recall model at work: reads a text once, then answers questions
// on forks of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "cpu_attn/kernels.h"
#include "engine/gguf/gguf_file.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/text/tokenizer.h"
#include "engine/walk.h"
#include "tests/engine/test_folder.h"
#include "tools/makers/recall_model.h"
#include "tools/makers/recall_text.h"

namespace strata::engine::testing {

using Words = std::vector<uint32_t>;

struct RecallSetup {
  std::string isa;  // "" = the widest
  uint32_t n_threads = 2;
  KvCodec codec = KvCodec::kF16;
};

inline std::string setup_text(const RecallSetup& setup) {
  return (setup.isa.empty() ? "widest" : setup.isa) + ", " + std::to_string(setup.n_threads) +
         " threads, " + kv_codec_name(setup.codec);
}

/// A model file that goes with this object.
class RecallFile {
 public:
  explicit RecallFile(const makers::RecallModel& model) : path_(folder_.path("recall.gguf")) {
    model.write(path_);
  }
  GgufFile open() const { return GgufFile::open(path_); }

 private:
  TestFolder folder_;
  std::string path_;
};

class RecallRun {
 public:
  static constexpr uint32_t kChunk = 512;

  /// Room for one text of n_tokens and a question with its answer.
  RecallRun(const makers::RecallModel& made, uint32_t n_tokens, const RecallSetup& setup = {})
      : made_(made),
        file_(RecallFile(made).open()),
        pool_(setup.n_threads),
        model_(Model::load(file_, read_model_spec(file_), pool_)),
        cache_(model_.shape(), cache_options(n_tokens, setup.codec)),
        walk_(model_, cache_, cpu_attn::choose_kernels(setup.isa), pool_, kChunk),
        text_(cache_.make_sequence()) {}

  /// The begin token, then the words.
  void read(const Words& words) {
    std::vector<int32_t> tokens = {read_tokenizer_spec(file_).bos};
    for (const uint32_t word : words) tokens.push_back(made_.token(word));
    prefill(walk_, text_, tokens, kChunk);
  }

  /// The n greedy words that follow a question; n_words() where the answer is no word.
  Words ask(const Words& question, uint64_t n) {
    Sequence sequence = text_.fork();
    std::vector<int32_t> tokens;
    for (const uint32_t word : question) tokens.push_back(made_.token(word));
    Words answer;
    while (answer.size() < n) {
      prefill(walk_, sequence, tokens, kChunk);
      const auto logits = walk_.logits(0);
      tokens = {static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin())};
      answer.push_back(made_.word(tokens.front()));
    }
    return answer;
  }

  /// The logit of a word after a question.
  float logit_after(const Words& question, uint32_t word) {
    ask(question, 1);
    return walk_.logits(0)[static_cast<size_t>(made_.token(word))];
  }

  /// Fills the block that holds a word of the text with zeros while `then` runs.
  template <class Then>
  void without_block(uint32_t layer, uint32_t kv_head, uint32_t word_idx, const Then& then) {
    std::byte* block = cache_.block(text_, layer, kv_head, word_idx + 1);
    const std::vector<std::byte> kept(block, block + cache_.layout().block_bytes);
    std::fill_n(block, kept.size(), std::byte{0});
    then();
    std::ranges::copy(kept, block);
  }

  const GgufFile& file() const { return file_; }
  Walk& walk() { return walk_; }
  KvCache& cache() { return cache_; }

 private:
  KvCacheOptions cache_options(uint32_t n_tokens, KvCodec codec) const {
    constexpr uint32_t kQuestion = 128;  // its rows, and the open block that a fork copies
    KvCacheOptions options{.k_codec = codec, .v_codec = codec, .chunk_rows = kChunk};
    options.budget_bytes =
        kv_bytes_for_context(model_.shape(), codec, codec, n_tokens + kQuestion, kChunk);
    return options;
  }

  makers::RecallModel made_;
  GgufFile file_;
  ThreadPool pool_;
  Model model_;
  KvCache cache_;
  Walk walk_;
  Sequence text_;
};

}  // namespace strata::engine::testing

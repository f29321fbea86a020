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
#include "engine/kv_placement.h"
#include "engine/model.h"
#include "engine/text/tokenizer.h"
#include "engine/walk.h"
#include "tests/engine/test_folder.h"
#include "tests/tiers/simulated_spill.h"
#include "tools/makers/recall_model.h"
#include "tools/makers/recall_text.h"

namespace strata::engine::testing {

using Words = std::vector<uint32_t>;

struct RecallSetup {
  std::string isa = "";  // "" = the widest
  uint32_t n_threads = 2;
  KvCodec codec = KvCodec::kF16;
  uint32_t chunk_rows = 512;
  /// Positions of K and V that DRAM holds; the others spill. 0 = all, and no spill.
  uint32_t dram_positions = 0;
  /// The folder of the spill file; empty = a simulated disk.
  std::string spill_directory = "";
  tiers::IoChoice io = tiers::IoChoice::kAuto;
  std::optional<index::Method> method = {};  // of retrieval: questions and answers select
  index::Rule rule = {};
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
  /// Room for one text of n_tokens and a question with its answer.
  RecallRun(const makers::RecallModel& made, uint32_t n_tokens, const RecallSetup& setup = {})
      : made_(made),
        setup_(setup),
        file_(RecallFile(made).open()),
        pool_(setup.n_threads),
        model_(Model::load(file_, read_model_spec(file_), pool_)),
        selectors_(selectors(n_tokens)),
        cache_(model_.shape(), cache_options(n_tokens), spill(n_tokens)),
        walk_(model_, cache_, cpu_attn::choose_kernels(setup.isa), pool_, setup.chunk_rows),
        text_(cache_.make_sequence()) {
    if (selectors_) walk_.select_by(setup.rule, n_tokens + kQuestion);
  }

  /// The begin token, then the words; the last n_selected of them as an answer is: by selected
  /// steps of one row.
  void read(const Words& words, uint32_t n_selected = 0) {
    std::vector<int32_t> tokens = {read_tokenizer_spec(file_).bos};
    for (const uint32_t word : words) tokens.push_back(made_.token(word));
    const std::span<const int32_t> all = tokens;
    prefill(walk_, text_, all.first(all.size() - n_selected), setup_.chunk_rows);
    for (const int32_t& token : all.last(n_selected))
      prefill(walk_, text_, {&token, 1}, 1, {}, Attention::kSelected);
  }

  /// The n greedy words that follow a question; n_words() where the answer is no word.
  Words ask(const Words& question, uint64_t n) {
    Sequence sequence = text_.fork();
    std::vector<int32_t> tokens;
    for (const uint32_t word : question) tokens.push_back(made_.token(word));
    Words answer;
    while (answer.size() < n) {
      prefill(walk_, sequence, tokens, setup_.chunk_rows, {},
              selectors_ ? Attention::kSelected : Attention::kExact);
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
    auto* block = const_cast<std::byte*>(cache_.block(text_, layer, kv_head, word_idx + 1));
    const std::vector<std::byte> kept(block, block + cache_.layout().block_bytes);
    std::fill_n(block, kept.size(), std::byte{0});
    then();
    std::ranges::copy(kept, block);
  }

  const GgufFile& file() const { return file_; }
  Walk& walk() { return walk_; }
  KvCache& cache() { return cache_; }

 private:
  static constexpr uint32_t kQuestion = 128;  // rows of a question, and the block a fork copies

  std::unique_ptr<index::SelectorSource> selectors(uint32_t n_tokens) const {
    if (!setup_.method) return nullptr;
    return std::make_unique<index::SelectorSource>(
        *setup_.method,
        index_shape(model_.shape(), setup_.codec, setup_.codec, n_tokens + kQuestion),
        cpu_attn::choose_kernels(setup_.isa));
  }
  KvContext context(uint32_t n_tokens) const {
    return {.k_codec = setup_.codec,
            .v_codec = setup_.codec,
            .n_ctx = n_tokens + kQuestion,
            .chunk_rows = setup_.chunk_rows,
            .method = setup_.method};
  }
  KvPlacement placement(uint32_t n_tokens) const {
    const KvContext all = context(n_tokens);
    if (setup_.dram_positions == 0) return place_whole(model_.shape(), all);
    KvPlacement spilling =
        place_spilling(model_.shape(), all, smallest_spilling_dram(model_.shape(), all));
    spilling.slot_bytes = kv_bytes_for_context(model_.shape(), all.k_codec, all.v_codec,
                                               setup_.dram_positions, all.chunk_rows);
    return spilling;
  }
  KvCacheOptions cache_options(uint32_t n_tokens) const {
    KvCacheOptions options{
        .k_codec = setup_.codec, .v_codec = setup_.codec, .chunk_rows = setup_.chunk_rows};
    options.budget_bytes = placement(n_tokens).slot_bytes;
    options.selectors = selectors_.get();
    return options;
  }
  std::unique_ptr<tiers::Spill> spill(uint32_t n_tokens) const {
    const KvPlacement placed = placement(n_tokens);
    if (!placed.is_spilling()) return nullptr;
    if (!setup_.spill_directory.empty()) {
      std::vector<std::string> notices;
      return tiers::open_spill({.directory = setup_.spill_directory,
                                .budget_bytes = placed.nvme_bytes,
                                .place_bytes = placed.place_bytes,
                                .n_frames = placed.n_frames,
                                .block_bytes = placed.block_bytes,
                                .n_block_frames = placed.n_block_frames,
                                .io = setup_.io},
                               notices);
    }
    const auto n_places = static_cast<uint32_t>(placed.nvme_bytes / placed.place_bytes);
    const tiers::SimulatedDisk disk{.capacity_bytes = placed.nvme_bytes,
                                    .latency_spread = std::chrono::milliseconds(1)};
    auto made =
        tiers::testing::make_simulated_spill(disk, placed.place_bytes, n_places, placed.n_frames);
    if (placed.n_block_frames > 0)
      tiers::testing::add_block_transfers(made, disk, placed.block_bytes, placed.n_block_frames);
    return std::move(made.spill);
  }

  makers::RecallModel made_;
  RecallSetup setup_;
  GgufFile file_;
  ThreadPool pool_;
  Model model_;
  std::unique_ptr<index::SelectorSource> selectors_;
  KvCache cache_;
  Walk walk_;
  Sequence text_;
};

}  // namespace strata::engine::testing

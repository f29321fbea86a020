// Every allocation failure while a context is saved or restored: no half of one is left, and what
// could not be saved or found this time is the next.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/checked_math.h"
#include "cpu_attn/kernels.h"
#include "engine/context_cache.h"
#include "tests/allocation/refused_memory.h"
#include "tests/engine/tiny_engine.h"

namespace strata::engine {
namespace {

using strata::testing::expect_survives_refusals;
using testing::make_small_model;
using testing::SmallModel;
using testing::TestFolder;
using testing::TinyEngine;

constexpr uint32_t kContext = 1024;
constexpr uint32_t kPrompt = 600;
constexpr uint32_t kChunk = 64;

SmallModel model_of(const std::string& architecture) {
  SmallModel model = make_small_model({.architecture = architecture,
                                       .n_layers = 3,
                                       .vocab_size = testing::kLetterVocabulary,
                                       .n_ctx_train = kContext});
  testing::draw_weights(model, 7);
  testing::set_letters(model);
  return model;
}

size_t n_threads() {
  size_t n = 0;
  for ([[maybe_unused]] const auto& thread : std::filesystem::directory_iterator("/proc/self/task"))
    ++n;
  return n;
}

/// A walk that reads what is saved in a folder, and saves there.
class SavedWalk {
 public:
  explicit SavedWalk(const std::string& architecture, std::optional<index::Method> method = {})
      : loaded_(model_of(architecture)),
        selectors_(method
                       ? std::make_unique<index::SelectorSource>(
                             *method, index_shape(shape(), KvCodec::kF16, KvCodec::kF16, kContext),
                             cpu_attn::choose_kernels(""))
                       : nullptr),
        cache_(shape(), options(), transfers()),
        pool_(1),
        walk_(loaded_.model(), cache_, cpu_attn::choose_kernels(""), pool_, kChunk),
        n_threads_(n_threads()) {}

  /// Reads a text anew and saves it. What is said of that.
  std::string save() {
    ContextCache contexts(of(true), cache_, {1, 2}, "test");
    Sequence sequence = cache_.make_sequence();
    contexts.begin(sequence, text_);
    read(sequence, contexts);
    contexts.finish(walk_, sequence);
    return contexts.problem().empty() && contexts.rows_problem().empty()
               ? std::to_string(contexts.counts().saved_tokens) + " saved"
               : "not saved";
  }
  /// The logits of a text whose beginning is restored.
  std::string restore() {
    ContextCache contexts(of(false), cache_, {1, 2}, "test");
    Sequence sequence = contexts.restore(cache_, std::span(text_).first(kPrompt - 1));
    read(sequence, contexts);
    std::string logits;
    for (const float logit : walk_.logits(0)) logits += std::to_string(logit) + " ";
    return logits;
  }
  /// When the threads of saving and looking up have ended.
  std::string left() {
    while (n_threads() > n_threads_) std::this_thread::yield();
    while (cache_.store().wait_for_transfer()) continue;
    uint64_t n_bad = 0;
    auto directory = tiers::PackDirectory::open(folder(), {});
    for (const tiers::PackEntry& pack : directory.packs()) {
      const auto verdict = directory.verify_pack(pack.name);
      n_bad += pack.problem.empty() && verdict && verdict->problem.empty() &&
                       verdict->n_bad_blocks == 0 && verdict->rows.empty()
                   ? 0u
                   : 1u;
    }
    for (const auto& entry : std::filesystem::directory_iterator(folder()))
      n_bad += entry.path().filename().string().starts_with(".part") ? 1u : 0u;
    return std::to_string(n_bad) + " bad files, " + std::to_string(cache_.pool().n_free()) +
           " slots, " + std::to_string(cache_.store().transfers()->n_free()) + " frames";
  }
  void forget() { std::filesystem::remove_all(folder()); }

 private:
  std::string folder() const { return disk_.path("contexts"); }
  const ModelShape& shape() const { return loaded_.model().shape(); }
  void read(Sequence& sequence, ContextCache& contexts) {
    prefill(walk_, sequence, std::span(text_).subspan(sequence.n_pos()), kChunk,
            [&](uint64_t, uint64_t) {
              contexts.save_closed(cache_, sequence);
              return true;
            });
  }
  ContextCacheOptions of(bool saves) const {
    ContextCacheOptions options;
    options.directory = folder();
    options.saves = saves;
    options.saves_rows = saves;
    options.wait_max = options.silence_max = std::chrono::minutes(5);
    return options;
  }
  KvCacheOptions options() const {
    KvCacheOptions kv;
    kv.chunk_rows = kChunk;
    kv.n_ctx = kContext;
    kv.budget_bytes = 2 * kv_bytes_for_context(shape(), kv.k_codec, kv.v_codec, kContext, kChunk);
    kv.selectors = selectors_.get();
    return kv;
  }
  std::unique_ptr<tiers::Spill> transfers() const {
    const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape().head_dim);
    std::vector<std::string> notices;
    return tiers::open_spill({.place_bytes = round_up(uint64_t{shape().layers[0].n_kv_heads} *
                                                          kExtentBlocks * layout.block_bytes,
                                                      tiers::kPlaceAlignment),
                              .n_frames = 4,
                              .io = tiers::IoChoice::kThreads},
                             notices);
  }

  const TestFolder disk_;
  TinyEngine loaded_;
  std::unique_ptr<index::SelectorSource> selectors_;
  KvCache cache_;
  ThreadPool pool_;
  Walk walk_;
  const std::vector<int32_t> text_ = std::vector<int32_t>(kPrompt, 5);
  const size_t n_threads_;
};

void expect_saves(SavedWalk& walk, const std::string& name) {
  expect_survives_refusals({.name = "saving, " + name,
                            .prepare = [&] { walk.forget(); },
                            .run = [&] { return walk.save(); },
                            .left = [&] { return walk.left(); },
                            .is_enough = [](const std::string& end) { return end == "not saved"; }},
                           80);
}

void expect_restores(SavedWalk& walk, const std::string& name) {
  (void)walk.save();
  expect_survives_refusals({.name = "restoring, " + name,
                            .run = [&] { return walk.restore(); },
                            .left = [&] { return walk.left(); }},
                           80);
}

TEST(FailingAllocations, OfSaving) {
  for (const char* architecture : {"llama", "gemma3"}) {
    SavedWalk walk(architecture);
    expect_saves(walk, architecture);
  }
  SavedWalk walk("llama", index::Method::kQuest);
  expect_saves(walk, "with index rows");
}

TEST(FailingAllocations, OfRestoring) {
  for (const char* architecture : {"llama", "gemma3"}) {
    SavedWalk walk(architecture);
    expect_restores(walk, architecture);
  }
  SavedWalk walk("llama", index::Method::kQuest);
  expect_restores(walk, "with index rows");
}

}  // namespace
}  // namespace strata::engine

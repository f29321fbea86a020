// tests/engine/zoo_fixture.h - a member of the zoo in memory, and walks over it that give the
// logits of every row.
#pragma once

#include <algorithm>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "cpu_attn/kernels.h"
#include "engine/gguf/gguf_file.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/walk.h"
#include "tests/engine/test_folder.h"
#include "tests/sanitizer.h"
#include "tools/makers/zoo.h"

namespace strata::engine::testing {

/// A model written to a file, which goes when the object does.
class ModelFile {
 public:
  explicit ModelFile(const makers::RandomTransformer& model)
      : path_(folder_.path(model.name + ".gguf")) {
    makers::write_random_transformer(model, path_);
  }
  GgufFile open() const { return GgufFile::open(path_); }

 private:
  TestFolder folder_;
  std::string path_;
};

inline Model load_model(const GgufFile& file, const RopeOverrides& overrides = {}) {
  ThreadPool pool(1);
  return Model::load(file, read_model_spec(file, overrides), pool);
}

/// The instruction sets a test walks: every one of this CPU, but the widest alone where the thread
/// sanitizer, which looks at threads and not at kernels, makes all of it ten times slower.
inline std::span<const KernelTable* const> walked_isas() {
  const auto all = cpu_attn::available_kernels();
  return sanitizer::kThread ? all.last(1) : all;
}

/// The members that a test of many texts walks: every one, but under a sanitizer three that are
/// drawn anew in every run.
inline std::vector<const makers::ZooMember*> walked_members(std::mt19937_64& random) {
  std::vector<const makers::ZooMember*> all;
  for (const makers::ZooMember& member : makers::zoo()) all.push_back(&member);
  std::ranges::shuffle(all, random);
  all.resize(std::min<size_t>(all.size(), sanitizer::rounds(all.size(), 3)));
  return all;
}

inline std::vector<int32_t> random_tokens(uint32_t n, uint32_t vocab_size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab_size);
  return tokens;
}

/// Logits of consecutive rows, [n_rows][vocab_size].
using Logits = std::vector<std::vector<float>>;

/// A member of the zoo, written, opened and loaded.
struct LoadedModel {
  explicit LoadedModel(const makers::RandomTransformer& of)
      : vocab_size(of.vocab_size), written(of), file(written.open()), model(load_model(file)) {}
  std::vector<int32_t> text(uint32_t n, uint32_t seed) const {
    return random_tokens(n, vocab_size, seed);
  }
  uint32_t vocab_size;
  ModelFile written;
  GgufFile file;
  Model model;
};

struct LoadedMember : LoadedModel {
  explicit LoadedMember(const std::string& name)
      : LoadedModel(makers::zoo_member(name).model), member(makers::zoo_member(name)) {}
  const makers::ZooMember& member;
};

/// Nothing where all bits are equal, else which row and logit differ first.
inline std::optional<std::string> first_difference(std::span<const std::vector<float>> a,
                                                   std::span<const std::vector<float>> b) {
  if (a.size() != b.size())
    return std::to_string(a.size()) + " rows and " + std::to_string(b.size());
  for (size_t row = 0; row < a.size(); ++row)
    for (size_t i = 0; i < a[row].size(); ++i)
      if (std::bit_cast<uint32_t>(a[row][i]) != std::bit_cast<uint32_t>(b[row][i]))
        return "row " + std::to_string(row) + " logit " + std::to_string(i) + ": " +
               std::to_string(a[row][i]) + " and " + std::to_string(b[row][i]);
  return std::nullopt;
}

/// Bit for bit.
inline bool is_same(std::span<const std::vector<float>> a, std::span<const std::vector<float>> b) {
  return !first_difference(a, b).has_value();
}

struct WalkSetting {
  const KernelTable* kernels = nullptr;
  uint32_t n_threads = 1;
  uint32_t chunk_rows = 512;
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t n_ctx = 512;
  uint32_t n_sequences = 1;                  // that the KV budget holds
  uint64_t kv_dram_bytes = 0;                // the KV budget; 0 = what n_ctx and n_sequences need
  std::optional<index::Method> method = {};  // of retrieval: sequences have an index
  index::Rule rule = {};
};

/// A walk with its cache and threads.
class ZooWalk {
 public:
  ZooWalk(const Model& model, const WalkSetting& setting,
          std::unique_ptr<tiers::Spill> spill = nullptr)
      : setting_(setting),
        pool_(setting.n_threads),
        selectors_(selectors(model.shape(), setting)),
        cache_(model.shape(), options(model.shape(), setting, selectors_.get()), std::move(spill)),
        walk_(model, cache_, *setting.kernels, pool_, setting.chunk_rows) {
    if (selectors_) walk_.select_by(setting.rule, setting.n_ctx);
  }

  KvCache& cache() { return cache_; }
  Walk& walk() { return walk_; }
  Sequence sequence() { return cache_.make_sequence(); }

  /// Appends tokens in chunks of the setting's size, the first of `first_rows` where that is not 0;
  /// gives the logits of every row.
  Logits feed(Sequence& sequence, std::span<const int32_t> tokens, uint32_t first_rows = 0,
              Attention attention = Attention::kExact) {
    Logits logits;
    const uint32_t chunk_rows = attention == Attention::kExact
                                    ? setting_.chunk_rows
                                    : std::min(setting_.chunk_rows, walk_.selected_rows_max());
    for (size_t done = 0; done < tokens.size();) {
      size_t n = std::min<size_t>(chunk_rows, tokens.size() - done);
      if (done == 0 && first_rows != 0) n = std::min<size_t>(n, first_rows);
      std::vector<StepRow> rows;
      for (const int32_t token : tokens.subspan(done, n)) rows.push_back({&sequence, token, true});
      for (auto& row : step(rows, attention)) logits.push_back(std::move(row));
      done += n;
    }
    return logits;
  }
  Logits feed_all(std::span<const int32_t> tokens) {
    Sequence fresh = sequence();
    return feed(fresh, tokens);
  }

  /// One step; the logits of the rows that want them.
  Logits step(std::span<const StepRow> rows, Attention attention = Attention::kExact) {
    walk_.step(rows, attention);
    Logits logits;
    for (const StepRow& row : rows) {
      if (!row.wants_logits) continue;
      const auto of_row = walk_.logits(static_cast<uint32_t>(logits.size()));
      logits.emplace_back(of_row.begin(), of_row.end());
    }
    return logits;
  }

 private:
  static std::unique_ptr<index::SelectorSource> selectors(const ModelShape& shape,
                                                          const WalkSetting& setting) {
    if (!setting.method) return nullptr;
    return std::make_unique<index::SelectorSource>(
        *setting.method, index_shape(shape, setting.k_codec, setting.v_codec, setting.n_ctx),
        *setting.kernels);
  }
  static KvCacheOptions options(const ModelShape& shape, const WalkSetting& setting,
                                const index::SelectorSource* selectors) {
    KvCacheOptions options{
        .k_codec = setting.k_codec, .v_codec = setting.v_codec, .chunk_rows = setting.chunk_rows};
    options.selectors = selectors;
    options.budget_bytes = setting.kv_dram_bytes;
    if (options.budget_bytes == 0)
      options.budget_bytes =
          setting.n_sequences * kv_bytes_for_context(shape, options.k_codec, options.v_codec,
                                                     setting.n_ctx, options.chunk_rows);
    return options;
  }

  WalkSetting setting_;
  ThreadPool pool_;
  std::unique_ptr<index::SelectorSource> selectors_;
  KvCache cache_;
  Walk walk_;
};

}  // namespace strata::engine::testing

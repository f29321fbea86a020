#include "tools/eval/split_runner.h"

#include <algorithm>

#include "base/check.h"
#include "engine/context_size.h"

namespace strata::eval {
namespace {

// A fork copies the open block, and the last block of the rest is not full.
constexpr uint64_t kForkPositions = uint64_t{2} * kBlockPositions;

engine::KvCacheOptions cache_options(const ModelShape& shape, const SplitRunner::Options& of) {
  engine::KvCacheOptions options;
  options.k_codec = of.k_codec;
  options.v_codec = of.v_codec;
  options.chunk_rows = of.chunk_rows;
  options.n_ctx = of.n_context + of.n_rest;
  // The text as it is, and as the contender has read it.
  const uint64_t n_texts = of.sparse_from < of.n_context ? 2 : 1;
  options.budget_bytes = n_texts * engine::kv_bytes_for_context(shape, of.k_codec, of.v_codec,
                                                                of.n_context, of.chunk_rows) +
                         engine::kv_bytes_for_context(shape, of.k_codec, of.v_codec,
                                                      of.n_rest + kForkPositions, of.chunk_rows);
  return options;
}

}  // namespace

void KvRead::add(const KvRead& other) {
  steps += other.steps;
  positions += other.positions;
  context_positions += other.context_positions;
  kv_bytes += other.kv_bytes;
  index_bytes += other.index_bytes;
}

double KvRead::share() const {
  return context_positions == 0
             ? 1.0
             : static_cast<double>(positions) / static_cast<double>(context_positions);
}

uint64_t SplitRunner::memory_bytes(const ModelShape& shape, const Options& options,
                                   std::span<const Contender> contenders, bool probes,
                                   uint32_t n_threads) {
  const uint64_t n_ctx = options.n_context + options.n_rest;
  const auto index_bytes = [&](index::Method method) {
    return index::index_bytes(method,
                              engine::index_shape(shape, options.k_codec, options.v_codec, n_ctx));
  };
  uint64_t largest = 0;
  for (const Contender& of : contenders) {
    uint64_t bytes = index_bytes(of.method) + engine::selection_bytes(shape, n_ctx, of.method);
    if (options.sparse_from < options.n_context)
      bytes += engine::sparse_selection_bytes(shape, n_ctx, of.method, of.rule, options.chunk_rows);
    largest = std::max(largest, bytes);
  }
  if (probes) largest += index_bytes(index::Method::kOracle);
  return cache_options(shape, options).budget_bytes + largest +
         engine::walk_buffer_bytes(shape, options.chunk_rows, n_threads);
}

SplitRunner::SplitRunner(const engine::Model& model, const KernelTable& kernels, ThreadPool& pool,
                         const Options& options)
    : kernels_(kernels),
      options_(options),
      cache_(model.shape(), cache_options(model.shape(), options)),
      walk_(model, cache_, kernels, pool, options.chunk_rows),
      text_(cache_.make_sequence()) {
  walk_.set_cancel(options.cancel);
}

void SplitRunner::read(std::span<const int32_t> tokens, const OnRead& on_read) {
  STRATA_CHECK(tokens.size() <= options_.n_context, "%zu tokens in a context of %lu", tokens.size(),
               static_cast<unsigned long>(options_.n_context));
  text_.truncate(0);
  sparse_text_.reset();
  engine::prefill(walk_, text_, tokens, options_.chunk_rows, [&](uint64_t done, uint64_t total) {
    if (on_read) on_read(done, total);
    return true;
  });
}

std::unique_ptr<index::SelectorSource> SplitRunner::make_source(index::Method method) const {
  const auto shape = engine::index_shape(cache_.shape(), options_.k_codec, options_.v_codec,
                                         options_.n_context + options_.n_rest);
  return std::make_unique<index::SelectorSource>(method, shape, kernels_);
}

void SplitRunner::use(const Contender* contender) {
  sparse_text_.reset();
  attention_ = contender == nullptr ? engine::Attention::kExact : engine::Attention::kSelected;
  reads_sparsely_ = contender != nullptr && contender->reads_sparsely;
  if (contender == nullptr) return;
  if (source_ == nullptr || source_->method() != contender->method) {
    source_.reset();  // first, so that two methods never take memory at once
    source_ = make_source(contender->method);
  }
  rule_ = contender->rule;
  walk_.select_by(rule_, options_.n_context + options_.n_rest);
}

engine::Sequence SplitRunner::read_sparsely() {
  engine::Sequence text = text_.fork();
  text.truncate(static_cast<uint32_t>(options_.sparse_from));
  text.attach_index(source_->make());
  engine::prefill_sparsely(walk_, text, std::span(text_.tokens()).subspan(text.n_pos()),
                           options_.chunk_rows, options_.sparse_from);
  walk_.select_by(rule_, options_.n_context + options_.n_rest);  // counts from 0
  return text;
}

engine::Sequence SplitRunner::start() {
  if (reads_sparsely_ && options_.sparse_from < text_.n_pos()) {
    if (!sparse_text_) sparse_text_ = read_sparsely();
    return sparse_text_->fork();
  }
  engine::Sequence sequence = text_.fork();
  if (attention_ == engine::Attention::kSelected) sequence.attach_index(source_->make());
  return sequence;
}

std::span<const float> SplitRunner::feed(engine::Sequence& sequence,
                                         std::span<const int32_t> tokens) {
  engine::prefill(walk_, sequence, tokens, options_.chunk_rows, {}, attention_);
  return walk_.logits(0);
}

KvRead SplitRunner::kv_read() const {
  const engine::SelectionCounts& counts = walk_.selection_counts();
  KvRead of{.steps = counts.steps, .index_bytes = counts.index_bytes};
  of.positions = counts.attended_positions();
  of.context_positions = counts.all_positions();
  of.kv_bytes = of.positions * kv_position_bytes(cache_.layout());
  return of;
}

double SplitRunner::index_bytes_per_position() const {
  const uint64_t n_blocks = text_.n_pos() / kBlockPositions;
  if (n_blocks == 0) return 0;
  const uint64_t bytes = source_->make()->held_bytes(n_blocks) * cache_.n_index_streams();
  return static_cast<double>(bytes) / static_cast<double>(n_blocks * kBlockPositions);
}

}  // namespace strata::eval

#include "engine/context_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace strata::engine {
namespace {

constexpr uint32_t kDamagedMax = 8;  // packs that one restore removes before it reads the text anew

tiers::PackShape pack_shape(const KvCache& cache, const tiers::Hash128& model) {
  tiers::PackShape shape;
  shape.model = model;
  shape.k_codec = cache.layout().k_codec;
  shape.v_codec = cache.layout().v_codec;
  shape.head_dim = cache.layout().head_dim;
  for (const LayerShape& layer : cache.shape().layers)
    shape.layers.push_back({layer.n_kv_heads, layer.window});
  return shape;
}

}  // namespace

ContextCache::ContextCache(const ContextCacheOptions& options, const KvCache& cache,
                           const tiers::Hash128& model, std::string model_name)
    : options_(options),
      model_name_(std::move(model_name)),
      shape_(pack_shape(cache, model)),
      publisher_(tiers::PackDirectory::open(
                     options.directory, options.limits,
                     options.calls == nullptr ? tiers::system_calls() : *options.calls),
                 options.cancel) {}

Sequence ContextCache::restore(KvCache& cache, std::span<const int32_t> tokens) {
  tokens_.clear();
  saved_end_ = 0;
  Sequence sequence = cache.make_sequence();
  publisher_.with_directory(
      [&](tiers::PackDirectory& directory) { sequence = restore_from(directory, cache, tokens); },
      options_.wait_max);
  counts_.restored_tokens = sequence.n_pos();
  tokens_ = sequence.tokens();
  saved_end_ = sequence.n_pos();
  return sequence;
}

Sequence ContextCache::restore_from(tiers::PackDirectory& directory, KvCache& cache,
                                    std::span<const int32_t> tokens) {
  for (uint32_t n_damaged = 0; n_damaged < kDamagedMax; ++n_damaged) {
    const tiers::FoundContext found = directory.find(shape_, {}, tokens);
    if (found.n_positions < kSavedTokensMin) break;
    try {
      return cache.restore(found, tokens);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBadFile) throw;
    }
    // One of them is damaged: those that cannot be read whole go, the rest is found again.
    for (const tiers::FoundPiece& piece : found.pieces) {
      if (piece.pack->count_bad_blocks() == 0) continue;
      directory.discard(piece.pack->name());
      ++counts_.damaged_packs;
    }
  }
  return cache.make_sequence();
}

void ContextCache::begin(const Sequence& sequence, std::span<const int32_t> tokens) {
  const auto differs = std::ranges::mismatch(tokens_, tokens);
  saved_end_ = std::min(
      {saved_end_, sequence.n_pos(), static_cast<uint32_t>(differs.in1 - tokens_.begin())});
  writer_.reset();
  run_end_ = 0;  // no run, where none is begun below
  tokens_.assign(tokens.begin(), tokens.end());
  if (options_.saves && tokens.size() >= saved_end_ + kSavedTokensMin)
    start_run(saved_end_ / kExtentPositions * kExtentPositions);
}

/// What an unfinished run has written goes: of a prompt that was stopped, a shorter run is saved.
void ContextCache::start_run(uint32_t first_pos) {
  writer_.reset();
  next_extent_ = first_pos / kExtentPositions;
  first_pos_ = first_pos;
  run_end_ = std::min<uint32_t>(first_pos + tiers::kPackPositionsMax,
                                static_cast<uint32_t>(tokens_.size()));
}

void ContextCache::save_closed(KvCache& cache, const Sequence& sequence) {
  try {
    while (options_.saves && next_extent_ * kExtentPositions < run_end_) {
      const uint32_t end = std::min((next_extent_ + 1) * kExtentPositions, run_end_);
      if (end > sequence.n_pos()) return;
      // Where a pack did not get its name, what would continue it could not be found.
      if (!writer_ && !problem().empty()) {
        options_.saves = false;
        return;
      }
      write_extent(cache, sequence, next_extent_++);
      if (end < run_end_) continue;
      publisher_.add(std::move(*writer_));
      writer_.reset();
      saved_end_ = run_end_;
      if (run_end_ < tokens_.size()) start_run(run_end_);
    }
  } catch (const Error& error) {
    // Where the wait before a run was stopped, the run is written at the next call.
    if (error.code() == ErrorCode::kCancelled) return start_run(first_pos_);
    give_up(error);
  }
}

/// One extent of the run: every layer of it, read back from disk where it has left DRAM.
void ContextCache::write_extent(KvCache& cache, const Sequence& sequence, uint32_t extent) {
  if (!writer_) {
    tiers::PackRun run;
    run.shape = shape_;
    run.first_pos = first_pos_;
    if (first_pos_ > 0) run.chain_before = sequence.chain_at(first_pos_);
    run.tokens.assign(tokens_.begin() + first_pos_, tokens_.begin() + run_end_);
    publisher_.with_directory(
        [&](tiers::PackDirectory& directory) { writer_.emplace(directory.start(std::move(run))); },
        options_.wait_max);
  }
  const uint32_t in_run = extent - first_pos_ / kExtentPositions;
  const uint32_t n_blocks = writer_->head().extent_blocks(in_run);
  std::vector<const std::byte*> blocks;
  for (uint32_t layer = 0; layer < shape_.layers.size(); ++layer) {
    const ExtentBytes bytes =
        cache.hold_extent(sequence, layer, extent * kExtentPositions, n_blocks);
    try {
      writer_->write(in_run, layer, bytes.blocks);
    } catch (...) {
      cache.release_extent(bytes);
      throw;
    }
    cache.release_extent(bytes);
  }
}

void ContextCache::finish(KvCache& cache, const Sequence& sequence, const std::string& session) {
  save_closed(cache, sequence);
  const uint32_t n_new = sequence.n_pos() - std::min(sequence.n_pos(), saved_end_);
  const bool is_worth = n_new >= kSavedTokensMin || (!session.empty() && n_new > 0);
  if (options_.saves && is_worth && problem().empty()) {
    tokens_ = sequence.tokens();
    start_run(saved_end_ / kExtentPositions * kExtentPositions);
    save_closed(cache, sequence);
  }
  publisher_.wait(options_.wait_max);
  if (session.empty() || !problem().empty()) return;
  publisher_.with_directory(
      [&](tiers::PackDirectory& directory) { pin(directory, sequence, session); },
      options_.wait_max);
}

void ContextCache::pin(tiers::PackDirectory& directory, const Sequence& sequence,
                       const std::string& session) const {
  const tiers::FoundContext found = directory.find(shape_, {}, sequence.tokens());
  // Nothing was read before it was stopped: an earlier session of that name stays.
  if (found.pieces.empty()) return;
  tiers::SessionManifest manifest;
  manifest.model = shape_.model;
  manifest.model_name = model_name_;
  manifest.tokens.assign(sequence.tokens().begin(), sequence.tokens().begin() + found.n_positions);
  for (const tiers::FoundPiece& piece : found.pieces)
    if (manifest.packs.empty() || manifest.packs.back() != piece.pack->name())
      manifest.packs.push_back(piece.pack->name());
  directory.pin(session, manifest);
}

void ContextCache::give_up(const Error& error) {
  writer_.reset();
  options_.saves = false;
  publisher_.set_problem(error.what());
}

std::string ContextCache::problem() const { return publisher_.problem(); }

ContextCacheCounts ContextCache::counts() const {
  ContextCacheCounts counts = counts_;
  const PublishedCounts published = publisher_.counts();
  counts.saved_tokens = published.tokens;
  counts.saved_bytes = published.bytes;
  return counts;
}

}  // namespace strata::engine

#include "engine/sequence.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/kv_cache.h"

namespace strata::engine {

Sequence::Sequence(KvCache* cache, const tiers::Hash128& root) : cache_(cache), root_(root) {}

Sequence::Sequence(Sequence&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)),
      root_(other.root_),
      edition_(std::exchange(other.edition_, 0)),
      tokens_(std::move(other.tokens_)),
      chain_(std::move(other.chain_)),
      is_selected_(std::move(other.is_selected_)),
      streams_(std::exchange(other.streams_, {})),
      index_(std::move(other.index_)),
      n_indexed_(std::exchange(other.n_indexed_, 0)),
      n_exact_(std::exchange(other.n_exact_, 0)),
      next_extent_(other.next_extent_) {}

Sequence& Sequence::operator=(Sequence&& other) noexcept {
  std::swap(cache_, other.cache_);
  std::swap(root_, other.root_);
  std::swap(edition_, other.edition_);
  std::swap(tokens_, other.tokens_);
  std::swap(chain_, other.chain_);
  std::swap(is_selected_, other.is_selected_);
  std::swap(streams_, other.streams_);
  std::swap(index_, other.index_);
  std::swap(n_indexed_, other.n_indexed_);
  std::swap(n_exact_, other.n_exact_);
  std::swap(next_extent_, other.next_extent_);
  return *this;
}

Sequence::~Sequence() { release_all(); }

void Sequence::release_all() {
  for (auto& table : streams_) cache_->release_from(table, table.first_block);
}

void Sequence::mark_selected(uint32_t first_pos) {
  is_selected_.resize(first_pos, false);
  is_selected_.resize(n_pos(), true);
}

uint32_t Sequence::take_selected(uint32_t first_pos, uint32_t end_pos) {
  uint32_t n = 0;
  for (uint32_t pos = first_pos; pos < std::min<size_t>(end_pos, is_selected_.size()); ++pos) {
    n += is_selected_[pos] ? 1u : 0u;
    is_selected_[pos] = false;
  }
  return n;
}

void Sequence::attach_index(std::unique_ptr<index::Selector> index) {
  STRATA_CHECK(index->n_blocks() == 0, "an index of %u blocks", index->n_blocks());
  index->open_blocks(n_pos() / kBlockPositions);
  index_ = std::move(index);
  n_indexed_ = 0;
}

void Sequence::drop_index() {
  index_.reset();
  n_indexed_ = 0;
}

Sequence Sequence::fork(bool has_index) const {
  Sequence copy = cache_->make_sequence(root_);
  copy.tokens_ = tokens_;
  copy.chain_ = chain_;
  copy.is_selected_ = is_selected_;
  if (!has_index) copy.index_.reset();
  if (index_ && has_index) {
    copy.index_ = index_->fork();
    // Rows that are still to be written must not be written into what both share.
    if (n_indexed_ < n_pos() / kBlockPositions) {
      copy.index_->truncate(n_indexed_);
      copy.index_->open_blocks(n_pos() / kBlockPositions);
    }
  }
  copy.n_indexed_ = has_index ? n_indexed_ : 0;
  copy.n_exact_ = n_exact_;
  copy.next_extent_ = next_extent_;
  for (uint32_t stream = 0; stream < streams_.size(); ++stream) {
    copy.streams_[stream] = streams_[stream];  // into what is reserved; then nothing can fail
    for (const auto block : streams_[stream].blocks) cache_->store_.add_reference(block);
  }
  return copy;
}

uint32_t Sequence::kept_by_truncate(uint32_t n) const {
  if (n >= n_pos()) return n_pos();
  // The next row stands at position n and attends the window before it in every windowed layer.
  for (uint32_t stream = 0; stream < streams_.size(); ++stream) {
    const uint32_t window = cache_->shape_.layers[cache_->layer_of_stream_[stream]].window;
    const uint32_t first_needed = window == 0 || n + 1 <= window ? 0 : n + 1 - window;
    if (streams_[stream].first_block * kBlockPositions > first_needed) return 0;
  }
  return n;
}

uint32_t Sequence::truncate(uint32_t n) {
  if (n >= n_pos()) return n_pos();
  edition_ = cache_->next_edition();
  n = kept_by_truncate(n);
  const uint32_t end_block = (n + kBlockPositions - 1) / kBlockPositions;
  for (auto& table : streams_) {
    cache_->release_from(table, std::max(end_block, table.first_block));
    if (n == 0) table.first_block = 0;
  }
  tokens_.resize(n);
  chain_.resize(n / kBlockPositions);
  is_selected_.resize(std::min<size_t>(is_selected_.size(), n));
  if (index_) index_->truncate(n / kBlockPositions);
  n_indexed_ = std::min(n_indexed_, n / kBlockPositions);
  n_exact_ = std::min(n_exact_, n);
  next_extent_ = std::min(next_extent_, n / kExtentPositions);
  return n;
}

}  // namespace strata::engine

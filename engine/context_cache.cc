#include "engine/context_cache.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "engine/saved_sessions.h"
#include "engine/store_cancel.h"

namespace strata::engine {
namespace {

constexpr uint32_t kDamageRoundsMax = 4;  // of finding packs damaged while they are saved anew
constexpr uint32_t kRepairsMax = 256;     // of extents lost while they are saved, as in one step
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

tiers::PackDirectory open_directory(const ContextCacheOptions& options) {
  const DiskPatience patience{options.silence_max, options.cancel};
  return use_patiently(open_patiently(options.directory, options.calls, patience), options.limits,
                       patience, [](tiers::PackDirectory opened) { return opened; });
}

/// What `use` returns. All that it refers to is its own (PackPublisher::ask).
template <class Use>
auto ask(PackPublisher& publisher, std::chrono::milliseconds silence_max, Use use) {
  const auto answer =
      std::make_shared<std::optional<std::invoke_result_t<Use&, tiers::PackDirectory&>>>();
  publisher.ask([answer, use](tiers::PackDirectory& of) { answer->emplace(use(of)); }, silence_max);
  return std::move(**answer);
}

std::vector<int32_t> copied(std::span<const int32_t> tokens) {
  return {tokens.begin(), tokens.end()};
}

}  // namespace

ContextCache::ContextCache(const ContextCacheOptions& options, const KvCache& cache,
                           const tiers::Hash128& model, std::string model_name)
    : options_(options),
      model_name_(std::move(model_name)),
      shape_(pack_shape(cache, model)),
      publisher_(std::make_shared<PackPublisher>(open_directory(options), options.cancel)) {}

std::unique_ptr<ContextCache> ContextCache::beside() const {
  std::unique_ptr<ContextCache> other(new ContextCache(options_, model_name_, shape_, publisher_));
  other->tokens_ = tokens_;
  other->is_generated_ = is_generated_;
  other->saved_end_ = saved_end_;
  return other;
}

uint32_t ContextCache::n_saved(std::span<const int32_t> tokens, const tiers::Hash128& root) {
  const uint32_t n_positions =
      ask(*publisher_, options_.silence_max,
          [shape = shape_, root, text = copied(tokens)](tiers::PackDirectory& directory) {
            return directory.n_found(shape, root, text);
          });
  return n_positions < kSavedTokensMin ? 0 : n_positions;
}

Sequence ContextCache::restore(KvCache& cache, std::span<const int32_t> tokens,
                               const tiers::Hash128& root) {
  tokens_.clear();
  saved_end_ = 0;
  counts_.indexed_tokens = 0;
  Sequence sequence = restore_longest(cache, tokens, root);
  if (is_sparse(root) && sequence.n_pos() > options_.sparse_from) {
    const auto n_exact = static_cast<uint32_t>(options_.sparse_from);
    sequence.set_n_exact(n_exact);
    sequence.mark_selected(n_exact);
  }
  counts_.passed_over_packs = publisher_->directory().n_passed_over();
  counts_.restored_tokens = sequence.n_pos();
  tokens_ = sequence.tokens();
  is_generated_.assign(tokens_.size(), 0);
  saved_end_ = sequence.n_pos();
  return sequence;
}

Sequence ContextCache::restore_longest(KvCache& cache, std::span<const int32_t> tokens,
                                       const tiers::Hash128& root) {
  for (uint32_t n_damaged = 0; n_damaged < kDamagedMax; ++n_damaged) {
    const tiers::FoundContext found =
        ask(*publisher_, options_.silence_max,
            [shape = shape_, root, text = copied(tokens)](tiers::PackDirectory& directory) {
              return directory.find(shape, root, text);
            });
    if (found.n_positions < kSavedTokensMin) break;
    std::string damaged;
    try {
      const StoreCancel cancel(cache.store(), options_.cancel);
      Sequence sequence = cache.make_for(found, root);
      std::optional<RowsLoading> rows;
      if (const auto shape = rows_shape(cache, sequence))
        rows.emplace(publisher_->directory().files(), found, *shape, sequence);
      try {
        cache.restore(found, tokens, sequence);
      } catch (const Error& error) {
        // The next round takes as much memory for rows.
        if (rows && error.code() == ErrorCode::kBadFile)
          rows->end({options_.silence_max, options_.cancel});
        throw;
      }
      if (rows) take_rows(*rows, sequence);
      return sequence;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBadFile) throw;
      damaged = error.where();
    }
    // It goes where it cannot be read whole; the rest is found again. The others are not read.
    for (const tiers::FoundPiece& piece : found.pieces) {
      if (!damaged.ends_with(piece.pack->name())) continue;
      const tiers::Discarded discarded = discard(piece.pack->name());
      counts_.damaged_packs += discarded == tiers::Discarded::kPack ? 1 : 0;
      if (discarded != tiers::Discarded::kUnread) continue;
      ++counts_.unread_packs;
      tokens = tokens.first(piece.pack->head().run.first_pos);  // what is before it may do
      break;
    }
  }
  return cache.make_sequence(root);
}

/// PackDirectory::discard, between two packs.
tiers::Discarded ContextCache::discard(const std::string& pack) {
  const auto result = std::make_shared<tiers::Discarded>();
  publisher_->between_packs(
      [result, pack](tiers::PackDirectory& directory) { *result = directory.discard(pack); },
      options_.wait_max, options_.silence_max);
  return *result;
}

void ContextCache::take_rows(RowsLoading& rows, Sequence& sequence) {
  const LoadedRows loaded = rows.wait(sequence, {options_.silence_max, options_.cancel});
  counts_.indexed_tokens = loaded.n_positions;
  counts_.rows_read_bytes += loaded.bytes;
  if (!loaded.refused) return;
  const auto is_removed = std::make_shared<bool>(false);
  try {
    if (loaded.refused->is_damaged)
      publisher_->between_packs(
          [is_removed, name = loaded.refused->name](tiers::PackDirectory& directory) {
            *is_removed = directory.discard_rows(name);
          },
          options_.wait_max, options_.silence_max);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    *is_removed = false;  // it is refused again next time, or replaced
  }
  ++(*is_removed ? counts_.damaged_rows : counts_.refused_rows);
}

/// Of every pack of the text whose file of rows lacks segments that the index has; one at a time,
/// so that few files are open.
void ContextCache::save_rows(const KvCache& cache, const Sequence& sequence) {
  const auto shape = rows_shape(cache, sequence);
  if (!options_.saves_rows || !shape) return;
  const uint32_t n_segments = n_segments_to_save(sequence, *shape, n_to_save(sequence));
  if (n_segments == 0) return;
  const auto tokens =
      std::span(sequence.tokens()).first(uint64_t{n_segments} * shape->segment_positions);
  std::vector<LackingRows> lacking;
  try {
    lacking =
        ask(*publisher_, options_.wait_max,
            [root = sequence.chain_at(0), text = copied(tokens), n_segments, rows = *shape,
             packs = shape_](tiers::PackDirectory& directory) {
              return lacking_rows(directory, directory.find(packs, root, text), rows, n_segments);
            });
    for (const LackingRows& rows : lacking) {
      const auto writer = std::make_shared<std::optional<tiers::RowsWriter>>();
      publisher_->between_packs(
          [writer, rows, of = *shape](tiers::PackDirectory& directory) {
            writer->emplace(
                directory.start_rows(rows.pack, of, rows.segments.first, rows.segments.n()));
          },
          options_.wait_max, options_.wait_max);
      write_rows(*sequence.index(), *shape, rows.segments, **writer);
      publisher_->add(std::move(**writer));
      publisher_->wait(options_.wait_max);
    }
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    publisher_->set_rows_problem(error.what());
  }
}

tiers::KnownText ContextCache::known_text(std::string_view text, const tiers::TokenBytes& bytes_of,
                                          const tiers::Hash128& root) {
  publisher_->ask([](tiers::PackDirectory& directory) { directory.look(); }, options_.silence_max);
  return publisher_->directory().find_text_in_index(shape_, root, text, bytes_of);
}

void ContextCache::begin(const Sequence& sequence, std::span<const int32_t> tokens,
                         std::span<const uint8_t> is_generated) {
  STRATA_CHECK(is_generated.empty() || is_generated.size() == tokens.size(),
               "%zu marks, %zu tokens", is_generated.size(), tokens.size());
  const auto differs = std::ranges::mismatch(tokens_, tokens);
  saved_end_ = std::min(
      {saved_end_, sequence.n_pos(), static_cast<uint32_t>(differs.in1 - tokens_.begin())});
  writer_.reset();
  run_end_ = 0;  // no run, where none is begun below
  unread_.clear();
  tokens_.assign(tokens.begin(), tokens.end());
  is_generated_.assign(is_generated.begin(), is_generated.end());
  is_generated_.resize(tokens.size());
  if (options_.saves && tokens.size() >= saved_end_ + kSavedTokensMin)
    start_run(saved_end_ / kExtentPositions * kExtentPositions);
}

/// What an unfinished run has written goes: of a prompt that was stopped, a shorter run is saved.
void ContextCache::start_run(uint32_t first_pos) {
  writer_.reset();
  next_extent_ = first_pos / kExtentPositions;
  next_layer_ = 0;
  first_pos_ = first_pos;
  run_end_ = std::min<uint32_t>(first_pos + tiers::kPackPositionsMax,
                                static_cast<uint32_t>(tokens_.size()));
}

void ContextCache::save_closed(KvCache& cache, const Sequence& sequence) {
  try {
    save_extents(cache, sequence);
  } catch (const tiers::LostExtent&) {
    // The next call goes on with the layer that could not be read.
  } catch (const Error& error) {
    // Where the wait before a run was stopped, the run is written at the next call.
    if (error.code() == ErrorCode::kCancelled) return start_run(first_pos_);
    give_up(error);
  }
}

/// Positions from the front on. What was computed with less than everything would be taken for
/// exact by every later run, but for what is behind sparse_from in texts whose root says so.
uint32_t ContextCache::n_to_save(const Sequence& sequence) const {
  const bool is_sparsely_read =
      is_sparse(sequence.chain_at(0)) && sequence.n_exact() >= options_.sparse_from;
  return is_sparsely_read ? sequence.n_pos() : sequence.n_exact();
}

/// Errors: kCancelled.
void ContextCache::check_stopped() const {
  if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed))
    throw Error(ErrorCode::kCancelled, "saving contexts was stopped");
}

/// Errors: LostExtent, after which the next call goes on; others.
void ContextCache::save_extents(KvCache& cache, const Sequence& sequence) {
  while (options_.saves && next_extent_ * kExtentPositions < run_end_) {
    const uint32_t end = std::min((next_extent_ + 1) * kExtentPositions, run_end_);
    if (end > n_to_save(sequence)) return;
    // Where a pack did not get its name, what would continue it could not be found.
    if (!writer_ && !problem().empty()) {
      options_.saves = false;
      return;
    }
    check_stopped();
    write_extent(cache, sequence);
    if (end < run_end_) continue;
    publisher_->add(std::move(*writer_));
    writer_.reset();
    saved_end_ = run_end_;
    if (run_end_ < tokens_.size()) start_run(run_end_);
  }
}

/// What is lost is computed again, and saving goes on.
void ContextCache::save_repaired(Walk& walk, Sequence& sequence) {
  try {
    for (uint32_t n_repairs = 0;; ++n_repairs) {
      try {
        return save_extents(walk.cache(), sequence);
      } catch (const tiers::LostExtent& lost) {
        if (n_repairs == kRepairsMax) throw;
        walk.repair(sequence, lost);
        ++counts_.repaired_extents;
      }
    }
  } catch (const Error& error) {
    // Where the wait before a run was stopped, the run is written at the next call.
    if (error.code() == ErrorCode::kCancelled) return start_run(first_pos_);
    give_up(error);
  }
}

void ContextCache::start_pack(const Sequence& sequence) {
  const auto run = std::make_shared<tiers::PackRun>();
  run->shape = shape_;
  run->first_pos = first_pos_;
  run->chain_before = sequence.chain_at(first_pos_);
  run->tokens.assign(tokens_.begin() + first_pos_, tokens_.begin() + run_end_);
  run->is_generated.assign(is_generated_.begin() + first_pos_, is_generated_.begin() + run_end_);
  const auto writer = std::make_shared<std::optional<tiers::PackWriter>>();
  publisher_->ask(
      [run, writer](tiers::PackDirectory& directory) {
        if (auto started = directory.try_start(*run)) writer->emplace(std::move(*started));
      },
      options_.wait_max);
  if (!*writer)  // who has to evict waits for the lock of the directory
    publisher_->between_packs(
        [run, writer](tiers::PackDirectory& directory) {
          writer->emplace(directory.start(std::move(*run)));
        },
        options_.wait_max, options_.wait_max);
  writer_.emplace(std::move(**writer));
}

/// The next extent of the run: every layer of it, read back from disk where it has left DRAM.
void ContextCache::write_extent(KvCache& cache, const Sequence& sequence) {
  if (!writer_) start_pack(sequence);
  const uint32_t in_run = next_extent_ - first_pos_ / kExtentPositions;
  const uint32_t n_blocks = writer_->head().extent_blocks(in_run);
  for (; next_layer_ < shape_.layers.size(); ++next_layer_) {
    if (shape_.layers[next_layer_].n_kv_heads == 0) continue;
    const ExtentBytes bytes =
        cache.hold_extent(sequence, next_layer_, next_extent_ * kExtentPositions, n_blocks);
    try {
      writer_->write(in_run, next_layer_, bytes.blocks);
    } catch (...) {
      cache.release_extent(bytes);
      throw;
    }
    cache.release_extent(bytes);
  }
  next_layer_ = 0;
  ++next_extent_;
}

/// What a damaged pack held is to be saved again: by now the sequence has the right blocks. What
/// could not be read this time may be read the next: only a pack whose file holds wrong bytes goes
/// here, and none where nothing is saved in its place. True where there is more to save.
bool ContextCache::drop_damaged(tiers::BlockStore& store) {
  const bool saves = options_.saves && problem().empty();
  bool is_any = false;
  while (const auto pack = store.first_damaged_pack()) {
    if (!saves) {
      store.forget_damaged_pack();  // and with it the file
      continue;
    }
    const tiers::Discarded discarded = discard(pack->name());
    const bool is_gone = discarded == tiers::Discarded::kPack;
    counts_.damaged_packs += is_gone ? 1 : 0;
    // What was saved anew may have come from reading such a pack again, and be lost, once more.
    const bool is_unread =
        discarded == tiers::Discarded::kUnread && unread_.emplace(pack->name(), pack).second;
    if (is_gone || is_unread) {
      saved_end_ = std::min(saved_end_, pack->head().run.first_pos);
      is_any = true;
    }
    store.forget_damaged_pack();
  }
  return is_any;
}

void ContextCache::save_rest(Walk& walk, Sequence& sequence) { save_whole(walk, sequence, false); }

/// A sequence that will get a name is saved to its last position.
void ContextCache::save_whole(Walk& walk, Sequence& sequence, bool is_named) {
  save_repaired(walk, sequence);
  // Reading back what is saved may find more that is damaged.
  for (uint32_t n_rounds = 0; n_rounds < kDamageRoundsMax; ++n_rounds) {
    const bool is_again = drop_damaged(walk.cache().store());
    if (n_rounds > 0 && !is_again) break;
    const uint32_t n = n_to_save(sequence);
    const uint32_t n_new = n - std::min(n, saved_end_);
    const bool is_worth = n_new >= kSavedTokensMin || (n_new > 0 && (is_again || is_named));
    if (!options_.saves || !is_worth || !problem().empty()) break;
    tokens_.assign(sequence.tokens().begin(), sequence.tokens().begin() + n);
    is_generated_.resize(n, 1);
    start_run(saved_end_ / kExtentPositions * kExtentPositions);
    save_repaired(walk, sequence);
  }
  if (saved_end_ < n_to_save(sequence)) return;
  for (const auto& [name, pack] : unread_)
    publisher_->add_replaced(name, holds_all_of(sequence, pack->head()));
  unread_.clear();
}

/// Is all that the pack holds in what is saved of this text, read as that was? Which blocks of
/// windows that has depends on where it ends, so of those packs it is never said.
bool ContextCache::holds_all_of(const Sequence& sequence, const tiers::PackHead& pack) const {
  const bool has_windows = std::ranges::any_of(
      shape_.layers, [](const tiers::PackLayer& layer) { return layer.window > 0; });
  return !has_windows && pack.end_pos() <= saved_end_ &&
         sequence.chain_at(pack.run.first_pos) == pack.run.chain_before &&
         std::ranges::equal(pack.run.tokens,
                            std::span(tokens_).subspan(pack.run.first_pos, pack.n_positions()));
}

void ContextCache::finish(Walk& walk, Sequence& sequence, const std::string& session) {
  save_whole(walk, sequence, !session.empty());
  check_stopped();
  publisher_->wait(options_.wait_max);
  if (!session.empty() && problem().empty())
    publisher_->between_packs(
        [kind = SessionKind{shape_, model_name_, sequence.chain_at(0)}, text = sequence.tokens(),
         session](tiers::PackDirectory& directory) { pin_session(directory, kind, text, session); },
        options_.wait_max, options_.wait_max);
  save_rows(walk.cache(), sequence);
}

std::optional<TextToName> ContextCache::save_to_name(Walk& walk, Sequence& sequence) {
  if (!options_.saves && problem().empty()) return std::nullopt;
  save_whole(walk, sequence, true);
  const auto& tokens = sequence.tokens();
  return TextToName{sequence.chain_at(0),
                    {tokens.begin(), tokens.begin() + n_to_save(sequence)},
                    publisher_,
                    publisher_->n_given()};
}

void ContextCache::give_up(const Error& error) {
  writer_.reset();
  options_.saves = false;
  publisher_->set_problem(error.what());
}

std::string ContextCache::problem() const { return publisher_->problem(); }

std::string ContextCache::rows_problem() const { return publisher_->rows_problem(); }

ContextCacheCounts ContextCache::counts() const {
  ContextCacheCounts counts = counts_;
  const PublishedCounts published = publisher_->counts();
  counts.saved_tokens = published.tokens;
  counts.saved_bytes = published.bytes;
  counts.saved_rows_bytes = published.rows_bytes;
  counts.unread_packs += published.replaced_packs;
  return counts;
}

}  // namespace strata::engine

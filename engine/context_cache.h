// engine/context_cache.h - contexts that outlive a run: every text that was read may be found again
// by its beginning, in this or another process, under whatever question comes next.
// Why: reading a long text costs minutes, its K and V seconds of disk. A name is not needed; a
// named session only keeps its packs from being evicted (docs/adr/0002-saved-contexts.md).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/index_rows.h"
#include "engine/kv_cache.h"
#include "engine/pack_publisher.h"
#include "engine/walk.h"
#include "tiers/pack_directory.h"

namespace strata::engine {

/// Texts shorter than this are read faster than they are found.
inline constexpr uint32_t kSavedTokensMin = 256;

struct ContextCacheOptions {
  std::string directory;
  tiers::PackLimits limits;
  // What was read exactly; after sparse_root everything.
  bool saves = true;
  bool saves_rows = true;  // of the indexes of sequences, beside packs that are there
  // Of texts that are read by selected chunks from position sparse_from on (engine/text_roots.h);
  // nothing = none are, or they are read again.
  std::optional<tiers::Hash128> sparse_root = {};
  uint64_t sparse_from = 0;
  std::chrono::milliseconds wait_max{60000};  // for the disk, at the end and between two packs
  std::chrono::milliseconds silence_max = kDiskSilenceMax;  // of the disk where something is read
  tiers::DurableCalls* calls = nullptr;  // null: the system's; else they outlive every thread
  // Set, it ends every wait for the disk with kCancelled, and writing between two extents; null =
  // nobody looks.
  const std::atomic<bool>* cancel = nullptr;
};

struct ContextCacheCounts {
  uint64_t restored_tokens = 0;
  uint64_t passed_over_packs = 0;  // that were not looked at (tiers::PackLimits::index_bytes)
  uint64_t saved_tokens = 0;       // in packs that have their name
  uint64_t saved_bytes = 0;
  // Found to be wrong while restoring or by a step, and removed.
  uint64_t damaged_packs = 0;
  uint64_t unread_packs = 0;      // that the disk did not give, computed again
  uint64_t repaired_extents = 0;  // lost while they were saved, and computed again
  // Of restored_tokens, where a sequence has an index: those whose rows were saved. The first
  // selected step reads the K and V of the others.
  uint64_t indexed_tokens = 0;
  uint64_t rows_read_bytes = 0;
  uint64_t saved_rows_bytes = 0;
  uint64_t refused_rows = 0;  // files of rows that were not taken: of another version or shape
  uint64_t damaged_rows = 0;  // or damaged, or unreadable, and removed
};

/// A text that is saved, or whose last packs are on their way to the disk: who wants to give it a
/// name waits for those, on a thread of his own (engine/saved_sessions.h).
struct TextToName {
  tiers::Hash128 root;
  std::vector<int32_t> tokens;
  std::shared_ptr<PackPublisher> publisher;
  uint64_t n_given = 0;  // to the publisher, the text's last pack included
};

/// Saves a sequence while it is read: extent by extent on the calling thread, which copies bytes to
/// the page cache, and every 4,096 positions on a thread of its own, which waits for the disk. One
/// caller at a time.
class ContextCache {
 public:
  /// Errors: those of PackDirectory::open; kIo where the disk does not answer; kCancelled.
  ContextCache(const ContextCacheOptions& options, const KvCache& cache,
               const tiers::Hash128& model, std::string model_name);
  /// Another text over the same directory and thread, one caller at a time for all of them: it
  /// begins where this one is, so that a fork of the sequence saves only what is its own.
  std::unique_ptr<ContextCache> beside() const;

  /// The longest saved beginning of `tokens` after `root` (KvCache::make_sequence), as a sequence,
  /// with the rows of its index as far as
  /// those are saved. A pack that turns out to be damaged is removed and less of it is used.
  /// Errors: kIo, also where the disk does not answer; kDoesNotFit; kCancelled.
  Sequence restore(KvCache& cache, std::span<const int32_t> tokens,
                   const tiers::Hash128& root = {});
  /// How many positions that would have, but for damage. Errors: kIo, kCancelled.
  uint32_t n_saved(std::span<const int32_t> tokens, const tiers::Hash128& root = {});

  /// The saved tokens of the longest beginning of `text` that ends with a generated one
  /// (PackIndex::find_text). Errors: kIo, kCancelled.
  tiers::KnownText known_text(std::string_view text, const tiers::TokenBytes& bytes_of,
                              const tiers::Hash128& root = {});

  /// `tokens` are about to be read by `sequence`, which holds what restore() gave or what the last
  /// call was about: from now on save_closed() saves what is new. `is_generated` says of each token
  /// whether a model wrote it; empty = none. What the sequence holds beyond `tokens` at the end,
  /// the model has generated.
  void begin(const Sequence& sequence, std::span<const int32_t> tokens,
             std::span<const uint8_t> is_generated = {});
  /// After a step: saves the extents that are complete. One that the disk has lost waits until a
  /// later step or finish() has computed it again.
  void save_closed(KvCache& cache, const Sequence& sequence);
  /// As finish(), but saves neither index rows nor a name, and waits for no pack to get its name:
  /// where others have to be evicted for it, for the one that is getting it.
  void save_rest(Walk& walk, Sequence& sequence);
  /// Removes the packs that steps have found to be damaged, saves the rest of the sequence, also
  /// what those packs held, and waits until all of it is on the disk. Packs that the disk did not
  /// give go behind that, where the text holds all of them. Where `session` is not empty,
  /// the packs get its name, unless a longer session that begins with them has it. Lost extents are
  /// computed again with `walk`, whose last logits are gone then. Of an index, the rows that lack
  /// beside the text's packs are saved. Errors: those of
  /// PackDirectory::pin; kIo where the disk does not answer.
  void finish(Walk& walk, Sequence& sequence, const std::string& session = "");
  /// As save_rest(), to the last position that may be saved. Nothing where nothing is saved.
  std::optional<TextToName> save_to_name(Walk& walk, Sequence& sequence);
  /// Waits until what was saved is on the disk. Errors: kIo, kCancelled.
  void wait_saved() { publisher_->wait(options_.wait_max); }

  const ContextCacheOptions& options() const { return options_; }
  const tiers::PackShape& shape() const { return shape_; }
  const std::string& model_name() const { return model_name_; }

  /// Why saving ended before its end; empty where it did not.
  std::string problem() const;
  /// Why index rows were not saved; empty where they were, or where there are none.
  std::string rows_problem() const;
  ContextCacheCounts counts() const;

 private:
  ContextCache(const ContextCacheOptions& options, std::string model_name,
               const tiers::PackShape& shape, std::shared_ptr<PackPublisher> publisher)
      : options_(options),
        model_name_(std::move(model_name)),
        shape_(shape),
        publisher_(std::move(publisher)) {}
  Sequence restore_longest(KvCache& cache, std::span<const int32_t> tokens,
                           const tiers::Hash128& root);
  void take_rows(RowsLoading& rows, Sequence& sequence);
  void save_rows(const KvCache& cache, const Sequence& sequence);
  void start_run(uint32_t first_pos);
  void save_extents(KvCache& cache, const Sequence& sequence);
  void save_whole(Walk& walk, Sequence& sequence, bool is_named);
  void save_repaired(Walk& walk, Sequence& sequence);
  void start_pack(const Sequence& sequence);
  void write_extent(KvCache& cache, const Sequence& sequence);
  tiers::Discarded discard(const std::string& pack);
  bool drop_damaged(tiers::BlockStore& store);
  bool holds_all_of(const Sequence& sequence, const tiers::PackHead& pack) const;
  bool is_sparse(const tiers::Hash128& root) const { return options_.sparse_root == root; }
  uint32_t n_to_save(const Sequence& sequence) const;
  void check_stopped() const;
  void give_up(const Error& error);

  ContextCacheOptions options_;
  std::string model_name_;
  tiers::PackShape shape_;
  std::shared_ptr<PackPublisher> publisher_;

  // The text, and the run of it that is being saved: tokens_[first_pos_, run_end_).
  std::vector<int32_t> tokens_;
  std::vector<uint8_t> is_generated_;  // as tokens_
  std::optional<tiers::PackWriter> writer_;
  uint32_t first_pos_ = 0;
  uint32_t run_end_ = 0;
  uint32_t next_extent_ = 0;  // of the text
  uint32_t next_layer_ = 0;   // of that extent
  uint32_t saved_end_ = 0;    // positions before it are saved, or on their way
  // Packs of the text that the disk does not give, by name: those that the text holds all of go
  // when it is saved anew, and not before.
  std::map<std::string, std::shared_ptr<const tiers::PackReader>> unread_;

  ContextCacheCounts counts_;
};

}  // namespace strata::engine

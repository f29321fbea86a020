#include "tools/cli/run_contexts.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "engine/byte_text.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"

namespace strata::cli {
namespace {

// Saved contexts leave this much of the disk to everybody else.
constexpr uint64_t kFreeFloorBytes = uint64_t{4} << 30;

/// How the engine reads prompts that are longer than reading->from; nothing where it is exactly.
std::optional<engine::SparseReading> sparse_reading(const engine::Engine& engine) {
  const engine::EngineOptions& options = engine.options();
  if (!options.method || options.sparse_from == engine::kNeverSparse) return std::nullopt;
  return engine::SparseReading{*options.method, options.selection, options.sparse_from,
                               engine.context().chunk_rows};
}

}  // namespace

bool RunContexts::is_wanted(engine::Engine& engine, uint64_t n_tokens) {
  if (is_off_ || settings_.no_cache || settings_.session_dir.empty()) return false;
  if (!engine.cache().store().can_adopt()) {  // a model without a full layer
    if (failure_ == SavingFailure::kIsThrown)
      throw Error(ErrorCode::kUnsupported, "a model whose layers all have a window is not saved",
                  settings_.model, "its contexts are read anew");
    return false;
  }
  if (cache_) return true;
  if (n_tokens < engine::kSavedTokensMin && settings_.session.empty()) return false;
  try {
    engine::ContextCacheOptions options;
    options.directory = settings_.session_dir;
    options.limits.budget_bytes = settings_.cache_budget;
    options.limits.free_floor_bytes = kFreeFloorBytes;
    options.limits.index_bytes = engine.context().kv.pack_index_bytes;
    options.saves = options.saves_rows = !settings_.no_save;
    if (const auto reading = sparse_reading(engine)) {
      options.sparse_root = engine::sparse_root(*reading);
      options.sparse_from = reading->from;
    }
    options.cancel = &interrupt_flag();
    const auto& spec = engine.spec();
    cache_ = std::make_unique<engine::ContextCache>(
        options, engine.cache(), engine.fingerprint(),
        spec.name.empty() ? spec.shape.architecture : spec.name);
  } catch (const Error& error) {
    give_up_looking(error);
  }
  return cache_ != nullptr;
}

void RunContexts::give_up(const Error& error) {
  if (failure_ == SavingFailure::kIsThrown) throw Error(error);
  if (error.code() == ErrorCode::kCancelled) return notice("(saving was stopped)");
  is_off_ = true;
  notice(fmt::format("note: saved contexts are not used: {}{}{}", error.what(),
                     error.where().empty() ? "" : " | " + error.where(),
                     error.remedy().empty() ? "" : " | " + error.remedy()));
  // After the notice: on a disk that hangs, closing a file that was written to hangs as well.
  cache_.reset();
}

/// Whoever stops the looking stops the answer as well, which says so.
void RunContexts::give_up_looking(const Error& error) {
  if (error.code() != ErrorCode::kCancelled || failure_ == SavingFailure::kIsThrown) give_up(error);
}

/// ", 4,096 of them indexed before (1.9 MiB)"; "" where blocks are not chosen, or nothing is kept
/// of them.
std::string RunContexts::indexed_text(const engine::Sequence& sequence) const {
  if (sequence.index() == nullptr || sequence.index()->segment_bytes() == 0) return "";
  const auto counts = cache_->counts();
  return fmt::format(", {} of them indexed before ({})",
                     engine::grouped_number(counts.indexed_tokens),
                     engine::bytes_text(counts.rows_read_bytes - said_.rows_read_bytes));
}

void RunContexts::say_damaged() {
  const uint64_t n_damaged = cache_->counts().damaged_packs;
  if (n_damaged > said_.damaged_packs)
    notice(fmt::format("note: {} saved files were damaged and are removed",
                       n_damaged - said_.damaged_packs));
  said_.damaged_packs = n_damaged;
  const uint64_t n_unread = cache_->counts().unread_packs;
  if (n_unread > said_.unread_packs)
    notice(fmt::format("note: {} saved files could not be read: what they hold is computed again",
                       n_unread - said_.unread_packs));
  said_.unread_packs = n_unread;
  const uint64_t n_rows = cache_->counts().damaged_rows;
  if (n_rows > said_.damaged_rows)
    notice(fmt::format("note: {} files of index rows were damaged and are made anew",
                       n_rows - said_.damaged_rows));
  said_.damaged_rows = n_rows;
}

tiers::KnownText RunContexts::known_text(engine::Engine& engine,
                                         std::span<const engine::TokenId> prompt) {
  if (!is_wanted(engine, prompt.size())) return {};
  const engine::Tokenizer& tokenizer = engine.tokenizer();
  try {
    const std::string text = engine::marked_text(tokenizer, prompt);
    const tiers::TokenBytes bytes_of = [&](int32_t token, std::string& out) {
      engine::append_marked(tokenizer, token, out);
    };
    tiers::KnownText known = cache_->known_text(text, bytes_of);
    if (const auto& sparse = cache_->options().sparse_root) {
      tiers::KnownText sparsely = cache_->known_text(text, bytes_of, *sparse);
      if (sparsely.n_bytes > known.n_bytes) known = std::move(sparsely);
    }
    return known;
  } catch (const Error& error) {
    give_up_looking(error);
  }
  return {};
}

/// Of a text that would be read sparsely, what was read so; but what was read exactly, where that
/// is as long, and most of the text.
tiers::Hash128 RunContexts::root_for(std::span<const engine::TokenId> text) {
  const engine::ContextCacheOptions& options = cache_->options();
  if (!options.sparse_root || text.size() < options.sparse_from) return {};
  const uint32_t n_exact = cache_->n_saved(text);
  const bool is_most = n_exact >= text.size() / 2;
  if (is_most && n_exact >= cache_->n_saved(text, *options.sparse_root)) return {};
  return *options.sparse_root;
}

engine::Sequence RunContexts::restore(engine::Engine& engine,
                                      std::span<const engine::TokenId> prompt) {
  if (!is_wanted(engine, prompt.size())) return engine.cache().make_sequence();
  try {
    const auto wanted = prompt.first(prompt.size() - 1);
    engine::Sequence sequence = cache_->restore(engine.cache(), wanted, root_for(wanted));
    if (sequence.n_pos() > 0)
      notice(fmt::format("saved     {} of {} tokens were read before{}{}",
                         engine::grouped_number(sequence.n_pos()),
                         engine::grouped_number(prompt.size()),
                         sequence.n_exact() < sequence.n_pos()
                             ? fmt::format(", sparsely from token {} on",
                                           engine::grouped_number(sequence.n_exact()))
                             : "",
                         indexed_text(sequence)));
    say_damaged();
    const uint64_t n_passed_over = cache_->counts().passed_over_packs;
    if (n_passed_over > 0 && said_.passed_over_packs == 0)
      notice(
          fmt::format("note: {} saved files, those used the least recently, are not looked at: "
                      "the list of them would exceed its {} of --kv-dram",
                      engine::grouped_number(n_passed_over),
                      engine::bytes_text(engine.context().kv.pack_index_bytes)));
    said_.passed_over_packs = n_passed_over;
    return sequence;
  } catch (const Error& error) {
    give_up_looking(error);
  }
  return engine.cache().make_sequence();
}

void RunContexts::begin(engine::Engine& engine, const engine::Sequence& sequence,
                        const engine::PromptTokens& prompt) {
  if (is_wanted(engine, prompt.tokens.size()))
    cache_->begin(sequence, prompt.tokens, prompt.is_generated);
}

void RunContexts::save_closed(engine::Engine& engine, const engine::Sequence& sequence) {
  if (cache_) cache_->save_closed(engine.cache(), sequence);
}

void RunContexts::say_unsaved() {
  const std::string what = fmt::format("this context is not saved whole: {}", cache_->problem());
  if (failure_ == SavingFailure::kIsThrown)
    throw Error(ErrorCode::kIo, what, settings_.session_dir,
                "name a folder on a disk with room by --session-dir, or raise --cache-budget");
  notice("note: " + what);
}

void RunContexts::finish(engine::Engine& engine, engine::Sequence& sequence) {
  if (!cache_) return;
  try {
    cache_->finish(engine.walk(), sequence, settings_.session);
  } catch (const Error& error) {
    give_up(error);
    return;
  }
  say_damaged();
  if (!cache_->problem().empty()) say_unsaved();
  const auto counts = cache_->counts();
  if (counts.repaired_extents > said_.repaired_extents)
    notice(fmt::format(
        "note: {} stretches of 256 tokens of a layer could not be read while they were saved, "
        "and were computed again",
        counts.repaired_extents - said_.repaired_extents));
  if (counts.saved_tokens > said_.saved_tokens && failure_ != SavingFailure::kIsThrown)
    notice(fmt::format("saved     {} tokens, {} in {}{} | strata cache list",
                       engine::grouped_number(counts.saved_tokens - said_.saved_tokens),
                       engine::bytes_text(counts.saved_bytes - said_.saved_bytes),
                       settings_.session_dir,
                       settings_.session.empty() ? "" : ", named " + settings_.session));
  if (counts.saved_rows_bytes > said_.saved_rows_bytes)
    notice(fmt::format("saved     index rows of this context, {} in {}",
                       engine::bytes_text(counts.saved_rows_bytes - said_.saved_rows_bytes),
                       settings_.session_dir));
  if (!cache_->rows_problem().empty())
    notice("note: index rows of this context are not saved: " + cache_->rows_problem());
  said_ = counts;
}

}  // namespace strata::cli

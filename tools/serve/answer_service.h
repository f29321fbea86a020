// tools/serve/answer_service.h - what the server asks of the engine: answers, several at a time, as
// streams of events. Why an interface: what comes over a socket is tested with a scripted service,
// and what the engine does without a socket.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/generator.h"
#include "engine/layer_blocks.h"
#include "engine/sampler.h"
#include "engine/template/chat_template.h"

namespace strata::serve {

/// One answer that is wanted, checked as far as that is possible without the model. Of the three
/// kinds of prompt just one is given.
struct AnswerOrder {
  std::vector<engine::ChatMessage> messages;  // rendered by the model's template
  std::string text;                           // as it is
  std::vector<engine::TokenId> tokens;
  nlohmann::ordered_json tools;            // for the template; null = none
  nlohmann::ordered_json template_values;  // further variables of the template; null = none

  // What the prompt ends with behind the messages, as markup: a marker before the answer.
  std::string answer_begin;
  // Only orders of the same owner find what was read for this one again; "" = everybody's.
  std::string owner;
  // Who asks: askers take turns, and none fills the queue alone; "" = all are one.
  std::string asker;
  engine::SamplerOptions sampler;
  uint64_t n_predict = UINT64_MAX;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  // The answer is JSON of this schema (engine/grammar); null = any text.
  nlohmann::ordered_json answer_schema;
  // Of each token of the answer so many of the likeliest are told; nothing = none is, and neither
  // is the token's own.
  std::optional<uint32_t> n_logprobs;
};

struct TokenLogprob {
  engine::TokenId token = 0;
  std::string bytes;  // that the token stands for; need not be UTF-8
  double logprob = 0;
};

struct ScoredToken {
  TokenLogprob token;
  std::vector<TokenLogprob> likeliest;  // falling
};

/// What happens to an order, in this order: kPrompt any number of times while the prompt is read,
/// kText any number of times, then kEnd or kError, and nothing after it.
struct AnswerEvent {
  enum class Kind : uint8_t { kPrompt, kText, kEnd, kError };
  Kind kind = Kind::kPrompt;
  // kPrompt: tokens in the cache, of the prompt's.
  uint64_t n_read = 0, n_prompt = 0, n_cached = 0;
  // kText: whole code points, stop texts left out. May be empty where tokens are told that have
  // shown no text yet.
  std::string text;
  std::vector<ScoredToken> tokens;  // where logprobs were asked for
  // kEnd.
  engine::FinishReason finish_reason = engine::FinishReason::kStop;
  std::string stop_text;  // the stop text that ended it; empty = none did
  engine::TokenUsage usage;
  engine::GenerationTimes times;
  engine::DraftCounts drafts;
  // kError.
  std::optional<Error> error;
};

/// The events of one order, taken by one thread. Dropped or cancelled, the answer ends within a
/// step, and no event follows.
class AnswerStream {
 public:
  virtual ~AnswerStream() = default;
  /// Waits for the next event; false where none came in time.
  virtual bool wait_next(AnswerEvent& out, std::chrono::milliseconds timeout) = 0;
  virtual void cancel() = 0;
};

struct TierBytes {
  std::string name;  // "hbm", "dram", "nvme"
  uint64_t budget_bytes = 0, weights_bytes = 0, kv_bytes = 0, index_bytes = 0;
  uint64_t read_bytes = 0, written_bytes = 0;
};

/// One context that is held or being answered.
struct SlotFacts {
  uint32_t id = 0;  // as engine::HeldFacts has it
  bool is_busy = false;
  uint64_t n_tokens = 0;                  // of K and V that it holds
  uint64_t n_prompt = 0, n_answered = 0;  // of the order at work
};

/// What is to become of a context that is held.
struct SlotAction {
  enum class Kind : uint8_t { kSave, kRestore, kErase };
  Kind kind = Kind::kErase;
  uint32_t slot = 0;
  std::string name;   // of a session (tiers::is_session_name); kErase: none
  std::string owner;  // as AnswerOrder's; a slot of another's is as one that is not there
};

struct SlotOutcome {
  enum class End : uint8_t { kDone, kNoSlot, kIsBusy, kNoName };
  End end = End::kDone;
  // What has the name now, what was restored or erased; bytes of the session's files.
  uint64_t n_tokens = 0, n_bytes = 0;
};

/// Sums since the start, and what is there now.
struct ServiceCounts {
  uint64_t orders = 0, answered = 0, cancelled = 0, failed = 0, refused = 0;
  uint64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
  engine::DraftCounts drafts;
  double prompt_seconds = 0, answer_seconds = 0;  // summed over orders
  uint64_t n_waiting = 0, n_busy = 0;
  uint64_t n_slot_actions = 0;  // that are open
  uint64_t stalled_steps = 0;
  double stall_seconds = 0;  // of these steps together
  // What the disk did: blocks that came back wrong, reads that were repeated, extents that had to
  // be computed again, writes that failed.
  uint64_t corrupt_blocks = 0, read_retries = 0, lost_extents = 0, write_failures = 0;
  double hit_rate = 1;  // share of the blocks that steps wanted which DRAM had
  // Which the card's memory had behind what was copied there for the step, in layers without a
  // window; nothing without a card.
  std::optional<double> hbm_hit_rate;
  std::vector<TierBytes> tiers;
  std::vector<SlotFacts> slots;
};

struct ServiceFacts {
  std::string model_name;  // as the file has it
  std::string model_path;
  std::string chat_template;      // empty = the model has none
  std::string attention;          // "exact", or the method of retrieval
  std::string attention_budget;   // "2048", "2%", "0.98p"; empty where it is exact
  std::vector<std::string> plan;  // why what is where, in sentences
  // Per layer, of weights: "hbm", "dram", "nvme"; of the FFN's where they live apart, else empty.
  std::vector<std::string> layer_places, ffn_places;
  uint64_t kv_bytes_per_token = 0;  // of all layers, in the cache's types
  uint64_t n_ctx = 0, n_ctx_train = 0, n_parameters = 0, file_bytes = 0;
  uint32_t n_parallel = 1, n_layers = 0, vocab_size = 0;
};

/// Threads: every function may be called from any thread.
class AnswerService {
 public:
  virtual ~AnswerService() = default;
  virtual const ServiceFacts& facts() const = 0;
  virtual ServiceCounts counts() const = 0;
  /// Where K and V of each layer are, as of the last look; the engine's thread is asked for another
  /// one, between two steps. Empty before the first.
  virtual std::vector<engine::LayerBlocks> layer_blocks() const = 0;
  /// Takes an order into the queue. Errors, at once: ContextLengthError, kBadText, kTemplate,
  /// kUsage; kBusy where the queue has no place for the asker, kCancelled where the server stops.
  virtual std::unique_ptr<AnswerStream> submit(AnswerOrder order) = 0;
  /// Waits for a step of the engine and, to save, for the disk. Errors: kUnsupported (no folder of
  /// saved contexts), kUsage, kContextLengthExceeded, kDoesNotFit, kBadFile, kIo; kBusy where
  /// too many are open, kCancelled where the server stops.
  virtual SlotOutcome act_on_slot(const SlotAction& action) = 0;
  /// Errors: kBadText.
  virtual std::vector<engine::TokenId> tokenize(std::string_view text, bool adds_special,
                                                bool parses_special) const = 0;
  /// Errors: kUsage (a token that the model does not have).
  virtual std::string detokenize(const std::vector<engine::TokenId>& tokens) const = 0;
  /// The prompt that an order with messages would have. Errors: kTemplate.
  virtual std::string rendered(const AnswerOrder& order) const = 0;
  /// Takes no order from now on; those at work go on. True where all of them have ended in time,
  /// and what was read is saved; else what is left is cancelled.
  virtual bool drain(std::chrono::milliseconds timeout) = 0;
};

}  // namespace strata::serve

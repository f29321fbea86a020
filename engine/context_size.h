// engine/context_size.h - how many positions a run may hold, and the memory for their K and V: a
// pure function of the model's shape, what was asked for and what the machine has. Everything that
// cannot fit is refused here, before weights are read.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "base/kv_layout.h"
#include "base/model_shape.h"
#include "engine/kv_placement.h"

namespace strata::engine {

struct ContextRequest {
  uint64_t n_ctx = 0;  // 0 = chosen
  uint64_t kv_dram_bytes =
      0;                    // cap of K and V in DRAM and of what moves them; 0 = what n_ctx needs
  uint64_t nvme_bytes = 0;  // cap of the spill file; 0 = none: all of K and V in DRAM
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t chunk_rows = 512;
  bool allow_untrained = false;
  bool has_packs = false;                    // saved contexts are read and written
  std::optional<index::Method> method = {};  // of retrieval
  bool has_device = false;                   // that may compute the steps
  bool may_share = false;                    // what it does not hold between it and the CPU
  bool may_spill_beside = false;             // it computes, too, where K and V spill
  bool spills_beside = false;                // they do, and it does: then steps are of both
  std::optional<index::Rule> sparse = {};    // by which prompts are read; nothing = exactly
  uint32_t n_threads = 1;
  uint32_t n_answers = 1;         // at work at a time (EngineOptions)
  uint32_t n_draft_max = 0;       // tokens guessed ahead by a step's answers together
  uint64_t weight_bytes = 0;      // that the weights take of memory (WeightPlan::total_bytes)
  uint64_t weight_bytes_min = 0;  // that they could take, streamed; 0 = no less
  uint64_t available_bytes = 0;   // of the machine's memory, or of the budget for all of it
  bool is_budgeted = false;       // available_bytes is what the user gave: all of it may be used
};

struct ContextPlan {
  uint32_t n_ctx = 0;
  uint32_t chunk_rows = 0;  // rows of one prefill step: what was asked for, less where n_ctx or
                            // kWalkBytesMax holds less
  KvPlacement kv;
};

/// Beside weights and KV a process without a device stays below 200 MB (`bench` prints its peak):
/// this much of it is the walk's.
inline constexpr uint64_t kWalkBytesMax = uint64_t{160} << 20;

/// What KvPlacement's functions need to know of a request for so many positions.
KvContext kv_context(const ContextRequest& request, uint64_t n_ctx);

/// The rows of a step: what was asked for, less where its buffers would exceed kWalkBytesMax. Steps
/// on a device touch few of the walk's buffers, so they may have more rows where all are there.
uint32_t chunk_rows_for(const ModelShape& shape, const ContextRequest& request);

/// Errors: kUnsupported (q8_0 with a head_dim that is no multiple of 32).
void check_codecs(const ModelShape& shape, const ContextRequest& request);

/// Bytes that a Walk of so many rows reserves, an upper bound: per row three times d_model, three
/// times the width of q, twice those of k and v, twice d_ff, int8 activations with their scales,
/// and angles; per thread the scratch of attention; span partials; one row of logits.
uint64_t walk_buffer_bytes(const ModelShape& shape, uint32_t max_rows, uint32_t n_threads);

/// Pinned memory in which a device finds the inputs of such steps, leaves their logits and, where
/// it may, shares attention and products with the CPU, an upper bound.
uint64_t device_buffer_bytes(const ModelShape& shape, uint32_t max_rows, bool may_share);
/// Both of them, as a request wants them (of a device, the larger of its own steps and the CPU's,
/// which may have to stand in for it; where steps are of both, the walk's once and what the device
/// has beside them), with the logits of each of its answers and of their
/// drafts, and a PromptLookup each: of n_ctx or, where that is still to be chosen, of n_ctx_train.
uint64_t buffer_bytes(const ModelShape& shape, const ContextRequest& request);

/// Chooses n_ctx where none was asked for: shape.n_ctx_train, less where the KV cap or half of the
/// memory that the weights and the walk leave holds less; what a KV cap does not hold goes to the
/// spill file where there may be one. An n_ctx that was asked for spills only where DRAM does not
/// hold it. Errors: kDoesNotFit (both numbers and the smallest changes that fit), kUsage (beyond
/// the trained context), kUnsupported (q8_0 with a head_dim that is no multiple of 32).
ContextPlan plan_context(const ModelShape& shape, const ContextRequest& request);

/// The code and words by which a program knows this refusal, with both numbers as fields.
class ContextLengthError : public Error {
 public:
  ContextLengthError(uint64_t n_prompt, uint64_t context, std::string remedy);
  uint64_t n_prompt_tokens() const { return n_prompt_tokens_; }
  uint64_t n_ctx() const { return n_ctx_; }

 private:
  uint64_t n_prompt_tokens_;
  uint64_t n_ctx_;
};

/// Refuses a prompt that leaves no room for one token of answer. `n_ctx_train` shapes the remedy.
/// Errors: ContextLengthError.
void check_prompt_fits(uint64_t n_prompt_tokens, uint64_t n_ctx, uint64_t n_ctx_train);

}  // namespace strata::engine

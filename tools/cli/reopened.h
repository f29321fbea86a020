// tools/cli/reopened.h - one opening of a saved context, from the start of a process to the first
// token of a question: what `bench --reopen` starts in a process of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace strata::cli {

/// Rows of the question. They share one choice per KV head and layer, which at most 32 rows can.
inline constexpr uint32_t kQuestionRows = 20;

/// The text of so many tokens, and the question behind it: the same in every process.
std::vector<int32_t> reopened_tokens(uint32_t n_depth, uint32_t vocab_size);
/// Positions that the context of a reopening has.
uint64_t reopened_context(uint32_t n_depth);
/// Reads the question behind the text and leaves the logits of its last row.
void ask(engine::Engine& engine, engine::Sequence& sequence, std::span<const int32_t> tokens,
         engine::Attention attention);

/// What such a process has done, and when: moments of the steady clock, which all processes share.
struct Reopened {
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin, opened, loaded, restored, answered;
  uint64_t rows_bytes = 0;         // of index rows that were read
  uint64_t n_indexed = 0;          // positions whose rows they are
  uint64_t n_blocks = 0;           // that were read one by one,
  uint64_t block_bytes = 0;        // and what these reads moved
  uint64_t kv_read_bytes = 0;      // of K and V, however
  uint64_t selected_blocks = 0;    // that the rows attended, of all layers and KV heads,
  uint64_t selectable_blocks = 0;  // of so many
  uint64_t slot_bytes = 0;         // of DRAM for K and V
  uint64_t index_bytes = 0;        // beside it, for the index
  uint64_t dram_bytes = 0;         // of both, frames and packs: what --kv-dram states
  std::vector<float> logits;

  std::string to_json() const;
  /// Errors: kIo where `text` is not what to_json() gives.
  static Reopened from_json(const std::string& text);
};

}  // namespace strata::cli

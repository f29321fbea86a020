// tools/makers/golden_file.h - the golden answers of a model: what a reference gave, as plain text.
// Why: made once by a developer from another engine's logits (make_goldens), compared by
// tests/golden.
//
// The text, one item per line; # begins a comment:
//   model NAME
//   prompt NAME N_TOKENS SHA256       of the prompt's ids, as ids_text() writes them
//   greedy ID ...                     what the reference says next, always its likeliest token
//   row POS LEAD ID:LOGP ...          the likeliest five after position POS, natural log, and how
//                                     far the first leads the second
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace strata::makers {

inline constexpr uint32_t kGoldenTop = 5;
inline constexpr uint32_t kGoldenGreedyTokens = 16;

struct GoldenRow {
  struct Candidate {
    int32_t id = 0;
    double log_p = 0;
  };
  uint32_t pos = 0;
  std::vector<Candidate> top;  // [kGoldenTop], likeliest first

  double lead() const { return top[0].log_p - top[1].log_p; }
};

struct GoldenPrompt {
  std::string name;
  uint32_t n_tokens = 0;
  std::string ids_sha256;
  std::vector<int32_t> greedy;  // [kGoldenGreedyTokens]
  std::vector<GoldenRow> rows;  // golden_positions(n_tokens)
};

struct GoldenFile {
  std::string model;
  std::vector<GoldenPrompt> prompts;
};

/// What a prompt of n_tokens is compared at: eight positions spread over it, its last sixteen, and
/// those of the greedy answer but its last token. Ascending; fewer where it is short.
std::vector<uint32_t> golden_positions(uint32_t n_tokens);

/// The likeliest kGoldenTop of a row of logits. Ties: the lower id first.
GoldenRow golden_row(uint32_t pos, std::span<const float> logits);

/// One id per line.
std::string ids_text(std::span<const int32_t> ids);

std::string golden_text(const GoldenFile& file);
/// Errors: kIo; kBadFile, naming the line.
GoldenFile read_golden_file(const std::string& path);

}  // namespace strata::makers

#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace strata::engine {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();
constexpr uint32_t kReservedHistory = 1 << 16;  // tokens; a longer ring grows as it fills
constexpr size_t kHeapedTopK = 1024;

using Candidate = std::pair<float, TokenId>;

/// Higher logits first; of equal ones the lower id.
bool stands_before(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

float readable(float logit) { return std::isnan(logit) ? kImpossible : logit; }

[[noreturn]] void out_of_range(const char* option, double value, const char* wanted) {
  throw Error(ErrorCode::kUsage, fmt::format("{} is {}; wanted {}", option, value, wanted), option,
              fmt::format("Give {} {}.", option, wanted));
}

void check_options(const SamplerOptions& options, uint32_t vocab_size) {
  const auto is_share = [](double value) { return value >= 0 && value <= 1; };  // false for NaN
  if (!std::isfinite(options.temperature))
    out_of_range("--temp", options.temperature, "a finite number");
  if (!is_share(options.top_p)) out_of_range("--top-p", options.top_p, "0 to 1");
  if (!is_share(options.min_p)) out_of_range("--min-p", options.min_p, "0 to 1");
  if (!std::isfinite(options.repeat_penalty) || options.repeat_penalty <= 0)
    out_of_range("--repeat-penalty", options.repeat_penalty, "a finite number above 0");
  if (!std::isfinite(options.presence_penalty))
    out_of_range("--presence-penalty", options.presence_penalty, "a finite number");
  if (!std::isfinite(options.frequency_penalty))
    out_of_range("--frequency-penalty", options.frequency_penalty, "a finite number");
  for (const auto& [token, bias] : options.logit_bias) {
    if (token < 0 || static_cast<uint32_t>(token) >= vocab_size)
      throw Error(ErrorCode::kUsage,
                  fmt::format("--logit-bias names token {}; the vocabulary has 0 to {}", token,
                              vocab_size - 1),
                  "--logit-bias", "See `strata tokenize` for the ids of a text.");
    if (std::isnan(bias) || bias == std::numeric_limits<double>::infinity())
      out_of_range("--logit-bias", bias, "a finite number, or -inf to forbid the token");
  }
}

bool is_allowed(std::span<const uint64_t> allowed, size_t token) {
  return allowed.empty() || (allowed[token / 64] >> (token % 64) & 1) != 0;
}

/// A candidate's share relative to the best one's. Both may be infinite.
double weight_of(float logit, float best, double temperature) {
  return logit == best ? 1.0 : std::exp((double{logit} - double{best}) / temperature);
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options, uint32_t vocab_size)
    : options_(options),
      vocab_size_(vocab_size),
      has_penalties_(options.repeat_last_n > 0 &&
                     (options.repeat_penalty != 1 || options.presence_penalty != 0 ||
                      options.frequency_penalty != 0)),
      state_(options.seed) {
  STRATA_CHECK(vocab_size > 0 && vocab_size <= INT32_MAX, "vocab_size=%u", vocab_size);
  check_options(options, vocab_size);
  candidates_.reserve(vocab_size);
  if (!has_penalties_) return;
  history_.reserve(std::min(options.repeat_last_n, kReservedHistory));
  n_in_history_.assign(vocab_size, 0);
}

void Sampler::accept(TokenId token) {
  if (!has_penalties_) return;
  STRATA_CHECK(token >= 0 && static_cast<uint32_t>(token) < vocab_size_, "token %d of %u", token,
               vocab_size_);
  const uint32_t n_kept = options_.repeat_last_n;
  if (history_.size() < n_kept) {
    history_.push_back(token);
  } else {
    TokenId& oldest = history_[n_accepted_ % n_kept];
    --n_in_history_[static_cast<size_t>(oldest)];
    oldest = token;
  }
  ++n_in_history_[static_cast<size_t>(token)];
  ++n_accepted_;
}

/// Fills the candidates with bias and penalties applied, in order of id.
void Sampler::adjust(std::span<const float> logits, std::span<const uint64_t> allowed) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i)
    candidates_[i] = {is_allowed(allowed, i) ? readable(logits[i]) : kImpossible,
                      static_cast<TokenId>(i)};
  for (const auto& [token, bias] : options_.logit_bias) {
    float& logit = candidates_[static_cast<size_t>(token)].first;
    logit = readable(static_cast<float>(double{logit} + bias));
  }
  if (!has_penalties_) return;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    const uint32_t count = n_in_history_[i];
    if (count == 0) continue;
    double logit = double{candidates_[i].first};
    logit = logit <= 0 ? logit * options_.repeat_penalty : logit / options_.repeat_penalty;
    logit -= options_.frequency_penalty * count + options_.presence_penalty;
    candidates_[i].first = readable(static_cast<float>(logit));
  }
}

/// Leaves the k best, best first.
void Sampler::keep_top_k() {
  const size_t k = options_.top_k;
  if (k == 0 || k >= candidates_.size()) return;
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(k);
  // A heap of few passes over a vocabulary once; a large one would be slower than a partition.
  if (k > kHeapedTopK) {
    std::nth_element(candidates_.begin(), end, candidates_.end(), stands_before);
    std::sort(candidates_.begin(), end, stands_before);
  } else {
    std::partial_sort(candidates_.begin(), end, candidates_.end(), stands_before);
  }
  candidates_.resize(k);
}

/// Keeps the fewest best candidates whose probabilities, at temperature 1, reach top_p. Only those
/// are ever ordered: they leave a heap one by one.
void Sampler::keep_top_p() {
  if (options_.top_p >= 1 || candidates_.size() < 2) return;
  const auto stands_after = [](const Candidate& a, const Candidate& b) {
    return stands_before(b, a);
  };
  std::make_heap(candidates_.begin(), candidates_.end(), stands_after);
  const float best = candidates_.front().first;
  double total = 0;
  for (const Candidate& candidate : candidates_) total += weight_of(candidate.first, best, 1.0);
  double reached = 0;
  auto heap_end = candidates_.end();
  do {
    std::pop_heap(candidates_.begin(), heap_end, stands_after);
    --heap_end;
    reached += weight_of(heap_end->first, best, 1.0);
  } while (heap_end != candidates_.begin() && reached < options_.top_p * total);
  candidates_.erase(candidates_.begin(), heap_end);
}

void Sampler::keep_min_p() {
  if (options_.min_p <= 0) return;
  float best = kImpossible;
  for (const Candidate& candidate : candidates_) best = std::max(best, candidate.first);
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    return weight_of(candidate.first, best, 1.0) < options_.min_p;
  });
}

/// 53 random bits as a number in [0, 1).
/// Source: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
/// 2014).
double Sampler::next_uniform() {
  state_ += 0x9E3779B97F4A7C15u;
  uint64_t bits = state_;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  bits ^= bits >> 31;
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

TokenId Sampler::draw() {
  float best = kImpossible;
  for (const Candidate& candidate : candidates_) best = std::max(best, candidate.first);
  double total = 0;
  for (const Candidate& candidate : candidates_)
    total += weight_of(candidate.first, best, options_.temperature);
  double rest = next_uniform() * total;
  TokenId chosen = kNoToken;
  for (const Candidate& candidate : candidates_) {
    const double weight = weight_of(candidate.first, best, options_.temperature);
    if (weight <= 0) continue;
    // Rounding may leave a little after the last one, which then is the answer.
    chosen = candidate.second;
    if (rest < weight) break;
    rest -= weight;
  }
  return chosen;
}

void Sampler::refuse_impossible(std::span<const float> logits,
                                std::span<const uint64_t> allowed) const {
  bool was_possible = false, was_allowed = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (readable(logits[i]) == kImpossible) continue;
    was_possible = true;
    was_allowed |= is_allowed(allowed, i);
  }
  if (was_allowed)
    throw Error(ErrorCode::kUsage, "the biases forbid every token that could come next",
                "--logit-bias", "Leave a token that may be chosen.");
  if (was_possible)
    throw Error(ErrorCode::kUsage,
                "no token of the vocabulary goes on with what the answer must be", "schema",
                "Ask without a schema, or use another model.");
  throw Error(
      ErrorCode::kBadFile,
      fmt::format("wanted logits, found none among {} that is a number above -inf", vocab_size_),
      "the model's output", "The weights are damaged: fetch or convert the model again.");
}

TokenId Sampler::pick(std::span<const float> logits, std::span<const uint64_t> allowed) {
  STRATA_CHECK(logits.size() == vocab_size_, "%zu logits for %u tokens", logits.size(),
               vocab_size_);
  STRATA_CHECK(allowed.empty() || allowed.size() == (logits.size() + 63) / 64,
               "%zu words for %zu tokens", allowed.size(), logits.size());
  adjust(logits, allowed);
  const auto best = std::min_element(candidates_.begin(), candidates_.end(), stands_before);
  if (best->first == kImpossible) refuse_impossible(logits, allowed);
  if (options_.temperature <= 0) return best->second;
  keep_top_k();
  keep_top_p();
  keep_min_p();
  return draw();
}

}  // namespace strata::engine

#include "engine/grammar/answer_constraint.h"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace strata::engine {
namespace {

/// Source: FNV-1a, by words.
uint64_t hash_of(const std::vector<GrammarStack>& stacks) {
  uint64_t hash = 0xCBF29CE484222325u;
  const auto add = [&](uint64_t value) { hash = (hash ^ value) * 0x100000001B3u; };
  for (const GrammarStack& stack : stacks) {
    add(stack.size());
    for (const GrammarFrame& frame : stack) {
      add(frame.node);
      add(frame.phase);
      add(frame.count);
      add(frame.spaces);
    }
  }
  return hash;
}

uint64_t bytes_of(const GrammarStack& stack) {
  return sizeof(GrammarStack) + stack.size() * sizeof(GrammarFrame);
}

[[noreturn]] void refuse_ways() {
  throw Error(ErrorCode::kUsage,
              fmt::format("the schema leaves too many ways open at once: more than {}, or {} KiB",
                          AnswerConstraint::kWaysMax, AnswerConstraint::kStateBytesMax >> 10),
              "schema", "Let the choices of an anyOf begin differently, or nest less deep.");
}

void set_bit(std::vector<uint64_t>& bits, TokenId token) {
  const auto idx = static_cast<size_t>(token);
  bits[idx / 64] |= uint64_t{1} << (idx % 64);
}

}  // namespace

AnswerConstraint::AnswerConstraint(std::shared_ptr<const TokenTable> tokens, JsonGrammar grammar)
    : tokens_(std::move(tokens)), grammar_(std::move(grammar)) {
  begin_anew({first_stack(grammar_)});
}

void AnswerConstraint::begin_anew(std::vector<GrammarStack> current) {
  states_.clear();
  known_.clear();
  held_bytes_ = 0;
  const uint32_t dead = state_of({});
  STRATA_CHECK(dead == kDead, "dead=%u", dead);
  current_ = state_of(std::move(current));
}

uint32_t AnswerConstraint::state_of(std::vector<GrammarStack> stacks) {
  const uint64_t hash = hash_of(stacks);
  const auto [first, last] = known_.equal_range(hash);
  for (auto at = first; at != last; ++at)
    if (states_[at->second]->stacks == stacks) return at->second;
  const auto idx = static_cast<uint32_t>(states_.size());
  auto state = std::make_unique<State>();
  state->is_complete = std::ranges::any_of(
      stacks, [&](const GrammarStack& stack) { return may_end(grammar_, stack); });
  state->next.assign(256, stacks.empty() ? kDead : kUnknown);
  held_bytes_ += sizeof(State) + state->next.size() * sizeof(uint32_t);
  for (const GrammarStack& stack : stacks) held_bytes_ += bytes_of(stack);
  state->stacks = std::move(stacks);
  states_.push_back(std::move(state));
  known_.emplace(hash, idx);
  return idx;
}

uint32_t AnswerConstraint::step(uint32_t idx, uint8_t byte) {
  if (const uint32_t next = states_[idx]->next[byte]; next != kUnknown) return next;
  std::set<GrammarStack> kept;
  std::vector<GrammarStack> stacks;
  uint64_t n_bytes = 0, n_ways = 0;
  for (const GrammarStack& before : states_[idx]->stacks) {
    stacks.clear();
    step_stack(grammar_, before, byte, stacks);
    for (GrammarStack& stack : stacks) {
      const auto [added, is_new] = kept.insert(std::move(stack));
      if (!is_new) continue;
      n_bytes += bytes_of(*added);
      if (grammar_.nodes[added->back().node].kind != GrammarNode::Kind::kLiteral) ++n_ways;
      if (n_ways > kWaysMax || n_bytes > kStateBytesMax) refuse_ways();
    }
  }
  const uint32_t next = state_of({kept.begin(), kept.end()});
  states_[idx]->next[byte] = next;
  return next;
}

/// The state whose mask is that of the current one.
uint32_t AnswerConstraint::mask_state() {
  std::set<GrammarStack> stacks;
  for (const GrammarStack& stack : states_[current_]->stacks)
    stacks.insert(clipped(grammar_, stack, tokens_->longest_bytes()));
  return state_of({stacks.begin(), stacks.end()});
}

/// Of mask_state(). Returns where that is then.
uint32_t AnswerConstraint::fill_mask(uint32_t idx) {
  std::vector<uint64_t> mask((tokens_->vocab_size() + 63) / 64, 0);
  const auto& entries = tokens_->entries();
  const std::string& bytes = tokens_->bytes();
  path_.assign(1, idx);  // the states behind the bytes of the entry that was walked last
  size_t n_walked = 0;   // of its bytes, those that fit
  for (size_t i = 0; i < entries.size();) {
    const TokenTable::Entry& entry = entries[i];
    // It begins as the last one did, and with the byte where that one failed.
    if (entry.n_common > n_walked) {
      ++i;
      continue;
    }
    n_walked = entry.n_common;
    path_.resize(n_walked + 1);
    if (held_bytes_ >= kBytesMax) {
      begin_anew(std::move(states_[current_]->stacks));
      idx = mask_state();
      path_.assign(1, idx);
      n_walked = 0;
    }
    while (n_walked < entry.n_bytes) {
      const uint32_t next =
          step(path_[n_walked], static_cast<uint8_t>(bytes[entry.begin + n_walked]));
      if (next == kDead) break;
      path_.push_back(next);
      ++n_walked;
    }
    if (n_walked == entry.n_bytes) set_bit(mask, entry.token);
    i = n_walked == 0 ? entry.group_end : i + 1;
  }
  if (states_[idx]->is_complete)
    for (const TokenId token : tokens_->end_tokens()) set_bit(mask, token);
  held_bytes_ += mask.size() * sizeof(uint64_t);
  states_[idx]->mask = std::move(mask);
  return idx;
}

std::span<const uint64_t> AnswerConstraint::allowed() {
  STRATA_CHECK(!has_ended_, "an answer that has ended is asked on, state %u", current_);
  uint32_t idx = mask_state();
  if (states_[idx]->mask.empty()) idx = fill_mask(idx);
  return states_[idx]->mask;
}

void AnswerConstraint::accept(TokenId token) {
  STRATA_CHECK(!has_ended_, "token %d behind the end", token);
  if (tokens_->is_end(token)) {
    STRATA_CHECK(is_complete(), "end token %d before the end", token);
    has_ended_ = true;
    return;
  }
  const std::string_view text = tokens_->text_of(token);
  for (const char byte : text) current_ = step(current_, static_cast<uint8_t>(byte));
  STRATA_CHECK(!text.empty() && current_ != kDead, "token %d was not allowed", token);
  if (held_bytes_ >= kBytesMax) begin_anew(std::move(states_[current_]->stacks));
}

bool AnswerConstraint::is_complete() const { return states_[current_]->is_complete; }

bool AnswerConstraint::is_over() {
  if (!is_complete()) return false;
  for (uint32_t byte = 0; byte < 256; ++byte)
    if (step(current_, static_cast<uint8_t>(byte)) != kDead) return false;
  return true;
}

}  // namespace strata::engine

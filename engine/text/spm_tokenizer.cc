#include "engine/text/spm_tokenizer.h"

#include <algorithm>
#include <bit>
#include <functional>

#include <fmt/format.h>

#include "base/error.h"
#include "engine/text/byte_token.h"
#include "engine/text/hashing.h"
#include "engine/text/utf8.h"

namespace strata::engine {
namespace {

constexpr std::string_view kSpaceMark =
    "\xE2\x96\x81";  // U+2581, which stands for a space inside pieces

std::string escape_spaces(const std::string_view text, bool with_prefix) {
  std::string out;
  out.reserve(text.size() + text.size() / 2 + kSpaceMark.size());
  if (with_prefix) out += kSpaceMark;
  for (const char c : text) {
    if (c == ' ')
      out += kSpaceMark;
    else
      out.push_back(c);
  }
  return out;
}

}  // namespace

SpmTokenizer::SpmTokenizer(TokenizerSpec spec) : Tokenizer(std::move(spec)) {
  byte_tokens_.fill(kNoToken);
  for (size_t i = spec_.tokens.size(); i-- > 0;) {
    const auto token = static_cast<TokenId>(i);
    if (spec_.kinds[i] == TokenKind::kByte)
      byte_tokens_[static_cast<size_t>(byte_of_token(spec_.tokens[i]))] = token;
    if (is_plain(token))
      piece_bytes_max_ = std::max<uint64_t>(piece_bytes_max_, spec_.tokens[i].size());
  }
  rank_scores();
  note_neighbours();
}

/// Scores become dense ranks, so that a candidate merge is one 64-bit key and equal scores keep
/// their tie.
void SpmTokenizer::rank_scores() {
  const size_t n_tokens = spec_.tokens.size();
  std::vector<float> distinct = spec_.scores;
  std::sort(distinct.begin(), distinct.end(), std::greater<>{});
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  ranks_.assign(n_tokens, kNoMerge);
  for (size_t i = 0; i < n_tokens; ++i) {
    if (!is_plain(static_cast<TokenId>(i))) continue;
    const float score = spec_.scores.empty() ? 0.0f : spec_.scores[i];
    const auto place = std::lower_bound(distinct.begin(), distinct.end(), score, std::greater<>{});
    ranks_[i] = static_cast<uint32_t>(place - distinct.begin());
  }
}

/// A merge can only cross a place whose two characters stand side by side in some piece. Cutting
/// the text at all other places gives islands that merge independently of each other, with the same
/// result, in a heap that stays in the cache. The set is a bit per hash: a false positive joins two
/// islands and changes nothing else.
void SpmTokenizer::note_neighbours() {
  uint64_t n_pairs = 0;
  for (const std::string& token : spec_.tokens) n_pairs += token.size();
  neighbours_.assign(std::bit_ceil(std::max<uint64_t>(n_pairs * 4, 64)) / 64, 0);
  const uint64_t mask = neighbours_.size() * 64 - 1;
  for (size_t i = 0; i < spec_.tokens.size(); ++i) {
    if (ranks_[i] == kNoMerge) continue;
    std::string_view rest = spec_.tokens[i];
    uint32_t previous = 0;
    bool is_inside = false;
    while (!rest.empty()) {
      const Utf8Step step = utf8_step(rest);
      if (step.status != Utf8Status::kWhole)
        break;  // no text holds this piece, so no merge reaches past here
      if (is_inside) {
        const uint64_t bit = mix_bits(uint64_t{previous} << 32 | step.code_point) & mask;
        neighbours_[bit / 64] |= uint64_t{1} << bit % 64;
      }
      previous = step.code_point;
      is_inside = true;
      rest.remove_prefix(step.bytes);
    }
  }
}

bool SpmTokenizer::may_be_neighbours(uint32_t left, uint32_t right) const {
  const uint64_t bit = mix_bits(uint64_t{left} << 32 | right) & (neighbours_.size() * 64 - 1);
  return (neighbours_[bit / 64] >> bit % 64 & 1) != 0;
}

void SpmTokenizer::encode_plain(const Stretch& stretch, std::vector<TokenId>& out,
                                EncodeWork& work) const {
  const std::string text = escape_spaces(stretch.text, spec_.add_space_prefix && stretch.is_first);
  MergeScratch scratch;
  Pieces pieces{out};
  size_t island = 0;  // where the present island begins
  uint32_t previous = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(std::string_view(text).substr(at));
    if (at > island && !may_be_neighbours(previous, step.code_point)) {
      encode_island(std::string_view(text).substr(island, at - island), scratch, pieces, work);
      island = at;
    }
    previous = step.code_point;
    at += step.bytes;
  }
  encode_island(std::string_view(text).substr(island), scratch, pieces, work);
}

void SpmTokenizer::encode_island(std::string_view text, MergeScratch& scratch, Pieces& pieces,
                                 EncodeWork& work) const {
  const auto is_character_begin = [](char c) { return (static_cast<uint8_t>(c) & 0xC0u) != 0x80; };
  const auto n_characters = std::count_if(text.begin(), text.end(), is_character_begin);
  if (n_characters == 1) return append_character(text, pieces);
  scratch.symbols.clear();
  scratch.symbols.reserve(static_cast<size_t>(n_characters));
  for (uint32_t i = 0; i < text.size(); ++i)
    if (is_character_begin(text[i])) scratch.symbols.push_back({.begin = i});
  const auto end_of = [&](const MergeSymbol& symbol) {
    return symbol.next == kNoSymbol ? text.size() : scratch.symbols[symbol.next].begin;
  };
  const auto candidate_of = [&](const MergeSymbol& left, const MergeSymbol& right) {
    const uint64_t bytes = end_of(right) - left.begin;
    if (bytes > piece_bytes_max_) return MergeCandidate{};
    const TokenId token = find(text.substr(left.begin, bytes));
    if (token == kNoToken) return MergeCandidate{};
    return MergeCandidate{ranks_[static_cast<size_t>(token)], token};
  };
  merge_pairs(scratch, candidate_of, work);
  for (uint32_t i = 0; i != kNoSymbol; i = scratch.symbols[i].next) {
    const MergeSymbol& symbol = scratch.symbols[i];
    if (symbol.token != kNoToken)
      pieces.add(symbol.token);
    else
      append_character(text.substr(symbol.begin, end_of(symbol) - symbol.begin), pieces);
  }
}

void SpmTokenizer::append_character(std::string_view character, Pieces& pieces) const {
  const TokenId whole = find(character);
  if (whole != kNoToken && is_plain(whole)) return pieces.add(whole);
  const auto token_of = [&](char c) { return byte_tokens_[static_cast<uint8_t>(c)]; };
  if (std::all_of(character.begin(), character.end(),
                  [&](char c) { return token_of(c) != kNoToken; })) {
    for (const char c : character) pieces.add(token_of(c));
    return;
  }
  if (spec_.unk == kNoToken)
    throw Error(
        ErrorCode::kBadText,
        fmt::format(
            "the vocabulary has no token for the character U+{:04X}, no bytes and no unknown token",
            utf8_step(character).code_point),
        "text", "Remove the character from the text.");
  pieces.add_unknown(spec_.unk);
}

void SpmTokenizer::append_piece_bytes(TokenId token, std::string& out) const {
  const std::string& text = spec_.tokens[static_cast<size_t>(token)];
  for (size_t at = 0; at < text.size();) {
    if (text.compare(at, kSpaceMark.size(), kSpaceMark) == 0) {
      out.push_back(' ');
      at += kSpaceMark.size();
    } else {
      out.push_back(text[at++]);
    }
  }
}

}  // namespace strata::engine

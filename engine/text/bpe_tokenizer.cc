#include "engine/text/bpe_tokenizer.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/hashing.h"
#include "engine/text/tokenizer_check.h"
#include "engine/text/utf8.h"

namespace strata::engine {
namespace {

uint64_t pair_key(TokenId left, TokenId right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

std::vector<std::string> plain_pieces(const std::vector<std::string>& tokens,
                                      const std::vector<TokenKind>& kinds) {
  std::vector<std::string> pieces(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i)
    if (kinds[i] == TokenKind::kNormal && is_of_alphabet(tokens[i]))
      pieces[i] = bytes_of_alphabet(tokens[i]);
  return pieces;
}

}  // namespace

MergeTable::MergeTable(uint64_t n_merges)
    : entries_(std::bit_ceil(std::max<uint64_t>(n_merges * 2, 16))) {}

void MergeTable::add(TokenId left, TokenId right, MergeCandidate candidate) {
  const uint64_t key = pair_key(left, right);
  const uint64_t mask = entries_.size() - 1;
  uint64_t slot = mix_bits(key) & mask;
  for (uint32_t probe = 0; entries_[slot].pair != kNoPair; ++probe, slot = (slot + 1) & mask) {
    if (entries_[slot].pair == key) return;
    if (probe == kMaxProbes)
      throw Error(ErrorCode::kBadFile, "the merges collide on purpose", "tokenizer.ggml.merges",
                  "Use a model file from a source you trust.");
  }
  entries_[slot] = {key, candidate};
}

MergeCandidate MergeTable::find(TokenId left, TokenId right) const {
  if (left == kNoToken || right == kNoToken) return {};
  const uint64_t key = pair_key(left, right);
  const uint64_t mask = entries_.size() - 1;
  uint64_t slot = mix_bits(key) & mask;
  for (uint32_t probe = 0; probe <= kMaxProbes; ++probe, slot = (slot + 1) & mask) {
    if (entries_[slot].pair == key) return entries_[slot].candidate;
    if (entries_[slot].pair == kNoPair) break;
  }
  return {};
}

BpeTokenizer::BpeTokenizer(TokenizerSpec spec)
    : Tokenizer(std::move(spec)),
      pre_tokenizer_(spec_.pre),
      merges_(read_merges()),
      pieces_(plain_pieces(spec_.tokens, spec_.kinds)),
      pieces_by_bytes_(spec_.ignore_merges ? std::span<const std::string>(pieces_)
                                           : std::span<const std::string>()) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    std::string text;
    append_utf8(alphabet_code_point(static_cast<uint8_t>(byte)), text);
    const TokenId token = find(text);
    const bool is_normal =
        token != kNoToken && spec_.kinds[static_cast<size_t>(token)] == TokenKind::kNormal;
    byte_tokens_[byte] = is_normal ? token : kNoToken;
  }
}

MergeTable BpeTokenizer::read_merges() const {
  MergeTable merges(spec_.merges.size());
  std::string joined;
  for (size_t i = 0; i < spec_.merges.size(); ++i) {
    const std::string_view merge = spec_.merges[i];
    const size_t space = merge.find(' ', 1);
    TokenId left = kNoToken, right = kNoToken, whole = kNoToken;
    if (space != std::string_view::npos) {
      left = find(merge.substr(0, space));
      right = find(merge.substr(space + 1));
      joined = merge.substr(0, space);
      joined += merge.substr(space + 1);
      whole = find(joined);
    }
    if (left == kNoToken || right == kNoToken || whole == kNoToken)
      throw Error(ErrorCode::kBadFile,
                  fmt::format("merge {} is {}: wanted two tokens whose texts joined are a token", i,
                              quoted_start(merge)),
                  "tokenizer.ggml.merges", "Convert the model again, or download it again.");
    // Text must never become a control token, so a merge that would make one is left out.
    if (spec_.kinds[static_cast<size_t>(whole)] == TokenKind::kNormal)
      merges.add(left, right, {static_cast<uint32_t>(i), whole});
  }
  return merges;
}

void BpeTokenizer::encode_plain(const Stretch& stretch, std::vector<TokenId>& out,
                                EncodeWork& work) const {
  MergeScratch scratch;
  uint32_t begin = 0;
  for (const uint32_t end : pre_tokenizer_.split(stretch.text, work)) {
    const std::string_view word = stretch.text.substr(begin, end - begin);
    const TokenId whole = spec_.ignore_merges ? pieces_by_bytes_.find(pieces_, word) : kNoToken;
    if (whole != kNoToken) {
      out.push_back(whole);
      begin = end;
      continue;
    }
    scratch.symbols.clear();
    scratch.symbols.reserve(word.size());
    for (uint32_t i = 0; i < word.size(); ++i)
      scratch.symbols.push_back({.begin = i, .token = byte_tokens_[static_cast<uint8_t>(word[i])]});
    merge_pairs(
        scratch,
        [&](const MergeSymbol& left, const MergeSymbol& right) {
          return merges_.find(left.token, right.token);
        },
        work);
    for (uint32_t i = 0; i != kNoSymbol; i = scratch.symbols[i].next) {
      const MergeSymbol& symbol = scratch.symbols[i];
      TokenId token = symbol.token;
      if (token == kNoToken && spec_.unk != kNoToken &&
          spec_.kinds[static_cast<size_t>(spec_.unk)] == TokenKind::kUnknown)
        token = spec_.unk;
      if (token == kNoToken)
        throw Error(
            ErrorCode::kBadText,
            fmt::format("the vocabulary has no token for byte 0x{:02X} (at byte {} of the text)",
                        static_cast<uint8_t>(word[symbol.begin]),
                        stretch.offset + begin + symbol.begin),
            "text", "Remove the character from the text: this model cannot read it.");
      out.push_back(token);
    }
    begin = end;
  }
}

void BpeTokenizer::append_piece_bytes(TokenId token, std::string& out) const {
  const auto i = static_cast<size_t>(token);
  if (spec_.kinds[i] == TokenKind::kUserDefined)
    out += spec_.tokens[i];
  else if (pieces_[i].empty())
    out += bytes_of_alphabet(spec_.tokens[i]);
  else
    out += pieces_[i];
}

}  // namespace strata::engine

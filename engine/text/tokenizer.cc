#include "engine/text/tokenizer.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/byte_token.h"
#include "engine/text/pattern_set.h"
#include "engine/text/spm_tokenizer.h"
#include "engine/text/text_table.h"
#include "engine/text/tokenizer_check.h"
#include "engine/text/utf8.h"

namespace strata::engine {
namespace {

/// Texts of tokens that end a turn or a text in the chat formats of known models. Files name one of
/// them at most.
constexpr std::string_view kEndTexts[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|return|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|call|>",
    "<end_of_utterance>",
    "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",
};

/// Token texts to be found in text: of those that begin at one place the longest, of those that
/// overlap the leftmost.
class SpecialTexts {
 public:
  template <typename IsWanted>
  SpecialTexts(const std::vector<std::string>& tokens, const IsWanted& is_wanted) : patterns_({}) {
    std::vector<std::string> reversed;
    for (size_t i = 0; i < tokens.size(); ++i) {
      // A text that is not UTF-8 could match inside a character and leave broken text on both
      // sides.
      if (!is_wanted(i) || utf8_fault(tokens[i]) != tokens[i].size()) continue;
      reversed.emplace_back(tokens[i].rbegin(), tokens[i].rend());
      ids_.push_back(static_cast<TokenId>(i));
      bytes_max_ = std::max(bytes_max_, tokens[i].size());
    }
    patterns_ = PatternSet(reversed);
  }

  /// Calls visit(offset, token) for the longest token of every place where one begins, in the order
  /// of the text. The automaton reads backwards, window by window: its state depends on the next
  /// bytes_max_ bytes only, so a window that starts that far behind its end sees what one pass over
  /// the whole text would see, in memory that stays in the cache.
  template <typename Visit>
  void for_each(std::string_view text, const Visit& visit) const {
    if (patterns_.empty()) return;
    std::vector<std::pair<size_t, TokenId>> found;
    for (size_t begin = 0; begin < text.size(); begin += kWindowBytes) {
      const size_t end = std::min(begin + kWindowBytes, text.size());
      PatternSet::State state = PatternSet::kStart;
      found.clear();
      for (size_t at = std::min(end + bytes_max_, text.size()); at-- > begin;) {
        state = patterns_.step(state, static_cast<uint8_t>(text[at]));
        const int32_t pattern = patterns_.longest(state);
        if (pattern != PatternSet::kNone && at < end)
          found.emplace_back(at, ids_[static_cast<size_t>(pattern)]);
      }
      for (size_t i = found.size(); i-- > 0;) visit(found[i].first, found[i].second);
    }
  }

 private:
  // 16 x kMaxTokenBytes, so overlaps cost a sixteenth at most.
  static constexpr size_t kWindowBytes = 1 << 16;
  PatternSet patterns_;
  std::vector<TokenId> ids_;
  size_t bytes_max_ = 0;
};

}  // namespace

struct Tokenizer::SpecialIndex {
  explicit SpecialIndex(TokenizerSpec& spec);
  TextTable by_text;
  std::vector<TokenId> ends;  // ascending
  SpecialTexts user_defined;
  SpecialTexts all;

 private:
  static TextTable distinct_texts(const TokenizerSpec& spec);
  static std::vector<TokenId> find_ends(TokenizerSpec& spec, const TextTable& by_text);
};

std::vector<TokenId> Tokenizer::SpecialIndex::find_ends(TokenizerSpec& spec,
                                                        const TextTable& by_text) {
  std::vector<TokenId> ends;
  for (const TokenId id : {spec.eos, spec.eot, spec.eom})
    if (id != kNoToken) ends.push_back(id);
  // In the harmony format <|end|> closes a message of an answer that goes on; <|return|> and
  // <|call|> end it.
  const bool is_harmony =
      by_text.find(spec.tokens, "<|return|>") >= 0 && by_text.find(spec.tokens, "<|call|>") >= 0;
  for (const std::string_view text : kEndTexts) {
    const TokenId id = by_text.find(spec.tokens, text);
    if (id == kNoToken || (is_harmony && text == "<|end|>")) continue;
    ends.push_back(id);
    // Some files call such a token normal or user-defined, which would let the text of a user end a
    // turn.
    spec.kinds[static_cast<size_t>(id)] = TokenKind::kControl;
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return ends;
}

/// Of two tokens with one text, which is meant would depend on the reader.
TextTable Tokenizer::SpecialIndex::distinct_texts(const TokenizerSpec& spec) {
  TextTable table(spec.tokens);
  if (const auto [first, second] = table.repeat(); second >= 0)
    throw Error(ErrorCode::kBadFile,
                fmt::format("tokens {} and {} are both {}", first, second,
                            quoted_start(spec.tokens[static_cast<size_t>(second)])),
                "tokenizer.ggml.tokens", "Convert the model again, or download it again.");
  return table;
}

Tokenizer::SpecialIndex::SpecialIndex(TokenizerSpec& spec)
    : by_text(distinct_texts(spec)),
      ends(find_ends(spec, by_text)),
      user_defined(spec.tokens, [&](size_t i) { return spec.kinds[i] == TokenKind::kUserDefined; }),
      all(spec.tokens, [&](size_t i) {
        const TokenKind kind = spec.kinds[i];
        return kind == TokenKind::kUserDefined || kind == TokenKind::kControl ||
               kind == TokenKind::kUnknown;
      }) {}

Tokenizer::Tokenizer(TokenizerSpec spec)
    : spec_(std::move(spec)), special_(std::make_shared<const SpecialIndex>(spec_)) {}

std::unique_ptr<Tokenizer> Tokenizer::make(TokenizerSpec spec) {
  validate_tokenizer_spec(spec, "");
  if (spec.model == "llama") return std::make_unique<SpmTokenizer>(std::move(spec));
  return std::make_unique<BpeTokenizer>(std::move(spec));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes)
    throw Error(
        ErrorCode::kBadText,
        fmt::format("the text has {} bytes; at most {} are taken", text.size(), kMaxTextBytes),
        "text", "Split the text.");
  if (const uint64_t fault = utf8_fault(text); fault != text.size())
    throw Error(ErrorCode::kBadText,
                fmt::format("the text is not UTF-8: byte 0x{:02X} at offset {}",
                            static_cast<uint8_t>(text[fault]), fault),
                "text", "Convert the text to UTF-8.");
  std::vector<TokenId> out;
  EncodeWork work;
  if (options.add_special && spec_.add_bos) out.push_back(spec_.bos);
  size_t done = 0;
  bool is_first = !options.continues;
  const auto encode_until = [&](size_t end) {
    if (end == done) return;
    encode_plain({text.substr(done, end - done), done, is_first}, out, work);
    is_first = false;
  };
  const SpecialTexts& texts = options.parse_special ? special_->all : special_->user_defined;
  texts.for_each(text, [&](size_t begin, TokenId token) {
    if (begin < done) return;
    encode_until(begin);
    out.push_back(token);
    is_first = true;
    done = begin + spec_.tokens[static_cast<size_t>(token)].size();
  });
  encode_until(text.size());
  if (options.add_special && spec_.add_eos) out.push_back(spec_.eos);
  if (options.work != nullptr) {
    options.work->lookups += work.lookups;
    options.work->queue_pops += work.queue_pops;
    options.work->matches += work.matches;
  }
  return out;
}

std::string Tokenizer::piece(TokenId token, bool render_special) const {
  std::string out;
  append_piece(token, out, render_special);
  return out;
}

void Tokenizer::append_piece(TokenId token, std::string& out, bool render_special) const {
  if (token < 0 || static_cast<size_t>(token) >= spec_.tokens.size()) return;
  const std::string& text = spec_.tokens[static_cast<size_t>(token)];
  switch (spec_.kinds[static_cast<size_t>(token)]) {
    case TokenKind::kControl:
    case TokenKind::kUnknown:
      if (render_special) out += text;
      return;
    case TokenKind::kByte:
      out += static_cast<char>(byte_of_token(text));
      return;
    case TokenKind::kUnused:
      return;
    case TokenKind::kNormal:
    case TokenKind::kUserDefined:
      append_piece_bytes(token, out);
  }
}

std::string Tokenizer::decode(std::span<const TokenId> tokens, bool render_special) const {
  std::string out;
  for (const TokenId token : tokens) append_piece(token, out, render_special);
  return out;
}

uint32_t Tokenizer::vocab_size() const { return static_cast<uint32_t>(spec_.tokens.size()); }

bool Tokenizer::is_control(TokenId token) const {
  return token >= 0 && static_cast<size_t>(token) < spec_.kinds.size() &&
         spec_.kinds[static_cast<size_t>(token)] == TokenKind::kControl;
}

bool Tokenizer::is_end(TokenId token) const {
  return std::binary_search(special_->ends.begin(), special_->ends.end(), token);
}

bool Tokenizer::is_plain(TokenId token) const {
  const TokenKind kind = spec_.kinds[static_cast<size_t>(token)];
  return kind == TokenKind::kNormal || kind == TokenKind::kUserDefined;
}

TokenId Tokenizer::find(std::string_view text) const {
  return special_->by_text.find(spec_.tokens, text);
}

}  // namespace strata::engine

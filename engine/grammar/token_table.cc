#include "engine/grammar/token_table.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace strata::engine {
namespace {

std::vector<std::string> texts_of(const Tokenizer& tokenizer, uint32_t vocab_size) {
  std::vector<std::string> texts;
  texts.reserve(vocab_size);
  for (uint32_t i = 0; i < vocab_size; ++i) {
    const auto token = static_cast<TokenId>(i);
    texts.push_back(tokenizer.is_end(token) ? "" : tokenizer.piece(token));
  }
  return texts;
}

std::vector<TokenId> ends_of(const Tokenizer& tokenizer, uint32_t vocab_size) {
  std::vector<TokenId> ends;
  for (uint32_t i = 0; i < vocab_size; ++i)
    if (tokenizer.is_end(static_cast<TokenId>(i))) ends.push_back(static_cast<TokenId>(i));
  return ends;
}

}  // namespace

TokenTable::TokenTable(const Tokenizer& tokenizer, uint32_t vocab_size)
    : TokenTable(texts_of(tokenizer, vocab_size), ends_of(tokenizer, vocab_size)) {}

TokenTable::TokenTable(const std::vector<std::string>& texts, std::vector<TokenId> end_tokens)
    : vocab_size_(static_cast<uint32_t>(texts.size())), end_tokens_(std::move(end_tokens)) {
  STRATA_CHECK(texts.size() <= INT32_MAX, "%zu tokens", texts.size());
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < vocab_size_; ++i)
    if (!texts[i].empty()) order.push_back(i);
  std::ranges::sort(order, [&](uint32_t a, uint32_t b) {
    return texts[a] != texts[b] ? texts[a] < texts[b] : a < b;
  });
  entry_of_.assign(vocab_size_, UINT32_MAX);
  entries_.reserve(order.size());
  const std::string* before = nullptr;
  for (const uint32_t token : order) {
    const std::string& text = texts[token];
    Entry entry;
    entry.token = static_cast<TokenId>(token);
    entry.begin = static_cast<uint32_t>(bytes_.size());
    entry.n_bytes = static_cast<uint32_t>(text.size());
    if (before) {
      const auto [end, unused] = std::ranges::mismatch(text, *before);
      entry.n_common = static_cast<uint32_t>(end - text.begin());
    }
    longest_bytes_ = std::max(longest_bytes_, entry.n_bytes);
    bytes_ += text;
    STRATA_CHECK(bytes_.size() <= UINT32_MAX, "%zu bytes of tokens", bytes_.size());
    entry_of_[token] = static_cast<uint32_t>(entries_.size());
    entries_.push_back(entry);
    before = &text;
  }
  auto group_end = static_cast<uint32_t>(entries_.size());
  for (size_t i = entries_.size(); i-- > 0;) {
    entries_[i].group_end = group_end;
    if (entries_[i].n_common == 0) group_end = static_cast<uint32_t>(i);
  }
}

std::string_view TokenTable::text_of(TokenId token) const {
  STRATA_CHECK(token >= 0 && static_cast<uint32_t>(token) < vocab_size_, "token %d of %u", token,
               vocab_size_);
  const uint32_t idx = entry_of_[static_cast<size_t>(token)];
  if (idx == UINT32_MAX) return {};
  return std::string_view(bytes_).substr(entries_[idx].begin, entries_[idx].n_bytes);
}

bool TokenTable::is_end(TokenId token) const {
  return std::ranges::find(end_tokens_, token) != end_tokens_.end();
}

}  // namespace strata::engine

// engine/template/marked_text.h - text that knows which of its bytes came from the conversation.
// Why: a template glues its own markup (control tokens) and the user's words into one string. Marks
// that survive slicing, trimming and joining let the tokenizer treat `<|im_start|>` as a control
// token only where the template wrote it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata::engine::jinja {

/// Bytes [begin, end) of a text.
struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
};

/// Bytes and the sorted, disjoint, non-empty ranges of them that are user text. Equality and order
/// look at the bytes only.
class MarkedText {
 public:
  MarkedText() = default;
  explicit MarkedText(std::string bytes, bool is_user = false);

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool has_user_text() const { return !user_.empty(); }
  const std::vector<ByteRange>& user() const { return user_; }
  /// What the text takes in memory, marks included: the figure that budgets charge.
  uint64_t memory_bytes() const { return bytes_.size() + user_.size() * sizeof(ByteRange); }

  void append(std::string_view plain) { bytes_.append(plain); }
  void append(const MarkedText& other) { append(other, 0, other.size()); }
  /// Appends bytes [begin, end) of `other` with their marks; end <= other.size().
  void append(const MarkedText& other, size_t begin, size_t end);
  MarkedText slice(size_t begin, size_t end) const;

 private:
  void mark(size_t begin, size_t end);
  std::string bytes_;
  std::vector<ByteRange> user_;
};

}  // namespace strata::engine::jinja

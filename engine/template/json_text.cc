#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/template/code_points.h"
#include "engine/template/number_text.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {
namespace {

void append_unicode_escape(std::string& out, uint32_t c) {
  if (c < 0x10000) {
    out += fmt::format("\\u{:04x}", c);
  } else {
    out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((c - 0x10000) >> 10),
                       0xdc00 + ((c - 0x10000) & 0x3ff));
  }
}

std::string json_string(std::string_view text, bool ensure_ascii) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    switch (c.value) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (c.is_valid && (c.value < 0x20 || (ensure_ascii && c.value > 0x7e))) {
          append_unicode_escape(out, c.value);
        } else {
          out += text.substr(at, c.bytes);
        }
    }
    at += c.bytes;
  }
  return out + '"';
}

// Writes JSON as Python's json.dumps does. As in print_text, the result is user text as a whole or
// not at all.
class JsonWriter {
 public:
  JsonWriter(Runtime& rt, const JsonStyle& style)
      : rt_(rt), style_(style), has_user_text_(style.is_user) {}

  void write(const Value& value) {
    const Runtime::Frame frame(rt_);
    rt_.step();
    if (const MarkedText* text = as_text(value)) {
      write_text(*text);
    } else if (const Mapping* mapping = as_cell<Mapping>(value)) {
      write_mapping(*mapping);
    } else if (const Sequence* sequence = as_cell<Sequence>(value); is_list_or_tuple(sequence)) {
      write_list(sequence->items);
    } else {
      put(scalar(value));
    }
  }

  MarkedText take() { return MarkedText(std::move(out_), has_user_text_); }

 private:
  void put(std::string_view text) {
    rt_.hold(text.size());
    out_ += text;
  }

  void put_line_break() {
    if (!style_.indent) return;
    rt_.hold(1 + level_ * style_.indent->size());
    out_ += '\n';
    for (uint32_t i = 0; i < level_; ++i) out_ += *style_.indent;
  }

  void write_text(const MarkedText& text) {
    has_user_text_ |= text.has_user_text();
    rt_.scan_bytes(text.size());
    put(json_string(text.bytes(), style_.ensure_ascii));
  }

  std::string scalar(const Value& value) const {
    if (is<None>(value)) return "null";
    if (const bool* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
    if (const int64_t* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
    if (const double* real = std::get_if<double>(&value)) {
      if (std::isnan(*real)) return "NaN";
      if (std::isinf(*real)) return *real < 0 ? "-Infinity" : "Infinity";
      return real_text(*real);
    }
    rt_.fail(fmt::format("tojson: {} has no JSON form", type_name(value)));
  }

  void write_list(const std::vector<Value>& items) {
    if (items.empty()) return put("[]");
    put("[");
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) put(style_.item_separator);
      put_line_break();
      write(items[i]);
    }
    --level_;
    put_line_break();
    put("]");
  }

  void write_key(const Value& key) {
    if (const MarkedText* text = as_text(key)) return write_text(*text);
    if (as_cell<Sequence>(key) || as_cell<Object>(key)) {
      rt_.fail(fmt::format("tojson: {} cannot be a key", type_name(key)));
    }
    put("\"" + scalar(key) + "\"");
  }

  void write_mapping(const Mapping& mapping) {
    if (mapping.items.empty()) return put("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    rt_.hold_items(mapping.items.size());
    for (const auto& item : mapping.items) entries.push_back(&item);
    if (style_.sort_keys) sort_entries(entries);
    put("{");
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) put(style_.item_separator);
      put_line_break();
      write_key(entries[i]->first);
      put(style_.key_separator);
      write(entries[i]->second);
    }
    --level_;
    put_line_break();
    put("}");
  }

  void sort_entries(std::vector<const std::pair<Value, Value>*>& entries) {
    for (const auto* entry : entries) {
      if (!as_text(entry->first)) rt_.fail("tojson: sort_keys wants text keys");
    }
    std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
      const std::string& left = as_text(a->first)->bytes();
      rt_.step(1 + left.size() / 256);
      return left < as_text(b->first)->bytes();
    });
  }

  Runtime& rt_;
  const JsonStyle& style_;
  std::string out_;
  uint32_t level_ = 0;
  bool has_user_text_;
};

}  // namespace

MarkedText json_text(Runtime& rt, const Value& value, const JsonStyle& style) {
  JsonWriter writer(rt, style);
  writer.write(value);
  return writer.take();
}

}  // namespace strata::engine::jinja

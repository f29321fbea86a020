#include "engine/template/value_text.h"

#include <fmt/format.h>

#include "engine/template/code_points.h"
#include "engine/template/number_text.h"

namespace strata::engine::jinja {
namespace {

std::string quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (!c.is_valid) {
      out += fmt::format("\\x{:02x}", static_cast<uint8_t>(text[at]));
    } else if (c.value == static_cast<uint32_t>(quote) || c.value == '\\') {
      out += '\\';
      out += static_cast<char>(c.value);
    } else if (c.value == '\n') {
      out += "\\n";
    } else if (c.value == '\r') {
      out += "\\r";
    } else if (c.value == '\t') {
      out += "\\t";
    } else if (is_printable(c.value)) {
      out += text.substr(at, c.bytes);
    } else if (c.value < 0x100) {
      out += fmt::format("\\x{:02x}", c.value);
    } else {
      out +=
          c.value < 0x10000 ? fmt::format("\\u{:04x}", c.value) : fmt::format("\\U{:08x}", c.value);
    }
    at += c.bytes;
  }
  return out + quote;
}

// Writes values as Python's repr does. Whatever holds user text anywhere is user text as a whole:
// quoting changes bytes, and marking too much only keeps control tokens out.
class Printer {
 public:
  explicit Printer(Runtime& rt) : rt_(rt) {}

  void print(const Value& value) {
    const Runtime::Frame frame(rt_);
    rt_.step();
    if (const MarkedText* text = as_text(value)) {
      has_user_text_ |= text->has_user_text();
      rt_.scan_bytes(text->size());
      put(quoted(text->bytes()));
    } else if (const Sequence* sequence = as_cell<Sequence>(value)) {
      print_sequence(*sequence);
    } else if (const Mapping* mapping = as_cell<Mapping>(value)) {
      print_mapping(*mapping);
    } else if (const Object* object = as_cell<Object>(value)) {
      print_object(*object);
    } else {
      put(scalar(value));
    }
  }

  static std::string scalar(const Value& value) {
    if (is<None>(value)) return "None";
    if (const bool* flag = std::get_if<bool>(&value)) return *flag ? "True" : "False";
    if (const int64_t* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
    if (const double* real = std::get_if<double>(&value)) return real_text(*real);
    return "Undefined";
  }

  MarkedText take() { return MarkedText(std::move(out_), has_user_text_); }

 private:
  void put(std::string_view text) {
    rt_.hold(text.size());
    out_ += text;
  }

  void print_items(const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) put(", ");
      print(items[i]);
    }
  }

  void print_sequence(const Sequence& sequence) {
    switch (sequence.kind) {
      case SequenceKind::kList:
        put("[");
        print_items(sequence.items);
        put("]");
        break;
      case SequenceKind::kTuple:
        put("(");
        print_items(sequence.items);
        put(sequence.items.size() == 1 ? ",)" : ")");
        break;
      case SequenceKind::kKeys:
      case SequenceKind::kValues:
      case SequenceKind::kItems:
        put(type_name(sequence.kind));
        put("([");
        print_items(sequence.items);
        put("])");
        break;
      case SequenceKind::kGenerator:
        put("<generator>");
        break;
    }
  }

  void print_mapping(const Mapping& mapping) {
    put("{");
    for (size_t i = 0; i < mapping.items.size(); ++i) {
      if (i > 0) put(", ");
      print(mapping.items[i].first);
      put(": ");
      print(mapping.items[i].second);
    }
    put("}");
  }

  void print_object(const Object& object) {
    if (object.kind == ObjectKind::kRange) {
      const auto& range = static_cast<const Range&>(object);
      put(range.step == 1 ? fmt::format("range({}, {})", range.start, range.stop)
                          : fmt::format("range({}, {}, {})", range.start, range.stop, range.step));
    } else if (object.kind == ObjectKind::kNamespace) {
      put("<Namespace {");
      const auto& fields = static_cast<const Namespace&>(object).fields;
      for (size_t i = 0; i < fields.size(); ++i) {
        has_user_text_ |= fields[i].first.has_user_text();
        put((i > 0 ? ", " : "") + quoted(fields[i].first.bytes()) + ": ");
        print(fields[i].second);
      }
      put("}>");
    } else {
      put(fmt::format("<{}>", type_name(object.kind)));
    }
  }

  Runtime& rt_;
  std::string out_;
  bool has_user_text_ = false;
};

}  // namespace

MarkedText print_text(Runtime& rt, const Value& value) {
  if (const MarkedText* text = as_text(value)) return *text;
  if (is<Undefined>(value)) return {};
  return quoted_text(rt, value);
}

MarkedText quoted_text(Runtime& rt, const Value& value) {
  Printer printer(rt);
  printer.print(value);
  return printer.take();
}

Text shared_text(Runtime& rt, const Value& value) {
  if (const Text* text = std::get_if<Text>(&value)) return *text;
  return std::get<Text>(rt.text(print_text(rt, value)));
}

}  // namespace strata::engine::jinja

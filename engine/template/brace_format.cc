#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "engine/template/access.h"
#include "engine/template/code_points.h"
#include "engine/template/number_format.h"
#include "engine/template/number_text.h"
#include "engine/template/operators.h"
#include "engine/template/text_format.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {
namespace {

constexpr int64_t kMaxFigure = 1'000'000;

class BraceFormatter {
 public:
  BraceFormatter(Runtime& rt, const MarkedText& format, const Arguments& arguments)
      : rt_(rt), arguments_(arguments), format_(format) {}

  Value run() {
    const std::string& bytes = format_.bytes();
    rt_.scan_bytes(bytes.size());
    size_t plain = 0;
    for (size_t at = 0; at < bytes.size();) {
      const char c = bytes[at];
      if (c != '{' && c != '}') {
        ++at;
        continue;
      }
      out_.append(format_, plain, at);
      rt_.step();
      if (at + 1 < bytes.size() && bytes[at + 1] == c) {
        out_.append(format_, at, at + 1);
        at += 2;
      } else if (c == '}') {
        rt_.fail("format: a single '}'");
      } else {
        at = field(at + 1);
      }
      plain = at;
    }
    out_.append(format_, plain, bytes.size());
    // Fill characters come from the format and are not marked one by one.
    if (format_.has_user_text()) return rt_.text(MarkedText(out_.bytes(), true));
    return rt_.text(std::move(out_));
  }

 private:
  // Formats the field whose text begins at `begin`; returns where the text behind its '}' begins.
  size_t field(size_t begin) {
    const std::string& bytes = format_.bytes();
    const size_t end = bytes.find('}', begin);
    if (end == std::string::npos) rt_.fail("format: a '{' lacks its '}'");
    std::string_view inner = std::string_view(bytes).substr(begin, end - begin);
    if (inner.find('{') != std::string_view::npos)
      rt_.fail("format: fields inside fields are not supported");
    const size_t colon = inner.find(':');
    const std::string_view layout = colon == std::string_view::npos ? "" : inner.substr(colon + 1);
    std::string_view name = inner.substr(0, colon);
    const size_t bang = name.find('!');
    const std::string_view conversion = bang == std::string_view::npos ? "" : name.substr(bang + 1);
    name = name.substr(0, bang);
    Value value = look_up(name);
    if (conversion == "r") value = rt_.text(quoted_text(rt_, value));
    if (conversion == "s") value = rt_.text(print_text(rt_, value));
    const Value laid_out = lay_out(value, layout);
    rt_.hold(as_text(laid_out)->memory_bytes());
    out_.append(*as_text(laid_out));
    return end + 1;
  }

  Value look_up(std::string_view name) {
    const size_t head_end = std::min(name.find_first_of(".["), name.size());
    Value value = argument(name.substr(0, head_end));
    for (size_t at = head_end; at < name.size();) {
      const bool is_item = name[at] == '[';
      const size_t end =
          is_item ? name.find(']', at) : std::min(name.find_first_of(".[", at + 1), name.size());
      if (end == std::string_view::npos) rt_.fail("format: a '[' lacks its ']'");
      const std::string part(name.substr(at + 1, end - at - 1));
      const auto index = is_item ? parse_integer(part) : std::nullopt;
      rt_.step();
      value = get_item(rt_, value, index ? Value(*index) : rt_.text(part));
      at = is_item ? end + 1 : end;
    }
    return value;
  }

  Value argument(std::string_view name) {
    size_t index = next_;
    if (name.empty()) {
      ++next_;
    } else if (const auto given = parse_integer(name); given && *given >= 0) {
      index = static_cast<size_t>(*given);
    } else {
      for (const auto& [key, value] : arguments_.named) {
        if (key.bytes() == name) return value;
      }
      rt_.fail(fmt::format("format: no argument named '{}'", name));
    }
    if (index >= arguments_.positional.size()) rt_.fail("format: too few arguments");
    return arguments_.positional[index];
  }

  // The general format: [[fill]align][sign][#][0][width][grouping][.precision][type].
  LayoutSpec parse_layout(std::string_view text) {
    LayoutSpec spec;
    const auto is_alignment = [](char c) {
      return std::string_view("<>^=").find(c) != std::string_view::npos;
    };
    const size_t fill_bytes = text.empty() ? 0 : code_point_at(text, 0).bytes;
    if (text.size() > fill_bytes && is_alignment(text[fill_bytes])) {
      spec.fill = text.substr(0, fill_bytes);
      spec.alignment = text[fill_bytes];
      text.remove_prefix(fill_bytes + 1);
    } else if (!text.empty() && is_alignment(text[0])) {
      spec.alignment = text[0];
      text.remove_prefix(1);
    }
    const auto take = [&](std::string_view choices) {
      if (text.empty() || choices.find(text[0]) == std::string_view::npos) return '\0';
      const char taken = text[0];
      text.remove_prefix(1);
      return taken;
    };
    const auto figure = [&] {
      int64_t value = 0;
      while (!text.empty() && text[0] >= '0' && text[0] <= '9') {
        value = std::min(value * 10 + (text[0] - '0'), kMaxFigure + 1);
        text.remove_prefix(1);
      }
      if (value > kMaxFigure) rt_.fail("a format's figure is too large");
      return value;
    };
    if (const char sign = take("+- ")) spec.sign = sign;
    spec.alternate = take("#") != 0;
    if (take("0") && spec.alignment == 0) {
      spec.fill = "0";
      spec.alignment = '=';
    }
    spec.width = figure();
    spec.grouping = take(",_");
    if (take(".")) spec.precision = static_cast<int>(figure());
    spec.type = take("bcdeEfFgGnosxX%");
    if (!text.empty()) rt_.fail("format: the part behind ':' is not understood");
    return spec;
  }

  Value lay_out(const Value& value, std::string_view layout) {
    if (layout.empty()) return shared_text(rt_, value);
    LayoutSpec spec = parse_layout(layout);
    Number number;
    const bool is_text_type = spec.type == 's';
    if (!is_text_type && !is<bool>(value) && as_number(value, &number))
      return layout_number(rt_, number, spec);
    if (is<bool>(value) && spec.type != 0 && !is_text_type) {
      as_number(value, &number);
      return layout_number(rt_, number, spec);
    }
    if (spec.type != 0 && !is_text_type) {
      rt_.fail(fmt::format("format: '{}' is no format for {}", spec.type, type_name(value)));
    }
    require_defined(rt_, value);
    if (spec.alignment == '=') spec.alignment = '<';
    return layout_text(rt_, shared_text(rt_, value), spec);
  }

  Runtime& rt_;
  const Arguments& arguments_;
  const MarkedText& format_;
  MarkedText out_;
  size_t next_ = 0;
};

}  // namespace

Value format_braces(Runtime& rt, const MarkedText& format, const Arguments& arguments) {
  return BraceFormatter(rt, format, arguments).run();
}

}  // namespace strata::engine::jinja

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "engine/template/access.h"
#include "engine/template/number_format.h"
#include "engine/template/operators.h"
#include "engine/template/text_format.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {
namespace {

constexpr int64_t kMaxFigure = 1'000'000;  // of widths and precisions

class PercentFormatter {
 public:
  PercentFormatter(Runtime& rt, const MarkedText& format, const Value& arguments)
      : rt_(rt), format_(format.bytes()), arguments_(arguments), is_user_(format.has_user_text()) {
    tuple_ = as_sequence(arguments, SequenceKind::kTuple);
    mapping_ = as_cell<Mapping>(arguments);
  }

  Value run() {
    rt_.scan_bytes(format_.size());
    while (at_ < format_.size()) {
      if (format_[at_] != '%') {
        out_ += format_[at_++];
        continue;
      }
      ++at_;
      rt_.step();
      field();
    }
    const bool used_all = tuple_ ? next_ >= tuple_->items.size() : next_ > 0 || mapping_;
    if (!used_all) rt_.fail("not all arguments of '%' were used");
    return rt_.text(MarkedText(std::move(out_), is_user_));
  }

 private:
  char peek() {
    if (at_ >= format_.size()) rt_.fail("a format ends inside a '%' field");
    return format_[at_];
  }

  const Value& next_argument() {
    if (!tuple_) {
      if (next_++ > 0) rt_.fail("'%' has too few arguments");
      return arguments_;
    }
    if (next_ >= tuple_->items.size()) rt_.fail("'%' has too few arguments");
    return tuple_->items[next_++];
  }

  std::optional<Value> named_argument() {
    if (peek() != '(') return std::nullopt;
    const size_t end = format_.find(')', at_);
    if (end == std::string::npos) rt_.fail("a '%(' lacks its ')'");
    if (!mapping_) rt_.fail("'%(name)' wants a dict");
    const Value name = rt_.text(format_.substr(at_ + 1, end - at_ - 1));
    const Value* held = find_key(rt_, *mapping_, name);
    if (!held) rt_.fail("'%(name)' names a key that the dict lacks");
    at_ = end + 1;
    return *held;
  }

  int64_t figure() {
    if (peek() == '*') {
      ++at_;
      Number number;
      if (!as_number(next_argument(), &number) || number.is_real) rt_.fail("'*' wants an integer");
      if (std::abs(number.real) > static_cast<double>(kMaxFigure))
        rt_.fail("a format's figure is too large");
      return number.integer;
    }
    int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = value * 10 + (format_[at_++] - '0');
      if (value > kMaxFigure) rt_.fail("a format's figure is too large");
    }
    return value;
  }

  void flags(LayoutSpec& spec, bool* is_left, bool* is_zero) {
    for (;; ++at_) {
      switch (peek()) {
        case '-':
          *is_left = true;
          break;
        case '0':
          *is_zero = true;
          break;
        case '+':
          spec.sign = '+';
          break;
        case ' ':
          spec.sign = spec.sign == '+' ? '+' : ' ';
          break;
        case '#':
          spec.alternate = true;
          break;
        default:
          return;
      }
    }
  }

  void field() {
    LayoutSpec spec;
    bool is_left = false;
    bool is_zero = false;
    const std::optional<Value> named = named_argument();
    flags(spec, &is_left, &is_zero);
    spec.width = figure();
    if (spec.width < 0) {
      is_left = true;
      spec.width = -spec.width;
    }
    if (peek() == '.') {
      ++at_;
      spec.precision = static_cast<int>(std::max<int64_t>(figure(), 0));
    }
    const char conversion = peek();
    ++at_;
    if (conversion == '%') {
      out_ += '%';
      return;
    }
    const Value value = named ? *named : next_argument();
    spec.alignment = is_left ? '<' : '>';
    convert(value, conversion, spec, is_zero && !is_left);
  }

  void convert(const Value& value, char conversion, LayoutSpec spec, bool is_zero) {
    if (conversion == 's' || conversion == 'r') {
      const MarkedText text = conversion == 's' ? print_text(rt_, value) : quoted_text(rt_, value);
      put(layout_text(rt_, std::get<Text>(rt_.text(text)), spec));
      return;
    }
    if (conversion == 'c' && as_text(value)) {
      if (length_of(rt_, value) != 1) rt_.fail("'%c' wants one character");
      put(layout_text(rt_, std::get<Text>(value), spec));
      return;
    }
    require_defined(rt_, value);
    Number number;
    if (!as_number(value, &number)) {
      rt_.fail(fmt::format("'%{}' wants a number, found {}", conversion, type_name(value)));
    }
    spec.type = conversion == 'i' || conversion == 'u' ? 'd' : conversion;
    const bool wants_integer = std::string_view("doxX").find(spec.type) != std::string_view::npos;
    if (wants_integer && number.is_real) {
      if (!(std::fabs(number.real) < 9.2e18)) rt_.fail("'%d' wants a number that fits 64 bits");
      number = {false, static_cast<int64_t>(number.real), number.real};
    }
    if (is_zero) {
      spec.fill = "0";
      spec.alignment = '=';
    }
    if (wants_integer && spec.precision > 0) {
      LayoutSpec digits = spec;
      digits.fill = "0";
      digits.alignment = '=';
      digits.width = spec.precision + (number.integer < 0 || spec.sign != '-' ? 1 : 0);
      put(layout_text(rt_, std::get<Text>(layout_number(rt_, number, digits)),
                      {" ", spec.alignment == '=' ? '>' : spec.alignment, '-', false, spec.width}));
      return;
    }
    put(layout_number(rt_, number, spec));
  }

  void put(const Value& text) {
    is_user_ |= as_text(text)->has_user_text();
    out_ += as_text(text)->bytes();
  }

  Runtime& rt_;
  const std::string& format_;
  const Value& arguments_;
  const Sequence* tuple_ = nullptr;
  Mapping* mapping_ = nullptr;
  size_t at_ = 0;
  size_t next_ = 0;
  std::string out_;
  bool is_user_;
};

}  // namespace

Value format_percent(Runtime& rt, const MarkedText& format, const Value& arguments) {
  return PercentFormatter(rt, format, arguments).run();
}

}  // namespace strata::engine::jinja

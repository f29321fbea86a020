#include "engine/grammar/json_machine.h"

#include <algorithm>
#include <utility>

namespace strata::engine {
namespace {

using Kind = GrammarNode::Kind;

constexpr uint32_t kDigitsMax = 15;   // what a double keeps
constexpr uint32_t kExponentMax = 2;  // digits: no number reaches infinity
constexpr uint32_t kIndentMax = 40;   // spaces behind a line break

// Phases of containers. Of a map, kKey and the others mean the same as of an object.
enum ContainerPhase : uint32_t { kFirst, kNext, kColon, kValue, kAfter };
// Of numbers.
enum NumberPhase : uint32_t { kMinus, kZero, kWhole, kPoint, kFraction, kE, kESign, kExponent };
// Of strings; the last ones name what a byte of an unfinished code point may be (the Unicode
// Standard, table 3-7).
enum StringPhase : uint32_t {
  kContent,
  kEscape,
  kHex1,
  kHex2,
  kHex2AfterD,  // no surrogates
  kHex3,
  kHex4,
  kLast,  // one continuation byte
  kLastTwo,
  kLastThree,
  kAfterE0,
  kAfterEd,
  kAfterF0,
  kAfterF4,
};

bool is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }
bool is_hex(uint8_t byte) {
  return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

/// One byte's step of one stack.
class Step {
 public:
  Step(const JsonGrammar& grammar, uint8_t byte, std::vector<GrammarStack>& out)
      : grammar_(grammar), byte_(byte), out_(out) {}

  void run(GrammarStack stack) {
    const GrammarNode& node = grammar_.nodes[stack.back().node];
    switch (node.kind) {
      case Kind::kRoot:
        return root(node, std::move(stack));
      case Kind::kLiteral:
        return literal(node, std::move(stack));
      case Kind::kString:
        return string(node, std::move(stack));
      case Kind::kInteger:
      case Kind::kNumber:
        return number(node, std::move(stack));
      case Kind::kArray:
        return array(node, std::move(stack));
      case Kind::kObject:
      case Kind::kMap:
        return object(node, std::move(stack));
      case Kind::kAnyOf:
        break;  // stands on no stack: its options do
    }
  }

 private:
  /// True where the byte is white space that may stand here; the stack then goes on.
  bool space(GrammarStack& stack) {
    uint32_t& spaces = stack.back().spaces;
    constexpr uint32_t kOne = 1, kLine = 2;
    if (spaces == 0 && byte_ == ' ') {
      spaces = kOne;
    } else if (spaces == 0 && byte_ == '\n') {
      spaces = kLine;
    } else if (spaces >= kLine && spaces < kLine + kIndentMax && (byte_ == ' ' || byte_ == '\t')) {
      ++spaces;
    } else {
      return false;
    }
    out_.push_back(std::move(stack));
    return true;
  }

  bool fits(const GrammarStack& stack, uint32_t node) const {
    return stack.size() + grammar_.nodes[node].height <= kGrammarFramesMax;
  }

  static void enter(GrammarStack& stack, uint32_t phase) {
    stack.back().phase = phase;
    stack.back().spaces = 0;
  }

  void push(GrammarStack stack, uint32_t node, uint32_t phase, uint32_t count = 0) {
    stack.push_back({node, phase, count, 0});
    out_.push_back(std::move(stack));
  }

  void close(GrammarStack stack) {
    stack.pop_back();
    out_.push_back(std::move(stack));
  }

  /// Begins a value with the byte, where that is possible. The frame below waits for its end.
  void begin(const GrammarStack& stack, uint32_t idx) {
    const GrammarNode& node = grammar_.nodes[idx];
    if (!fits(stack, idx)) return;
    switch (node.kind) {
      case Kind::kAnyOf:
        for (const uint32_t option : node.nodes) begin(stack, option);
        return;
      case Kind::kLiteral:
        if (static_cast<uint8_t>(node.text[0]) != byte_) return;
        if (node.text.size() == 1) return out_.push_back(stack);
        return push(stack, idx, 0, 1);
      case Kind::kString:
        if (byte_ == '"') push(stack, idx, kContent);
        return;
      case Kind::kInteger:
      case Kind::kNumber:
        if (byte_ == '-') push(stack, idx, kMinus);
        if (byte_ == '0') push(stack, idx, kZero);
        if (byte_ >= '1' && byte_ <= '9') push(stack, idx, kWhole, 1);
        return;
      case Kind::kArray:
        if (byte_ == '[') push(stack, idx, kFirst);
        return;
      case Kind::kObject:
      case Kind::kMap:
        if (byte_ == '{') push(stack, idx, kFirst);
        return;
      case Kind::kRoot:
        return;
    }
  }

  void root(const GrammarNode& node, GrammarStack stack) {
    if (stack.back().phase == kAfter || space(stack)) return;
    enter(stack, kAfter);
    begin(stack, node.nodes[0]);
  }

  void literal(const GrammarNode& node, GrammarStack stack) {
    uint32_t& at = stack.back().count;
    if (static_cast<uint8_t>(node.text[at]) != byte_) return;
    if (++at == node.text.size()) return close(std::move(stack));
    out_.push_back(std::move(stack));
  }

  void array(const GrammarNode& node, GrammarStack stack) {
    if (space(stack)) return;
    GrammarFrame& frame = stack.back();
    // Without a most, only whether the least is reached counts: long arrays share their states.
    const uint32_t counted =
        std::min(frame.count + 1, node.most == UINT32_MAX ? node.least : node.most);
    if (byte_ == ']') {
      if (frame.phase != kNext && frame.count >= node.least) close(std::move(stack));
    } else if (frame.phase == kAfter) {
      const bool may_grow = node.most == UINT32_MAX || frame.count < node.most;
      if (byte_ != ',' || !may_grow) return;
      enter(stack, kNext);
      out_.push_back(std::move(stack));
    } else if (node.most > 0) {
      frame.count = counted;
      enter(stack, kAfter);
      begin(stack, node.nodes[0]);
    }
  }

  /// Begins each key that may come: none that is required is passed over.
  void begin_keys(const GrammarNode& node, const GrammarStack& stack) {
    const bool is_map = node.kind == Kind::kMap;
    for (uint32_t i = is_map ? 0 : stack.back().count; i < node.keys.size(); ++i) {
      if (fits(stack, node.nodes[i]) && fits(stack, node.keys[i])) {
        GrammarStack with_key = stack;
        if (!is_map) with_key.back().count = i;
        enter(with_key, kColon);
        begin(with_key, node.keys[i]);
      }
      if (!is_map && node.is_required[i]) return;
    }
  }

  bool may_have_more(const GrammarNode& node, const GrammarStack& stack) const {
    if (node.kind == Kind::kMap) return true;
    for (size_t i = stack.back().count; i < node.keys.size(); ++i)
      if (node.is_required[i] || fits(stack, node.nodes[i])) return true;
    return false;
  }

  static bool may_close(const GrammarNode& node, const GrammarFrame& frame) {
    if (frame.phase != kFirst && frame.phase != kAfter) return false;
    for (size_t i = frame.count; i < node.is_required.size(); ++i)
      if (node.is_required[i]) return false;
    return true;
  }

  void object(const GrammarNode& node, GrammarStack stack) {
    GrammarFrame& frame = stack.back();
    if (frame.phase == kColon) {
      if (byte_ != ':') return;
      enter(stack, kValue);
      return out_.push_back(std::move(stack));
    }
    if (space(stack)) return;
    if (frame.phase == kValue) {
      const uint32_t idx = frame.count;
      if (node.kind == Kind::kObject) ++frame.count;
      enter(stack, kAfter);
      return begin(stack, node.nodes[idx]);
    }
    if (byte_ == '}') {
      if (may_close(node, frame)) close(std::move(stack));
    } else if (frame.phase == kAfter) {
      if (byte_ != ',' || !may_have_more(node, stack)) return;
      enter(stack, kNext);
      out_.push_back(std::move(stack));
    } else if (byte_ == '"') {
      begin_keys(node, stack);
    }
  }

  void number(const GrammarNode& node, GrammarStack stack);
  void string(const GrammarNode& node, GrammarStack stack);
  void string_content(const GrammarNode& node, GrammarStack stack);

  const JsonGrammar& grammar_;
  const uint8_t byte_;
  std::vector<GrammarStack>& out_;
};

bool number_may_end(uint32_t phase) {
  return phase == kZero || phase == kWhole || phase == kFraction || phase == kExponent;
}

/// The next phase; false where the byte does not go on with the number.
bool next_of_number(GrammarFrame& frame, uint8_t byte, bool is_integer) {
  const auto digit_to = [&](uint32_t phase, uint32_t most) {
    if (!is_digit(byte) || (frame.phase == phase && frame.count >= most)) return false;
    frame.count = frame.phase == phase ? frame.count + 1 : 1;
    frame.phase = phase;
    return true;
  };
  const auto to = [&](uint32_t phase) {
    frame.phase = phase;
    frame.count = 0;
    return true;
  };
  switch (frame.phase) {
    case kMinus:
      return byte == '0' ? to(kZero) : digit_to(kWhole, kDigitsMax);
    case kPoint:
      return digit_to(kFraction, kDigitsMax);
    case kE:
      if (byte == '+' || byte == '-') return to(kESign);
      return digit_to(kExponent, kExponentMax);
    case kESign:
    case kExponent:
      return digit_to(kExponent, kExponentMax);
    default:
      break;
  }
  if (!is_integer && byte == '.' && frame.phase != kFraction) return to(kPoint);
  if (!is_integer && (byte == 'e' || byte == 'E')) return to(kE);
  return frame.phase != kZero && digit_to(frame.phase, kDigitsMax);
}

void Step::number(const GrammarNode& node, GrammarStack stack) {
  GrammarFrame frame = stack.back();
  const bool may_end_here = number_may_end(frame.phase);
  if (next_of_number(frame, byte_, node.kind == Kind::kInteger)) {
    stack.back() = frame;
    return out_.push_back(std::move(stack));
  }
  if (!may_end_here) return;
  stack.pop_back();
  run(std::move(stack));
}

/// How a code point of this first byte goes on; kContent = it is whole, kEscape = it may not.
uint32_t after_lead(uint8_t byte) {
  if (byte < 0x80) return byte >= 0x20 ? kContent : kEscape;
  if (byte < 0xC2 || byte > 0xF4) return kEscape;
  if (byte < 0xE0) return kLast;
  if (byte == 0xE0) return kAfterE0;
  if (byte == 0xED) return kAfterEd;
  if (byte < 0xF0) return kLastTwo;
  if (byte == 0xF0) return kAfterF0;
  return byte == 0xF4 ? kAfterF4 : kLastThree;
}

void Step::string_content(const GrammarNode& node, GrammarStack stack) {
  GrammarFrame& frame = stack.back();
  if (byte_ == '"') {
    if (frame.count >= node.least) close(std::move(stack));
    return;
  }
  const bool is_bounded = node.most != UINT32_MAX;
  if (is_bounded && frame.count >= node.most) return;
  frame.count = is_bounded ? frame.count + 1 : std::min(frame.count + 1, node.least);
  if (byte_ == '\\') {
    frame.phase = kEscape;
  } else {
    frame.phase = after_lead(byte_);
    if (frame.phase == kEscape) return;
  }
  out_.push_back(std::move(stack));
}

void Step::string(const GrammarNode& node, GrammarStack stack) {
  uint32_t& phase = stack.back().phase;
  const auto go_on = [&](bool fits, uint32_t next) {
    if (!fits) return;
    phase = next;
    out_.push_back(std::move(stack));
  };
  const auto is_in = [&](uint8_t least, uint8_t most) { return byte_ >= least && byte_ <= most; };
  switch (static_cast<StringPhase>(phase)) {
    case kContent:
      return string_content(node, std::move(stack));
    case kEscape:
      if (byte_ == 'u') return go_on(true, kHex1);
      return go_on(
          std::string_view("\"\\/bfnrt").find(static_cast<char>(byte_)) != std::string_view::npos,
          kContent);
    case kHex1:
      return go_on(is_hex(byte_), byte_ == 'd' || byte_ == 'D' ? kHex2AfterD : kHex2);
    case kHex2:
      return go_on(is_hex(byte_), kHex3);
    case kHex2AfterD:
      return go_on(is_in('0', '7'), kHex3);
    case kHex3:
      return go_on(is_hex(byte_), kHex4);
    case kHex4:
      return go_on(is_hex(byte_), kContent);
    case kLast:
      return go_on(is_in(0x80, 0xBF), kContent);
    case kLastTwo:
      return go_on(is_in(0x80, 0xBF), kLast);
    case kLastThree:
      return go_on(is_in(0x80, 0xBF), kLastTwo);
    case kAfterE0:
      return go_on(is_in(0xA0, 0xBF), kLast);
    case kAfterEd:
      return go_on(is_in(0x80, 0x9F), kLast);
    case kAfterF0:
      return go_on(is_in(0x90, 0xBF), kLastTwo);
    case kAfterF4:
      return go_on(is_in(0x80, 0x8F), kLastTwo);
  }
}

}  // namespace

GrammarStack first_stack(const JsonGrammar& grammar) { return {{grammar.root, kFirst, 0, 0}}; }

void step_stack(const JsonGrammar& grammar, const GrammarStack& stack, uint8_t byte,
                std::vector<GrammarStack>& out) {
  Step(grammar, byte, out).run(stack);
}

GrammarStack clipped(const JsonGrammar& grammar, GrammarStack stack, uint32_t n_bytes) {
  const GrammarNode& node = grammar.nodes[stack.back().node];
  if (node.kind != Kind::kString) return stack;
  uint32_t& count = stack.back().count;  // each byte adds one at most
  const auto is_far = [&](uint32_t bound) { return count < bound && bound - count > n_bytes; };
  if (is_far(node.least))
    count = node.least - n_bytes - 1;
  else if (count >= node.least && node.most != UINT32_MAX && is_far(node.most))
    count = node.most - n_bytes - 1;
  return stack;
}

bool may_end(const JsonGrammar& grammar, const GrammarStack& stack) {
  const auto is_over = [](const GrammarFrame& root) { return root.phase == kAfter; };
  if (stack.size() == 1) return is_over(stack[0]);
  const Kind top = grammar.nodes[stack.back().node].kind;
  const bool is_number = top == Kind::kInteger || top == Kind::kNumber;
  return stack.size() == 2 && is_number && number_may_end(stack.back().phase);
}

}  // namespace strata::engine

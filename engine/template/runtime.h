// engine/template/runtime.h - what one rendering may use: its budgets, the cells it made, and where
// it is for errors. Why: a template comes with a model file and is not trusted. It has no way to
// the host, and everything it can do is counted before it is done, so that the worst template ends
// with an error within a second or so and within stated memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/template/value.h"

namespace strata::engine::jinja {

/// Of a source: expressions or statements inside each other, and its size.
inline constexpr uint32_t kMaxNesting = 200;
inline constexpr uint64_t kMaxSourceBytes = 1u << 20;
/// The remedy of every kTemplate error; a tool that has an option for it says so.
inline constexpr const char* kTemplateRemedy =
    "feed the text without the template, or use a model file whose template is sound";

/// Everything is an upper limit; reaching one is an Error(kTemplate) that names it and the line.
struct RenderLimits {
  uint64_t steps = 2'000'000;  // evaluated nodes, plus bytes scanned and items visited by weight
  uint64_t steps_per_message = 20'000;  // added for each message, so that long chats have room
  uint64_t output_bytes = 64ull << 20;
  // All text and containers made, counted when made and never given back.
  uint64_t memory_bytes = 256ull << 20;
  uint32_t calls = 200;   // macros and recursive loops inside each other
  uint32_t frames = 800;  // nodes under evaluation inside each other: bounds the machine stack
  uint64_t range_length = 100'000;
};

class Runtime {
 public:
  Runtime(const RenderLimits& limits, uint64_t n_messages);

  const RenderLimits& limits() const { return limits_; }

  /// Counts work. Errors: kTemplate.
  void step(uint64_t n = 1) {
    if (n > steps_left_) out_of_steps();
    steps_left_ -= n;
  }
  /// Counts bytes that an operation looks at, and items that it visits.
  void scan_bytes(uint64_t n) { step(n / 512); }
  void visit_items(uint64_t n) { step(n / 16); }
  /// Counts memory about to be taken. Errors: kTemplate.
  void hold(uint64_t bytes);

  /// Throws Error(kTemplate) with the current line.
  [[noreturn]] void fail(const std::string& message) const;
  uint32_t line() const { return line_; }
  void set_line(uint32_t line) { line_ = line; }

  // Making values: each counts its memory first.
  Value text(MarkedText text);
  Value text(std::string bytes) { return text(MarkedText(std::move(bytes))); }
  /// One whose bytes and marks the maker has counted while it grew.
  Value held_text(MarkedText text);
  /// Bytes [begin, end) of a text; the text itself where that is all of it.
  Value slice(const Text& whole, size_t begin, size_t end);
  Sequence* sequence(SequenceKind kind, std::vector<Value> items = {});
  Value list(std::vector<Value> items) { return sequence(SequenceKind::kList, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(SequenceKind::kTuple, std::move(items)); }
  Value generator(std::vector<Value> items) {
    return sequence(SequenceKind::kGenerator, std::move(items));
  }
  Mapping* mapping();
  template <class T, class... Args>
  T* make(Args&&... args) {
    hold(sizeof(T) + kCellOverhead);
    auto cell = std::make_unique<T>(std::forward<Args>(args)...);
    T* raw = cell.get();
    cells_.push_back(std::move(cell));
    return raw;
  }
  /// Counts one more item in a container that grows.
  void hold_items(uint64_t n) { hold(n * sizeof(Value)); }

  /// One level of recursion over templates or values, left at the end of the scope.
  /// Errors: kTemplate.
  class Frame {
   public:
    explicit Frame(Runtime& rt) : rt_(rt) {
      if (rt_.frames_ >= rt_.limits_.frames) rt_.out_of_frames();
      ++rt_.frames_;
    }
    ~Frame() { --rt_.frames_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Runtime& rt_;
  };
  class CallLevel {
   public:
    explicit CallLevel(Runtime& rt) : rt_(rt) {
      if (rt_.calls_ >= rt_.limits_.calls) rt_.out_of_calls();
      ++rt_.calls_;
    }
    ~CallLevel() { --rt_.calls_; }
    CallLevel(const CallLevel&) = delete;
    CallLevel& operator=(const CallLevel&) = delete;

   private:
    Runtime& rt_;
  };

 private:
  static constexpr uint64_t kCellOverhead = 32;  // the pointer to it and the allocator's own bytes
  [[noreturn]] void out_of_steps() const;
  [[noreturn]] void out_of_frames() const;
  [[noreturn]] void out_of_calls() const;

  RenderLimits limits_;
  uint64_t steps_left_;
  uint64_t memory_left_;
  uint32_t frames_ = 0;
  uint32_t calls_ = 0;
  uint32_t line_ = 0;
  std::vector<std::unique_ptr<Cell>> cells_;
};

/// The arguments of a call, a filter or a test, in source order.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// Arguments laid out over a callee's parameter names.
class Parameters {
 public:
  /// Errors: kTemplate for too many, unknown or doubled arguments, or fewer than `n_required`.
  Parameters(Runtime& rt, std::string_view callee, const Arguments& arguments,
             std::initializer_list<std::string_view> names, size_t n_required = 0);

  bool has(size_t i) const { return given_[i]; }
  const Value& get(size_t i) const { return values_[i]; }  // undefined where absent
  Value get_or(size_t i, Value fallback) const { return given_[i] ? values_[i] : fallback; }
  bool flag(size_t i, bool fallback) const { return given_[i] ? is_true(values_[i]) : fallback; }
  int64_t integer(size_t i, int64_t fallback) const;
  /// The text of argument i; null where it is absent or none.
  const MarkedText* text(size_t i) const;

 private:
  Runtime& rt_;
  std::string callee_;
  std::vector<std::string_view> names_;
  std::vector<Value> values_;
  std::vector<bool> given_;
};

}  // namespace strata::engine::jinja

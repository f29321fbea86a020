// engine/template/loop.h - the `loop` of a for statement, and the items it draws.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

struct ForStatement;
struct Scope;

/// Items are drawn one at a time, so that a filter that changes while the loop runs counts; looking
/// at `loop.last` or `loop.nextitem` draws one more, `loop.length` all of them.
class Loop final : public Object {
 public:
  using Draw = std::function<bool(Value*)>;  // false at the end
  Loop(Draw draw, uint32_t depth0)
      : Object(ObjectKind::kLoop), draw_(std::move(draw)), depth0_(depth0) {}

  /// Moves to the next item; false at the end.
  bool advance(Runtime& rt);
  const Value& current() const { return current_; }
  Value field(Runtime& rt, const Text& name);
  uint64_t index0() const { return n_drawn_ - 1; }
  /// Whether `value` differs from what the previous call got.
  bool changed(Runtime& rt, const Value& value);

  // What `loop(items)` of a recursive for runs again; null where the for is not recursive.
  const ForStatement* recursive = nullptr;
  std::shared_ptr<Scope> scope;
  uint32_t depth0() const { return depth0_; }

 private:
  bool look_ahead(Runtime& rt);
  uint64_t length(Runtime& rt);

  Draw draw_;
  uint32_t depth0_;
  uint64_t n_drawn_ = 0;
  Value current_;
  Value previous_;
  Value last_seen_;
  bool has_seen_ = false;
  std::deque<Value> ahead_;
};

}  // namespace strata::engine::jinja

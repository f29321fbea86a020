#include "engine/template/loop.h"

#include "engine/template/operators.h"

namespace strata::engine::jinja {

bool Loop::look_ahead(Runtime& rt) {
  if (!ahead_.empty()) return true;
  Value item;
  if (!draw_(&item)) return false;
  rt.hold_items(1);
  ahead_.push_back(std::move(item));
  return true;
}

bool Loop::advance(Runtime& rt) {
  if (!look_ahead(rt)) return false;
  previous_ = std::move(current_);
  current_ = std::move(ahead_.front());
  ahead_.pop_front();
  ++n_drawn_;
  return true;
}

uint64_t Loop::length(Runtime& rt) {
  Value item;
  while (draw_(&item)) {
    rt.hold_items(1);
    ahead_.push_back(std::move(item));
  }
  return n_drawn_ + ahead_.size();
}

bool Loop::changed(Runtime& rt, const Value& value) {
  const bool differs = !has_seen_ || !is_equal(rt, last_seen_, value);
  has_seen_ = true;
  last_seen_ = value;
  return differs;
}

Value Loop::field(Runtime& rt, const Text& name) {
  const std::string& field = name->bytes();
  const auto index = static_cast<int64_t>(n_drawn_);
  if (field == "index") return index;
  if (field == "index0") return index - 1;
  if (field == "first") return n_drawn_ == 1;
  if (field == "last") return !look_ahead(rt);
  if (field == "length") return static_cast<int64_t>(length(rt));
  if (field == "revindex") return static_cast<int64_t>(length(rt)) - index + 1;
  if (field == "revindex0") return static_cast<int64_t>(length(rt)) - index;
  if (field == "previtem") return n_drawn_ > 1 ? previous_ : Value(Undefined{name});
  if (field == "nextitem") return look_ahead(rt) ? ahead_.front() : Value(Undefined{name});
  if (field == "depth") return static_cast<int64_t>(depth0_) + 1;
  if (field == "depth0") return static_cast<int64_t>(depth0_);
  return Undefined{name};
}

}  // namespace strata::engine::jinja

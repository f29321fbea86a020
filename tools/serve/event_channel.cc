#include "tools/serve/event_channel.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace strata::serve {

void EventChannel::tell(AnswerEvent event) {
  const std::lock_guard lock(mutex_);
  if (is_left_ || end_ || is_untold_) return;
  switch (event.kind) {
    case AnswerEvent::Kind::kPrompt:
      prompt_ = std::move(event);
      break;
    case AnswerEvent::Kind::kText:
      if (text_) {
        text_->text += event.text;
        text_->tokens.insert(text_->tokens.end(), std::make_move_iterator(event.tokens.begin()),
                             std::make_move_iterator(event.tokens.end()));
      } else {
        text_ = std::move(event);
      }
      break;
    case AnswerEvent::Kind::kEnd:
    case AnswerEvent::Kind::kError:
      end_ = std::move(event);
      break;
  }
  changed_.notify_one();
}

bool EventChannel::wait_next(AnswerEvent& out, std::chrono::milliseconds timeout) {
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24);  // a clock has an end
  std::unique_lock lock(mutex_);
  const auto is_any = [&] { return is_left_ || prompt_ || text_ || end_ || is_untold_; };
  if (!changed_.wait_for(lock, std::min(timeout, kLongest), is_any) || is_left_) return false;
  for (std::optional<AnswerEvent>* next : {&prompt_, &text_, &end_}) {
    if (!*next) continue;
    out = std::move(**next);
    next->reset();
    // Nothing comes after the last one.
    if (next == &end_) is_left_ = true;
    return true;
  }
  AnswerEvent untold;
  untold.kind = AnswerEvent::Kind::kError;
  untold.error.emplace(ErrorCode::kOutOfMemory,
                       "the answer failed, and no memory was left to say why", "",
                       "free memory, try again");
  out = std::move(untold);
  is_left_ = true;
  return true;
}

void EventChannel::end_untold() {
  const std::lock_guard lock(mutex_);
  is_untold_ = true;
  changed_.notify_one();
}

void EventChannel::leave() {
  const std::lock_guard lock(mutex_);
  is_left_ = true;
  changed_.notify_one();
}

bool EventChannel::is_left() const {
  const std::lock_guard lock(mutex_);
  return is_left_;
}

}  // namespace strata::serve

#include "tests/serve/scripted_service.h"

#include <utility>

#include "base/error.h"

namespace strata::serve::testing {
namespace {

constexpr std::chrono::seconds kPatience{30};

}  // namespace

AnswerEvent prompt_event(uint64_t n_read, uint64_t n_prompt) {
  AnswerEvent event;
  event.n_read = n_read;
  event.n_prompt = n_prompt;
  return event;
}

AnswerEvent text_event(const std::string& text) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kText;
  event.text = text;
  return event;
}

AnswerEvent end_event() {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kEnd;
  event.usage = {.prompt_tokens = 7, .cached_tokens = 3, .completion_tokens = 2};
  event.times.decode_ms = 20;
  event.times.n_decode_tokens = event.times.n_decode_steps = 1;
  return event;
}

AnswerEvent error_event(const Error& error) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kError;
  event.error = error;
  return event;
}

/// Gives the script's events as far as they are released.
class ScriptedService::Stream final : public AnswerStream {
 public:
  explicit Stream(ScriptedService& service) : service_(service), script_(service.script) {}
  ~Stream() override { Stream::cancel(); }

  bool wait_next(AnswerEvent& out, std::chrono::milliseconds timeout) override {
    std::unique_lock lock(service_.mutex_);
    service_.is_asked_ = true;
    service_.changed_.notify_all();
    if (!service_.changed_.wait_for(lock, timeout, [this] { return n_given_ < service_.n_held; }))
      return false;
    if (n_given_ == script_.size()) return false;
    out = script_[n_given_++];
    return true;
  }

  void cancel() override {
    const std::lock_guard lock(service_.mutex_);
    if (n_given_ == script_.size() || is_cancelled_) return;
    is_cancelled_ = true;
    ++service_.n_cancelled_;
    service_.changed_.notify_all();
  }

 private:
  ScriptedService& service_;
  std::vector<AnswerEvent> script_;
  size_t n_given_ = 0;
  bool is_cancelled_ = false;
};

ScriptedService::ScriptedService() {
  script = {prompt_event(7, 7), text_event("Hello"), text_event(" there"), end_event()};
  said_facts.model_name = "scripted";
  said_facts.n_ctx = 4096;
  said_facts.n_parallel = 2;
}

void ScriptedService::release() {
  const std::lock_guard lock(mutex_);
  n_held = SIZE_MAX;
  changed_.notify_all();
}

bool ScriptedService::wait_orders(size_t n) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return orders_.size() >= n; });
}

bool ScriptedService::wait_cancelled(size_t n) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return n_cancelled_ >= n; });
}

bool ScriptedService::wait_asked() const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return is_asked_; });
}

std::vector<AnswerOrder> ScriptedService::orders() const {
  const std::lock_guard lock(mutex_);
  return orders_;
}

bool ScriptedService::wait_drained() const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return is_drained_; });
}

std::unique_ptr<AnswerStream> ScriptedService::submit(AnswerOrder order) {
  if (on_submit) on_submit();
  const std::lock_guard lock(mutex_);
  if (refusal) throw *refusal;
  orders_.push_back(std::move(order));
  changed_.notify_all();
  return std::make_unique<Stream>(*this);
}

SlotOutcome ScriptedService::act_on_slot(const SlotAction& action) {
  const std::lock_guard lock(mutex_);
  if (refusal) throw *refusal;
  slot_actions_.push_back(action);
  return slot_outcome;
}

std::vector<SlotAction> ScriptedService::slot_actions() const {
  const std::lock_guard lock(mutex_);
  return slot_actions_;
}

std::vector<engine::TokenId> ScriptedService::tokenize(std::string_view text, bool adds_special,
                                                       bool parses_special) const {
  std::vector<engine::TokenId> tokens;
  if (adds_special) tokens.push_back(1);
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  if (parses_special) tokens.push_back(2);
  return tokens;
}

std::string ScriptedService::detokenize(const std::vector<engine::TokenId>& tokens) const {
  std::string text;
  for (const engine::TokenId token : tokens) {
    if (token > 255) throw Error(ErrorCode::kUsage, "no such token", "tokens", "name another");
    text += static_cast<char>(token);
  }
  return text;
}

std::string ScriptedService::rendered(const AnswerOrder& order) const {
  std::string text;
  for (const engine::ChatMessage& message : order.messages)
    text += message.role + ": " + message.content + "|";
  return text;
}

bool ScriptedService::drain(std::chrono::milliseconds) {
  const std::lock_guard lock(mutex_);
  is_drained_ = true;
  changed_.notify_all();
  return true;
}

}  // namespace strata::serve::testing

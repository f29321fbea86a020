// tests/serve/scripted_service.h - an AnswerService that says what a test tells it to, and records
// what it was asked.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "tools/serve/answer_service.h"

namespace strata::serve::testing {

AnswerEvent prompt_event(uint64_t n_read, uint64_t n_prompt);
AnswerEvent text_event(const std::string& text);
AnswerEvent end_event();
AnswerEvent error_event(const Error& error);

/// Threads: as AnswerService; a test sets it up before it is asked.
class ScriptedService final : public AnswerService {
 public:
  ScriptedService();

  /// Every order's events.
  std::vector<AnswerEvent> script;
  /// Of an order no more events come than this until release().
  size_t n_held = SIZE_MAX;
  /// Called by submit(), on its thread, where set.
  std::function<void()> on_submit;
  /// Thrown by submit() where set.
  std::optional<Error> refusal;
  /// What every action on a slot comes to.
  SlotOutcome slot_outcome;
  ServiceFacts said_facts;
  ServiceCounts said_counts;
  std::vector<engine::LayerBlocks> said_layers;

  void release();
  /// Waits until so many orders have been taken, or have been dropped before their end.
  bool wait_orders(size_t n) const;
  bool wait_cancelled(size_t n) const;
  /// Waits until somebody who has an order's stream waits for an event of it.
  bool wait_asked() const;
  std::vector<AnswerOrder> orders() const;
  bool wait_drained() const;
  std::vector<SlotAction> slot_actions() const;

  const ServiceFacts& facts() const override { return said_facts; }
  ServiceCounts counts() const override { return said_counts; }
  std::vector<engine::LayerBlocks> layer_blocks() const override { return said_layers; }
  std::unique_ptr<AnswerStream> submit(AnswerOrder order) override;
  SlotOutcome act_on_slot(const SlotAction& action) override;
  /// A token per byte, its value; 1 before them with `adds_special`, 2 behind with
  /// `parses_special`.
  std::vector<engine::TokenId> tokenize(std::string_view text, bool adds_special,
                                        bool parses_special) const override;
  /// Errors: kUsage where one is no byte.
  std::string detokenize(const std::vector<engine::TokenId>& tokens) const override;
  /// "ROLE: CONTENT|" of every message.
  std::string rendered(const AnswerOrder& order) const override;
  bool drain(std::chrono::milliseconds timeout) override;

 private:
  class Stream;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<AnswerOrder> orders_;
  std::vector<SlotAction> slot_actions_;
  size_t n_cancelled_ = 0;
  bool is_asked_ = false;
  bool is_drained_ = false;
};

}  // namespace strata::serve::testing

// tools/serve/open_order.h - an order between the scheduler, which answers it, and the channel that
// its client listens to.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/generator.h"
#include "tools/serve/answer_service.h"
#include "tools/serve/event_channel.h"

namespace strata::serve {

/// One that has not ended, on the engine's thread.
struct OpenOrder {
  OpenOrder(std::shared_ptr<EventChannel> of, std::string of_asker)
      : channel(std::move(of)), asker(std::move(of_asker)) {}
  uint64_t id = 0;  // of the scheduler
  const std::shared_ptr<EventChannel> channel;
  const std::string asker;
  uint64_t n_cached = 0;
  std::vector<ScoredToken> scored;  // whose text is still to come
  bool was_alone = true;            // no other was open meanwhile
  bool has_begun = false;           // to be answered
  bool has_ended = false;

  /// Of a token whose text is still to come.
  void add_scores(const engine::Tokenizer& tokenizer, const engine::TokenScores& scores);
  void tell_prompt(uint64_t n_read, uint64_t n_prompt);
  void tell_text(std::string_view text);
  void tell_end(const engine::Generation& answer);
  void tell_failure(const std::exception_ptr& failure);
};

}  // namespace strata::serve

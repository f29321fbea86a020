// tools/serve/engine_service.h - answers of one engine, several at a time: one thread runs the
// steps, everybody else gives it orders and takes events.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tools/serve/answer_service.h"

namespace strata::serve {

/// Of the end of a server: for so long it saves what was read, all waits for the disk together.
inline constexpr std::chrono::seconds kSavingMax{60};

/// A client that reads slowly or not at all stops nobody: what it has not taken is joined, progress
/// to the latest and text to one event, so that an order holds at most one answer. Where nothing is
/// wanted, no thread runs.
class EngineService final : public AnswerService {
 public:
  struct Options {
    uint32_t n_parallel = 4;     // orders at work at a time
    uint32_t n_queued_max = 64;  // that wait for one of these places (QueuePlaces); else kBusy
    // Tokens of an answer at most, where its order names none: room for them is kept for it.
    // 0 = the context divided by n_parallel.
    uint64_t n_predict = 0;
    // Of saved contexts; empty = none are read or written.
    std::string session_dir;
    uint64_t cache_budget_bytes = UINT64_MAX;  // of the folder, as tiers::PackLimits has it
    // Saved contexts leave this much of the disk to everybody else.
    uint64_t free_floor_bytes = uint64_t{4} << 30;
    std::vector<std::string> plan;  // for facts()
    // What is to be said of an answer that has ended, for take_notices(). `was_alone`: no other
    // order was open meanwhile. On the engine's thread; does not wait. May be empty.
    std::function<std::vector<std::string>(const engine::Generation&, bool was_alone)> review;
    bool saves = true;  // false: what is there is only read
    // For so long layer_blocks() says what the last look saw: a look takes time from all answers.
    std::chrono::milliseconds layers_kept{1000};
    // Called where take_notices() has lines, by start() and then on the engine's thread: neither
    // waits nor throws. May be empty.
    std::function<void()> on_notices;
    // At the end; what is not saved by then is not saved.
    std::chrono::milliseconds saving_max = kSavingMax;
    // Called by drain(), with saving_max, where from now on it waits for what is being saved. May
    // be empty.
    std::function<void(std::chrono::milliseconds)> on_saving;
  };

  /// What the engine has to be opened with: sets n_answers and reads_saved.
  static void prepare(const Options& options, engine::EngineOptions& engine);

  /// Begins to take orders. The engine was prepared with these options and is loaded; it outlives
  /// the service and is used by nobody else meanwhile. Errors: kUsage (more in parallel than half
  /// the rows of a step), kOutOfMemory (no thread). A folder of saved contexts that cannot be used
  /// is a line of take_notices(), and so is a template that does not parse.
  static std::unique_ptr<EngineService> start(engine::Engine& engine, const Options& options);
  /// Cancels what is at work and waits for the step that runs: the thread uses what goes with this.
  ~EngineService() override;

  const ServiceFacts& facts() const override;
  ServiceCounts counts() const override;
  std::vector<engine::LayerBlocks> layer_blocks() const override;
  /// Renders and encodes on the calling thread.
  std::unique_ptr<AnswerStream> submit(AnswerOrder order) override;
  SlotOutcome act_on_slot(const SlotAction& action) override;
  std::vector<engine::TokenId> tokenize(std::string_view text, bool adds_special,
                                        bool parses_special) const override;
  std::string detokenize(const std::vector<engine::TokenId>& tokens) const override;
  std::string rendered(const AnswerOrder& order) const override;
  bool drain(std::chrono::milliseconds timeout) override;

  /// Takes the lines for the user that have come up since the last call: why contexts are not
  /// saved, what was damaged.
  std::vector<std::string> take_notices();

 private:
  struct State;
  explicit EngineService(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace strata::serve

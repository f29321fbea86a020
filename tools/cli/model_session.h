// tools/cli/model_session.h - what `run`, `chat` and `session save` share: a model opened, its
// template, its prompts, its answers.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/engine.h"
#include "engine/generator.h"
#include "engine/grammar/json_grammar.h"
#include "engine/grammar/token_table.h"
#include "engine/prompt_tokens.h"
#include "engine/template/chat_template.h"
#include "tools/cli/command_line.h"
#include "tools/cli/memory_watch.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/run_contexts.h"
#include "tools/cli/tier_report.h"

namespace strata::cli {

class ModelSession {
 public:
  /// Opens the model and, unless `raw`, its chat template; says on standard error where it has
  /// none. Errors: those of Engine::open; kTemplate, naming --raw where the verb has it; kUsage
  /// (sampler options). A trace that is not null outlives the session.
  static ModelSession open(const VerbSyntax& verb, const Command& command, Trace* trace);

  const engine::Engine& engine() const { return engine_; }
  bool has_template() const { return template_.has_value(); }

  /// The prompt of a conversation: rendered by the template, or the messages' texts one after the
  /// other. Errors: kTemplate, kBadText.
  std::vector<engine::TokenId> encode(const std::vector<engine::ChatMessage>& messages) const;
  std::string rendered(const std::vector<engine::ChatMessage>& messages) const;

  /// Refuses a prompt that does not fit, before load(). Errors: ContextLengthError.
  void check_fits(std::span<const engine::TokenId> prompt) const;

  /// Reads the weights, with progress. Errors: those of Engine::load; kCancelled.
  void load();

  /// Every answer from now on is JSON of this grammar.
  void bind_answers(engine::JsonGrammar grammar);
  /// Answers on the session's one sequence; `on_text` streams.
  engine::Generation answer(std::span<const engine::TokenId> prompt,
                            const std::function<bool(std::string_view)>& on_text);

  /// The next prompt is of another conversation: the longest beginning of it that is saved is
  /// looked for again. What the last one left in memory is used where it holds more.
  void begin_anew() { is_anew_ = true; }

  uint64_t seed() const { return sampler_.seed; }
  /// Another draw for the next answer.
  void advance_seed() { ++sampler_.seed; }

  /// "412 prompt (0 cached) 1.3 s, 317 tok/s | 34 out, 38.9 tok/s | context 446 of 8192".
  std::string summary(const engine::Generation& answer);
  /// Saves what was read and answered, and waits for the disk: after the answer was shown.
  void save();
  /// Where K and V lay and what moved since the last call, on standard error; nothing where all
  /// stayed in memory. Then, where the last answer took another time than predicted, both times,
  /// and where memory runs short, that.
  void say_tiers();
  /// The object of `run --json`, with what moved since the last say_tiers().
  nlohmann::ordered_json to_json(const engine::Generation& answer);

 private:
  /// Makes the sequence the one of memory and disk that holds more of the prompt; returns how many
  /// of its tokens were in memory and have to be read again.
  uint64_t find_saved(std::span<const engine::TokenId> prompt);
  ModelSession(const VerbSyntax& verb, const Command& command, engine::Engine opened,
               PlacedPlan plan);
  void read_template();
  [[noreturn]] void fail_template(const Error& error) const;
  std::vector<engine::PromptPart> parts(const std::vector<engine::ChatMessage>& messages) const;
  void say_setup() const;
  std::string draft_line() const;
  engine::PromptTokens as_generated(std::span<const engine::TokenId> prompt);

  VerbSyntax verb_;
  Settings settings_;
  engine::SamplerOptions sampler_;
  engine::Engine engine_;
  PlacedPlan plan_;  // of engine_
  MemoryWatch memory_;
  std::optional<engine::ChatTemplate> template_;
  std::optional<engine::JsonGrammar> grammar_;             // of answers
  std::shared_ptr<const engine::TokenTable> token_table_;  // where there is a grammar
  RunContexts saved_;
  bool is_anew_ = true;
  TierCounts reported_;
  engine::SelectionCounts selected_before_;   // as of the last answer's begin
  std::optional<engine::Sequence> sequence_;  // after engine_: it must go first
  std::vector<uint8_t> is_generated_;         // of the sequence's tokens
  std::vector<engine::LoneStep> last_;        // of the last answer
  uint64_t n_kept_ = 0;                       // of the last prompt, as PromptTokens has it
};

}  // namespace strata::cli

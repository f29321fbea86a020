#include "tools/cli/model_session.h"
#include "tools/cli/device_notices.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/grammar/answer_constraint.h"
#include "engine/machine.h"
#include "tools/cli/attention_profile.h"
#include "tools/cli/attention_report.h"
#include "tools/cli/bench_prediction.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_notes.h"
#include "tools/cli/notices.h"
#include "tools/cli/plan_notices.h"
#include "tools/cli/program.h"
#include "tools/cli/request_options.h"
#include "tools/cli/weight_notices.h"

namespace strata::cli {

using engine::bytes_text;
using engine::grouped_number;

ModelSession ModelSession::open(const VerbSyntax& verb, const Command& command, Trace* trace) {
  const engine::SamplerOptions sampler = sampler_options(command);
  engine::EngineOptions options = engine_options(command.settings);
  options.trace = trace;
  if (command.settings.attn == "auto")
    notice(choose_attention(command.settings.profile_dir, options));
  PlacedEngine placed = open_placed(command, options);
  ModelSession session(verb, command, std::move(placed.engine), std::move(placed.plan));
  session.sampler_ = sampler;
  note_missing_pre_tokenizer(session.engine_.file());
  // Made once here so that a wrong value is refused before the weights are read.
  const engine::Sampler refused_early(sampler, session.engine_.spec().shape.vocab_size);
  if (!command.settings.raw) session.read_template();
  return session;
}

ModelSession::ModelSession(const VerbSyntax& verb, const Command& command, engine::Engine opened,
                           PlacedPlan plan)
    : verb_(verb),
      settings_(command.settings),
      engine_(std::move(opened)),
      plan_(std::move(plan)),
      memory_(predicted_peak_bytes(plan_)),
      saved_(command.settings,
             verb.bit == kSessionSave ? SavingFailure::kIsThrown : SavingFailure::kIsNoted) {}

void ModelSession::fail_template(const Error& error) const {
  const bool has_raw = find_flag("--raw", verb_.bit) != nullptr;
  std::string remedy = has_raw ? "--raw feeds the text as it is, without the template"
                               : "`strata run --raw` feeds a text without the template";
  if (!settings_.system.empty()) remedy = "leave --system out, or: " + remedy;
  throw Error(ErrorCode::kTemplate,
              fmt::format("the model's chat template fails: {}", error.what()),
              error.where().empty() ? "tokenizer.chat_template" : error.where(), remedy);
}

void ModelSession::read_template() {
  const auto source = engine_.file().get_string("tokenizer.chat_template");
  if (source) {
    try {
      template_ = engine::ChatTemplate::parse(*source);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kTemplate) throw;
      fail_template(error);
    }
    return;
  }
  if (!settings_.system.empty()) {
    throw Error(ErrorCode::kUsage,
                "the model has no chat template, so a system prompt has no place", "--system",
                "leave it out, or write it into the prompt");
  }
  notice(
      "note: this model has no chat template (perhaps a base model); it continues the text as it "
      "is");
}

void ModelSession::say_setup() const {
  const auto& shape = engine_.spec().shape;
  const std::string& name = engine_.spec().name.empty() ? shape.architecture : engine_.spec().name;
  const engine::KvPlacement& kv = engine_.context().kv;
  notice(fmt::format(
      "{} | {} | context {} of {} | KV {} {}/{}", name, bytes_text(engine_.weight_file_bytes()),
      grouped_number(engine_.context().n_ctx), grouped_number(shape.n_ctx_train),
      bytes_text(kv.is_spilling() ? kv.dram_bytes() : kv.slot_bytes),
      kv_codec_name(engine_.options().k_codec), kv_codec_name(engine_.options().v_codec)));
  if (engine_.context().n_ctx > engine_.spec().shape.n_ctx_train) {
    notice(fmt::format("note: beyond {} tokens this model was never trained (--allow-untrained)",
                       engine_.spec().shape.n_ctx_train));
  }
  say_streaming(engine_);
  say_device(engine_);
  say_plan(plan_, engine_, settings_.verbose);
  if (!settings_.verbose) return;
  notice(fmt::format("{} | {} threads, {} ({}) | chunks of {} rows | {} tensors in {} file(s)",
                     version_text(), engine_.n_threads(), engine_.kernels().name,
                     engine_.kernels().features, engine_.context().chunk_rows,
                     engine_.file().tensors().size(), engine_.file().n_shards()));
  notice(draft_line());
}

std::string ModelSession::draft_line() const {
  const uint32_t n = engine_.n_draft_max();
  if (n > 0) return fmt::format("drafts: up to {} tokens are guessed ahead of each step", n);
  if (engine_.options().n_draft_max == 0u) return "drafts: off";
  if (engine_.options().method) return "drafts: off, for rows of a step share a choice (--attn)";
  if (engine_.device() != nullptr) return "drafts: off on a device";
  return "drafts: off, for no memory was set aside for them";
}

std::vector<engine::PromptPart> ModelSession::parts(
    const std::vector<engine::ChatMessage>& messages) const {
  const auto& tokenizer = engine_.tokenizer();
  engine::TemplateContext context;
  if (tokenizer.spec().bos != engine::kNoToken)
    context.bos_token = tokenizer.piece(tokenizer.spec().bos, true);
  if (tokenizer.spec().eos != engine::kNoToken)
    context.eos_token = tokenizer.piece(tokenizer.spec().eos, true);
  try {
    return template_->render_parts(messages, context);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kTemplate) throw;
    fail_template(error);
  }
}

std::string ModelSession::rendered(const std::vector<engine::ChatMessage>& messages) const {
  std::string text;
  if (!template_) {
    for (const auto& message : messages) text += message.content;
    return text;
  }
  for (const auto& part : parts(messages)) text += part.text;
  return text;
}

std::vector<engine::TokenId> ModelSession::encode(
    const std::vector<engine::ChatMessage>& messages) const {
  if (template_) return engine::encode_chat_prompt(engine_.tokenizer(), parts(messages));
  // With --raw the caller writes the markup; without a template the text is only text.
  return engine::encode_text_prompt(engine_.tokenizer(), rendered(messages), settings_.raw);
}

void ModelSession::check_fits(std::span<const engine::TokenId> prompt) const {
  engine::check_prompt_fits(prompt.size(), engine_.context().n_ctx,
                            engine_.spec().shape.n_ctx_train);
}

void ModelSession::load() {
  say_setup();
  LoadingBar bar;
  engine_.load(bar.updates());
  bar.finish();
  for (const std::string& line : engine_.notices()) notice("note: " + line);
  say_load(engine_.model().load_report(), settings_.verbose);
}

uint64_t ModelSession::find_saved(std::span<const engine::TokenId> prompt) {
  uint32_t n_common = 0, n_held = 0;
  if (sequence_) {
    const auto differs = std::ranges::mismatch(sequence_->tokens(), prompt);
    n_common = static_cast<uint32_t>(differs.in1 - sequence_->tokens().begin());
    n_held = sequence_->truncate(n_common);  // now, so that there is room for what is restored
  }
  engine::Sequence restored = saved_.restore(engine_, prompt);
  // What is held after another root was read, or would be, in another way.
  const bool is_of_root = sequence_ && sequence_->chain_at(0) == restored.chain_at(0);
  if (!is_of_root || restored.n_pos() > n_held) sequence_ = std::move(restored);
  return n_common - std::min(n_common, sequence_->n_pos());
}

/// Earlier answers in the prompt keep the tokens they were generated as, where those are in the
/// sequence or saved; and where the prompt still fits with them.
engine::PromptTokens ModelSession::as_generated(std::span<const engine::TokenId> prompt) {
  const engine::Tokenizer& tokenizer = engine_.tokenizer();
  tiers::KnownText known;
  if (sequence_ && !is_anew_) {
    const std::string text = engine::marked_text(tokenizer, prompt);
    const tiers::TokenBytes bytes_of = [&](int32_t token, std::string& out) {
      engine::append_marked(tokenizer, token, out);
    };
    tiers::TextMatch match(text, bytes_of);
    if (is_generated_.size() == sequence_->n_pos()) {
      match.follow(0, sequence_->tokens(), is_generated_);
      known = match.take_best();
    }
  } else {
    known = saved_.known_text(engine_, prompt);
  }
  engine::PromptTokens kept = engine::with_known_beginning(tokenizer, prompt, known);
  if (kept.tokens.size() <= prompt.size() || kept.tokens.size() < engine_.context().n_ctx)
    return kept;
  return engine::with_known_beginning(tokenizer, prompt, {});
}

void ModelSession::bind_answers(engine::JsonGrammar grammar) {
  grammar_ = std::move(grammar);
  token_table_ = std::make_shared<const engine::TokenTable>(engine_.tokenizer(),
                                                            engine_.spec().shape.vocab_size);
}

engine::Generation ModelSession::answer(std::span<const engine::TokenId> asked,
                                        const std::function<bool(std::string_view)>& on_text) {
  const engine::PromptTokens prompt = as_generated(asked);
  selected_before_ = selection_counts(engine_);
  n_kept_ = prompt.n_kept;
  const uint64_t n_lost = is_anew_ ? find_saved(prompt.tokens) : 0;
  is_anew_ = false;
  saved_.begin(engine_, *sequence_, prompt);
  engine::GenerationRequest request;
  request.prompt = prompt.tokens;
  request.vocab_size = engine_.spec().shape.vocab_size;
  request.n_ctx = engine_.context().n_ctx;
  request.n_ctx_train = engine_.spec().shape.n_ctx_train;
  if (settings_.predict >= 0) request.n_predict = static_cast<uint64_t>(settings_.predict);
  request.chunk_rows = engine_.context().chunk_rows;
  request.attention = engine_.attention();
  request.sparse_from = engine_.options().sparse_from;
  request.n_draft_max = engine_.n_draft_max();
  request.sampler = sampler_;
  request.stop = settings_.stop;
  request.ignore_eos = settings_.ignore_eos;
  if (grammar_)
    request.constraint = std::make_shared<engine::AnswerConstraint>(token_table_, *grammar_);

  // A prompt of one chunk is read before a bar would be seen.
  Progress progress("reading", grouped_number, " tok/s");
  const bool shows_reading = prompt.tokens.size() > request.chunk_rows;
  engine::GenerationEvents events;
  events.cancel = &interrupt_flag();
  events.on_prefill = [&](uint64_t done, uint64_t total) {
    if (shows_reading) progress.update(done, total);
    if (done == total) progress.finish();
    // A chunk's reads are not those of a decoded token.
    if (request.sparse_from < done) selected_before_ = selection_counts(engine_);
    saved_.save_closed(engine_, *sequence_);
    return true;
  };
  events.on_text = on_text;
  is_generated_.clear();  // where generate() throws, it is not known what the sequence holds
  engine::Generation answer =
      engine::generate(engine_.walk(), *sequence_, engine_.tokenizer(), request, events);
  is_generated_ = prompt.is_generated;
  is_generated_.resize(sequence_->n_pos(), 1);
  progress.finish();
  last_ = answer.times.lone_steps;
  answer.usage.recomputed_tokens += n_lost;
  return answer;
}

std::string ModelSession::summary(const engine::Generation& answer) {
  const auto& usage = answer.usage;
  std::string line = fmt::format("{} prompt ({} cached", grouped_number(usage.prompt_tokens),
                                 grouped_number(usage.cached_tokens));
  if (usage.recomputed_tokens > 0)
    line += fmt::format(", {} read again", grouped_number(usage.recomputed_tokens));
  if (answer.meeting.computed_tokens > 0)
    line += fmt::format(": the disk brought {} meanwhile",
                        grouped_number(answer.meeting.loaded_tokens));
  if (n_kept_ > 0) line += fmt::format(", {} as they were generated", grouped_number(n_kept_));
  line += fmt::format(") {:.2f} s, {:.0f} tok/s | {} out", answer.times.prefill_ms / 1000.0,
                      answer.times.prefill_tokens_per_s(usage),
                      grouped_number(usage.completion_tokens));
  if (answer.times.n_decode_steps > 0)
    line += fmt::format(", {:.1f} tok/s", answer.times.decode_tokens_per_s());
  if (answer.drafts.proposed > 0)
    line += fmt::format(" ({} of {} guessed)", grouped_number(answer.drafts.accepted),
                        grouped_number(answer.drafts.proposed));
  line += fmt::format(" | context {} of {}",
                      grouped_number(usage.prompt_tokens + usage.completion_tokens),
                      grouped_number(engine_.context().n_ctx));
  line += attention_text(engine_, selected_before_);
  if (settings_.temp > 0) line += fmt::format(" | seed {}", sampler_.seed);
  if (answer.context_full) {
    line += " | stopped: the context is full";
  } else if (answer.finish_reason == engine::FinishReason::kLength) {
    line += fmt::format(" | stopped: -n {}", settings_.predict);
  } else if (answer.finish_reason == engine::FinishReason::kCancelled) {
    line += " | stopped by you";
  }
  return line;
}

void ModelSession::save() {
  interrupt_flag().store(false);  // what has ended the answer; the next Ctrl-C ends the saving
  if (sequence_) saved_.finish(engine_, *sequence_);
}

void ModelSession::say_tiers() {
  if (const std::string line = tier_line(engine_, reported_); !line.empty()) notice(line);
  say_reads(engine_, reported_.weights);
  reported_ = tier_counts(engine_);
  for (const std::string& line : {drift_line(plan_, last_), memory_.look(memory_now())})
    if (!line.empty()) notice(line);
}

nlohmann::ordered_json ModelSession::to_json(const engine::Generation& answer) {
  const auto& usage = answer.usage;
  const auto& times = answer.times;
  return {
      {"text", answer.text},
      {"tokens", answer.tokens},
      {"finish_reason", engine::finish_reason_name(answer.finish_reason)},
      {"usage",
       {{"prompt_tokens", usage.prompt_tokens},
        {"cached_tokens", usage.cached_tokens},
        {"recomputed_tokens", usage.recomputed_tokens},
        {"as_generated_tokens", n_kept_},
        {"completion_tokens", usage.completion_tokens}}},
      {"timings",
       {{"load_ms", engine_.load_ms()},
        {"prefill_ms", times.prefill_ms},
        {"ttft_ms", times.ttft_ms},
        {"decode_ms", times.decode_ms},
        {"tpot_ms", times.tpot_ms()},
        {"prefill_tokens_per_s", times.prefill_tokens_per_s(usage)},
        {"decode_tokens_per_s", times.decode_tokens_per_s()}}},
      {"drafts", {{"proposed", answer.drafts.proposed}, {"accepted", answer.drafts.accepted}}},
      {"attention", attention_json(engine_, selected_before_, times.n_decode_steps > 0)},
      {"tiers", tiers_json(engine_, reported_)},
      {"faults", faults_json(engine_, reported_)},
      {"plan", placed_json(plan_, answer)},
      {"device", fmt::format("cpu {}", engine_.kernels().name)},
      {"n_ctx", engine_.context().n_ctx},
      {"seed", sampler_.seed},
  };
}

}  // namespace strata::cli

#include "tools/cli/reopened.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/context_cache.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/bench_fill.h"
#include "tools/cli/bench_setup.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/json_output.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

using nlohmann::ordered_json;

/// Every number of a Reopened, by name: moments in nanoseconds.
template <class Of, class Visit>
void for_each_number(Of& of, const Visit& visit) {
  visit("rows_bytes", of.rows_bytes);
  visit("n_indexed", of.n_indexed);
  visit("n_blocks", of.n_blocks);
  visit("block_bytes", of.block_bytes);
  visit("kv_read_bytes", of.kv_read_bytes);
  visit("selected_blocks", of.selected_blocks);
  visit("selectable_blocks", of.selectable_blocks);
  visit("slot_bytes", of.slot_bytes);
  visit("index_bytes", of.index_bytes);
  visit("dram_bytes", of.dram_bytes);
}
template <class Of, class Visit>
void for_each_moment(Of& of, const Visit& visit) {
  visit("begin_ns", of.begin);
  visit("opened_ns", of.opened);
  visit("loaded_ns", of.loaded);
  visit("restored_ns", of.restored);
  visit("answered_ns", of.answered);
}

}  // namespace

std::string Reopened::to_json() const {
  ordered_json json;
  for_each_moment(*this, [&](const char* name, const Clock::time_point& at) {
    json[name] =
        std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
  });
  for_each_number(*this, [&](const char* name, uint64_t value) { json[name] = value; });
  json["logits"] = logits;
  return json_line(json);
}

Reopened Reopened::from_json(const std::string& text) {
  Reopened of;
  try {
    const auto json = nlohmann::json::parse(text);
    for_each_moment(of, [&](const char* name, Clock::time_point& at) {
      at = Clock::time_point(std::chrono::nanoseconds(json.at(name).get<int64_t>()));
    });
    for_each_number(
        of, [&](const char* name, uint64_t& value) { value = json.at(name).get<uint64_t>(); });
    for (const auto& logit : json.at("logits"))  // what is not finite is written as null
      of.logits.push_back(logit.is_null() ? std::numeric_limits<float>::quiet_NaN()
                                          : logit.get<float>());
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kIo, std::string("a reopened context cannot be read: ") + error.what(),
                "strata bench --reopened", "run the same program of the same version");
  }
  return of;
}

std::vector<int32_t> reopened_tokens(uint32_t n_depth, uint32_t vocab_size) {
  return RandomDraw().tokens(n_depth + kQuestionRows, vocab_size);
}

uint64_t reopened_context(uint32_t n_depth) { return n_depth + kQuestionRows + kBlockPositions; }

void ask(engine::Engine& engine, engine::Sequence& sequence, std::span<const int32_t> tokens,
         engine::Attention attention) {
  engine::prefill(engine.walk(), sequence, tokens.last(kQuestionRows), engine.context().chunk_rows,
                  {}, attention);
}

int run_reopened(const Command& command, AnswerSink& sink) {
  const Settings& settings = command.settings;
  Reopened of;
  of.begin = Reopened::Clock::now();
  if (settings.n_depth.size() != 1)
    throw Error(ErrorCode::kUsage, "--reopened wants one depth", command.where("n-depth"),
                "use --reopen, which starts it");
  const auto n_depth = static_cast<uint32_t>(settings.n_depth.front());
  engine::EngineOptions options = engine_options(settings);
  options.device.kind = engine::DeviceChoice::Kind::kNone;
  options.n_ctx = reopened_context(n_depth);
  options.reads_saved = true;
  options.allow_untrained = true;  // --reopen has looked
  engine::Engine engine = engine::Engine::open(options);
  const auto tokens = reopened_tokens(n_depth, engine.spec().shape.vocab_size);
  of.opened = Reopened::Clock::now();
  engine.load([](uint64_t, uint64_t) { return !interrupt_flag().load(); });
  of.loaded = Reopened::Clock::now();
  engine::ContextCache packs({.directory = settings.reopened, .limits = {}, .saves = false},
                             engine.cache(), engine.fingerprint(), "bench");
  engine::Sequence sequence = packs.restore(engine.cache(), std::span(tokens).first(n_depth));
  of.restored = Reopened::Clock::now();
  if (sequence.n_pos() != n_depth)
    throw Error(ErrorCode::kIo,
                std::to_string(sequence.n_pos()) + " of " + std::to_string(n_depth) +
                    " saved tokens were found",
                settings.reopened, "use --reopen, which saves them");
  ask(engine, sequence, tokens, engine.attention());
  of.answered = Reopened::Clock::now();

  const auto logits = engine.walk().logits(0);
  of.logits.assign(logits.begin(), logits.end());
  of.rows_bytes = packs.counts().rows_read_bytes;
  of.n_indexed = packs.counts().indexed_tokens;
  of.n_blocks = engine.cache().store().counts().blocks_read;
  of.kv_read_bytes = engine.cache().store().transfer_counts().read_bytes;
  if (const auto* blocks = engine.cache().store().block_transfers())
    of.block_bytes = blocks->counts().read_bytes;
  if (options.method) {
    of.selected_blocks = engine.walk().selection_counts().attended_blocks;
    of.selectable_blocks = engine.walk().selection_counts().blocks;
  }
  const engine::KvPlacement& kv = engine.context().kv;
  of.slot_bytes = kv.slot_bytes;
  of.index_bytes = kv.index_bytes;
  of.dram_bytes = kv.dram_bytes();
  sink.write_line(of.to_json());
  sink.close();
  return 0;
}

}  // namespace strata::cli

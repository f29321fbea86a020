#include "tools/serve/engine_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "engine/answer_scheduler.h"
#include "engine/grammar/answer_constraint.h"
#include "engine/text_roots.h"
#include "tools/serve/event_channel.h"
#include "tools/serve/open_order.h"
#include "tools/serve/order_desk.h"
#include "tools/serve/order_prompt.h"
#include "tools/serve/service_counts.h"
#include "tools/serve/slot_desk.h"
#include "tools/serve/slot_job.h"

namespace strata::serve {
namespace {

class Stream final : public AnswerStream {
 public:
  Stream(std::shared_ptr<EventChannel> channel, std::shared_ptr<OrderDesk> desk)
      : channel_(std::move(channel)), desk_(std::move(desk)) {}
  ~Stream() override { cancel(); }
  bool wait_next(AnswerEvent& out, std::chrono::milliseconds timeout) override {
    return channel_->wait_next(out, timeout);
  }
  void cancel() override {
    if (channel_->is_left()) return;
    channel_->leave();
    desk_->look_for_left();
  }

 private:
  std::shared_ptr<EventChannel> channel_;
  std::shared_ptr<OrderDesk> desk_;
};

std::optional<engine::ContextCacheOptions> contexts_of(const engine::Engine& engine,
                                                       const EngineService::Options& wanted,
                                                       const std::atomic<bool>& cancel) {
  if (wanted.session_dir.empty()) return std::nullopt;
  engine::ContextCacheOptions options;
  options.directory = wanted.session_dir;
  options.limits.budget_bytes = wanted.cache_budget_bytes;
  options.limits.free_floor_bytes = wanted.free_floor_bytes;
  options.limits.index_bytes = engine.context().kv.pack_index_bytes;
  options.saves = options.saves_rows = wanted.saves;
  options.cancel = &cancel;
  return options;
}

}  // namespace

struct EngineService::State {
  State(engine::Engine& of, const Options& wanted)
      : engine(of),
        options(wanted),
        prompts(of),
        facts(service_facts(of, prompts.template_source(), wanted.n_parallel, wanted.plan)),
        token_table(std::make_shared<engine::TokenTable>(of.tokenizer(), facts.vocab_size)),
        scheduler(of, {.n_parallel = wanted.n_parallel,
                       .contexts = contexts_of(of, wanted, stops_saving)}),
        slots(scheduler) {
    if (const auto& fault = prompts.template_fault())
      desk->notices.push_back(fmt::format("{} | {}", fault->what(), fault->remedy()));
  }

  void check_takes_orders() const;
  void check_open(const std::string& asker) const;
  engine::AnswerTask task_of(AnswerOrder& order) const;
  void add(ArrivedOrder& order);
  bool take_orders(std::vector<ArrivedOrder>& orders, bool& has_left);
  void end_jobs();
  void wait_for_job(const std::shared_ptr<SlotJob>& job);
  void order_begins(OpenOrder& order);
  void order_ended(OpenOrder& order);
  void review(const OpenOrder& order, const engine::Generation& answer);
  void fail(OpenOrder& order, const std::exception_ptr& failure);
  void work(std::vector<ArrivedOrder>& orders, bool has_left, bool goes_on);
  void fail_all(const std::vector<ArrivedOrder>& orders, const std::exception_ptr& failure);
  void run();
  void publish();
  void stop(bool saves);
  void wait_saved();

  engine::Engine& engine;
  const Options options;
  const OrderPrompts prompts;
  const ServiceFacts facts;
  const std::shared_ptr<const engine::TokenTable> token_table;  // for answers bound to a schema
  std::atomic<bool> stops_saving = false;                       // where nothing is saved at the end
  // Of the engine's thread.
  engine::AnswerScheduler scheduler;
  std::vector<std::shared_ptr<OpenOrder>> open;
  ServiceCounts sums;
  std::vector<std::string> said;  // of answers, to be published
  bool looks_at_layers = false;
  std::vector<std::shared_ptr<SlotJob>> jobs;  // that are done once their results are published
  // Of all.
  SlotDesk slots;
  const std::shared_ptr<OrderDesk> desk =
      std::make_shared<OrderDesk>(QueuePlaces(options.n_parallel, options.n_queued_max));
  std::atomic<bool> stops_step = false;
  std::mutex stop_mutex;  // of what follows
  std::thread thread;
  bool saves_at_end = false;  // read by the thread once it ends
  bool is_saved = true;       // written by the thread before it ends
};

/// Errors: kCancelled. Under desk->mutex.
void EngineService::State::check_takes_orders() const {
  if (!desk->takes_orders)
    throw Error(ErrorCode::kCancelled, "the server is stopping", "",
                "ask another server, or this one later");
}

/// Errors: kBusy, kCancelled. Under desk->mutex.
void EngineService::State::check_open(const std::string& asker) const {
  check_takes_orders();
  desk->places.check_free(asker);
}

/// Errors: those of OrderPrompts::encode, compile_json_schema, Sampler and StopMatcher.
engine::AnswerTask EngineService::State::task_of(AnswerOrder& order) const {
  engine::AnswerTask task;
  task.prompt = prompts.encode(order);
  task.is_text = order.tokens.empty();
  task.root = engine::prefix_root(order.owner);
  task.asker = order.asker;
  task.request.sampler = std::move(order.sampler);
  task.request.stop = std::move(order.stop);
  task.request.ignore_eos = order.ignore_eos;
  if (!order.answer_schema.is_null())
    task.request.constraint = std::make_shared<engine::AnswerConstraint>(
        token_table, engine::compile_json_schema(order.answer_schema));
  task.request.n_logprobs = order.n_logprobs;
  task.request.n_predict = order.n_predict;
  if (order.n_predict == UINT64_MAX)
    task.request.n_predict = options.n_predict > 0
                                 ? options.n_predict
                                 : std::max<uint64_t>(1, facts.n_ctx / options.n_parallel);
  // Made here so that what is wrong is refused at once.
  const engine::Sampler sampler(task.request.sampler, facts.vocab_size);
  const engine::StopMatcher stops(task.request.stop);
  return task;
}

void EngineService::State::order_begins(OpenOrder& order) {
  order.has_begun = true;
  const std::lock_guard lock(desk->mutex);
  desk->places.begin(order.asker);
}

void EngineService::State::order_ended(OpenOrder& order) {
  order.has_ended = true;
  const std::lock_guard lock(desk->mutex);
  desk->places.end(order.asker, order.has_begun);
  desk->ended.notify_all();
}

/// What cannot be said is not said.
void EngineService::State::review(const OpenOrder& order, const engine::Generation& answer) try {
  if (!options.review) return;
  for (std::string& line : options.review(answer, order.was_alone)) said.push_back(std::move(line));
} catch (const std::exception&) {
  return;  // clients know how their answers have ended, and other answers go on
}

/// Nothing where it has ended. A client that there is no memory to tell why is told that.
void EngineService::State::fail(OpenOrder& order, const std::exception_ptr& failure) {
  if (order.has_ended) return;
  ++sums.failed;
  try {
    order.tell_failure(failure);
  } catch (...) {
    order.channel->end_untold();
  }
  order_ended(order);
}

void EngineService::State::add(ArrivedOrder& order) {
  const std::shared_ptr<OpenOrder> of = order.open;
  open.push_back(of);
  if (open.size() > 1)
    for (const auto& each : open) each->was_alone = false;
  engine::AnswerTask& task = order.task;
  task.on_start = [this, of](uint64_t n_cached, uint64_t n_prompt) {
    order_begins(*of);
    of->n_cached = n_cached;
    of->tell_prompt(n_cached, n_prompt);
  };
  task.events.on_prefill = [of](uint64_t done, uint64_t total) {
    of->tell_prompt(done, total);
    return !of->channel->is_left();
  };
  task.events.on_scores = [this, of](const engine::TokenScores& scores) {
    of->add_scores(engine.tokenizer(), scores);
  };
  task.events.on_text = [of](std::string_view text) {
    of->tell_text(text);
    return !of->channel->is_left();
  };
  task.on_end = [this, of](const engine::Generation& answer) {
    if (of->has_ended) return;
    count_answer(answer, sums);
    of->tell_end(answer);
    order_ended(*of);
    review(*of, answer);
  };
  task.on_failure = [this, of](const std::exception_ptr& failure) { fail(*of, failure); };
  of->id = scheduler.add(std::move(task));
}

/// Waits until there is something to do. False where the service ends.
bool EngineService::State::take_orders(std::vector<ArrivedOrder>& orders, bool& has_left) {
  std::unique_lock lock(desk->mutex);
  desk->wanted.wait(lock, [&] {
    return desk->ends || desk->has_left || desk->asks_layers || !desk->arrived.empty() ||
           !desk->jobs.empty() || scheduler.has_work();
  });
  jobs = std::exchange(desk->jobs, {});
  orders = std::exchange(desk->arrived, {});
  has_left = std::exchange(desk->has_left, false);
  looks_at_layers = std::exchange(desk->asks_layers, false);
  return !desk->ends;
}

/// Once /slots shows what has become of them.
void EngineService::State::end_jobs() {
  if (jobs.empty()) return;
  const std::lock_guard lock(desk->mutex);
  for (const auto& job : std::exchange(jobs, {})) job->is_done = true;
  desk->ended.notify_all();
}

/// Until the engine's thread has done it. Errors: kCancelled, those of run_slot_job().
void EngineService::State::wait_for_job(const std::shared_ptr<SlotJob>& job) {
  std::unique_lock lock(desk->mutex);
  check_takes_orders();
  desk->jobs.push_back(job);
  desk->wanted.notify_one();
  desk->ended.wait(lock, [&] { return job->is_done; });
  if (job->failure) std::rethrow_exception(job->failure);
}

void EngineService::State::work(std::vector<ArrivedOrder>& orders, bool has_left, bool goes_on) {
  for (const auto& job : jobs) run_slot_job(scheduler, facts.n_ctx, *job);
  for (ArrivedOrder& order : orders) add(order);
  for (const auto& order : open)
    if (has_left && order->channel->is_left()) scheduler.cancel(order->id);
  if (!goes_on)
    scheduler.end_all();
  else if (scheduler.has_work())
    scheduler.step();
}

/// Ends what is open, and of `orders` what was not added any more. Throws nothing.
void EngineService::State::fail_all(const std::vector<ArrivedOrder>& orders,
                                    const std::exception_ptr& failure) try {
  for (const ArrivedOrder& order : orders) fail(*order.open, failure);
  for (const auto& order : open) fail(*order, failure);
  scheduler.end_all(failure);
} catch (...) {
  return;  // clients know; what the scheduler did not come to, its next step ends
}

/// What is no error of an answer, such as a list that found no memory, ends all of them and not
/// the process.
void EngineService::State::run() {
  engine.walk().set_cancel(&stops_step);
  std::vector<ArrivedOrder> orders;
  for (bool goes_on = true; goes_on;) {
    bool has_left = false;
    goes_on = take_orders(orders, has_left);
    try {
      work(orders, has_left, goes_on);
    } catch (...) {
      fail_all(orders, std::current_exception());
    }
    std::erase_if(open, [](const auto& order) { return order->has_ended; });
    publish();
    end_jobs();
  }
  engine.walk().set_cancel(nullptr);
  try {
    if (saves_at_end) is_saved = scheduler.finish();
  } catch (...) {
    is_saved = false;
  }
  publish();
  const std::lock_guard lock(desk->mutex);
  desk->has_ended = true;
  desk->ended.notify_all();
}

/// No longer than saving_max, but for system calls that run: beyond that, waits for the disk end.
void EngineService::State::wait_saved() {
  if (options.session_dir.empty() || !options.saves) return;
  if (options.on_saving) options.on_saving(options.saving_max);
  std::unique_lock lock(desk->mutex);
  if (!desk->ended.wait_for(lock, options.saving_max, [&] { return desk->has_ended; }))
    stops_saving = true;
}

/// Where there is no memory, what was published before stays.
void EngineService::State::publish() try {
  ServiceCounts now = sums;
  count_engine(engine, now);
  for (const engine::HeldFacts& held : scheduler.held()) {
    now.slots.push_back({.id = held.slot,
                         .is_busy = held.is_busy,
                         .n_tokens = held.n_tokens,
                         .n_prompt = held.n_prompt,
                         .n_answered = held.n_answered});
    if (held.is_busy) ++now.n_busy;
  }
  std::vector<engine::LayerBlocks> layers;
  if (looks_at_layers) layers = scheduler.held_blocks();
  std::vector<std::string> notices = scheduler.take_notices();
  for (std::string& line : std::exchange(said, {})) notices.push_back(std::move(line));
  {
    const std::lock_guard lock(desk->mutex);
    now.orders = desk->counts.orders;
    now.refused = desk->counts.refused;
    desk->counts = std::move(now);
    if (looks_at_layers) desk->layers = std::move(layers);
    for (std::string& notice : notices) desk->notices.push_back(std::move(notice));
  }
  if (!notices.empty() && options.on_notices) options.on_notices();
} catch (const std::bad_alloc&) {
  return;
}

void EngineService::State::stop(bool saves) {
  const std::lock_guard stopping(stop_mutex);
  if (!thread.joinable()) return;
  saves_at_end = saves;
  stops_saving = !saves;
  {
    const std::lock_guard lock(desk->mutex);
    desk->takes_orders = false;
    desk->ends = true;
    if (desk->places.n_open() > 0) stops_step = true;
  }
  slots.stop();
  desk->wanted.notify_one();
  if (saves) wait_saved();
  thread.join();
}

EngineService::EngineService(std::unique_ptr<State> state) : state_(std::move(state)) {}

EngineService::~EngineService() { state_->stop(false); }

void EngineService::prepare(const Options& options, engine::EngineOptions& engine) {
  engine.n_answers = options.n_parallel;
  engine.reads_saved = !options.session_dir.empty();
}

std::unique_ptr<EngineService> EngineService::start(engine::Engine& engine,
                                                    const Options& options) {
  auto state = std::make_unique<State>(engine, options);
  if (!state->desk->notices.empty() && options.on_notices) options.on_notices();
  state->publish();
  try {
    state->thread = std::thread([of = state.get()] { of->run(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::kOutOfMemory, std::string("no thread for the engine: ") + error.what(),
                "", "free memory");
  }
  return std::unique_ptr<EngineService>(new EngineService(std::move(state)));
}

const ServiceFacts& EngineService::facts() const { return state_->facts; }

ServiceCounts EngineService::counts() const {
  const std::lock_guard lock(state_->desk->mutex);
  ServiceCounts counts = state_->desk->counts;
  const uint64_t n_open = state_->desk->places.n_open();
  counts.n_waiting = n_open - std::min(n_open, counts.n_busy);
  counts.n_slot_actions = state_->slots.n_open();
  return counts;
}

std::vector<engine::LayerBlocks> EngineService::layer_blocks() const {
  OrderDesk& desk = *state_->desk;
  const auto now = std::chrono::steady_clock::now();
  std::vector<engine::LayerBlocks> layers;
  {
    const std::lock_guard lock(desk.mutex);
    layers = desk.layers;
    if (now < desk.next_look) return layers;
    desk.next_look = now + state_->options.layers_kept;
    desk.asks_layers = true;
  }
  desk.wanted.notify_one();
  return layers;
}

std::unique_ptr<AnswerStream> EngineService::submit(AnswerOrder order) {
  OrderDesk& desk = *state_->desk;
  const auto channel = std::make_shared<EventChannel>();
  ArrivedOrder arriving{std::make_shared<OpenOrder>(channel, order.asker), {}};
  auto stream = std::make_unique<Stream>(channel, state_->desk);
  try {
    {
      const std::lock_guard lock(desk.mutex);
      state_->check_open(order.asker);  // before the prompt is encoded for nothing
    }
    arriving.task = state_->task_of(order);
    const std::lock_guard lock(desk.mutex);
    state_->check_open(order.asker);
    desk.arrived.reserve(desk.arrived.size() + 1);  // nothing fails behind the next line
    desk.places.take(order.asker);
    desk.arrived.push_back(std::move(arriving));
    ++desk.counts.orders;
  } catch (const Error&) {
    const std::lock_guard lock(desk.mutex);
    ++desk.counts.refused;
    throw;
  }
  desk.wanted.notify_one();
  return stream;
}

SlotOutcome EngineService::act_on_slot(const SlotAction& action) {
  return state_->slots.act(action,
                           [&](const std::shared_ptr<SlotJob>& job) { state_->wait_for_job(job); });
}

std::vector<engine::TokenId> EngineService::tokenize(std::string_view text, bool adds_special,
                                                     bool parses_special) const {
  engine::EncodeOptions options;
  options.add_special = adds_special;
  options.parse_special = parses_special;
  return state_->engine.tokenizer().encode(text, options);
}

std::string EngineService::detokenize(const std::vector<engine::TokenId>& tokens) const {
  return state_->prompts.decode(tokens);
}

std::string EngineService::rendered(const AnswerOrder& order) const {
  return state_->prompts.rendered(order);
}

bool EngineService::drain(std::chrono::milliseconds timeout) {
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24);  // a clock has an end
  const auto until = std::chrono::steady_clock::now() + std::min(timeout, kLongest);
  OrderDesk& desk = *state_->desk;
  bool is_in_time = false;
  {
    std::unique_lock lock(desk.mutex);
    desk.takes_orders = false;
    is_in_time = desk.ended.wait_until(lock, until, [&] { return desk.places.n_open() == 0; });
  }
  is_in_time = state_->slots.wait_ended(until) && is_in_time;
  state_->stop(true);
  return is_in_time && state_->is_saved;
}

std::vector<std::string> EngineService::take_notices() {
  const std::lock_guard lock(state_->desk->mutex);
  return std::exchange(state_->desk->notices, {});
}

}  // namespace strata::serve

#include "engine/pack_publisher.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <variant>

#include "base/error.h"

namespace strata::engine {

struct PackPublisher::Replaced {
  std::string pack;
  bool is_held = false;
};

struct PackPublisher::State {
  explicit State(tiers::PackDirectory own) : directory(std::move(own)) {}

  tiers::PackDirectory directory;  // the thread's
  std::timed_mutex naming;         // held while the thread may hold the lock of the directory

  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::deque<std::variant<tiers::PackWriter, tiers::RowsWriter, Replaced>> waiting;
  uint64_t n_given = 0;  // all of `waiting` since the start
  uint64_t n_ended = 0;  // of these, in their order
  bool ends = false;
  std::string problem;
  std::string rows_problem;
  PublishedCounts counts;
};

/// The caller's directory.
struct PackPublisher::Own {
  explicit Own(tiers::PackDirectory of) : directory(std::move(of)) {}

  tiers::PackDirectory directory;
  std::atomic<bool> is_asked = false;  // by something that has not ended
};

namespace {

constexpr std::chrono::milliseconds kLook{100};  // at the flag that ends a wait

/// Waits in pieces of kLook: `is_done(time)` waits so long at most. Errors: kIo, kCancelled.
template <class IsDone>
void wait_for(std::chrono::milliseconds wait_max, const std::atomic<bool>* cancel,
              const IsDone& is_done) {
  const auto until = std::chrono::steady_clock::now() + wait_max;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        until - std::chrono::steady_clock::now());
    if (is_done(std::min(left, kLook))) return;
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
      throw Error(ErrorCode::kCancelled, "waiting for the disk of saved contexts was stopped");
    if (left <= kLook) fail_hung();
  }
}

/// Without memory for the text, another one.
std::string problem_of(const std::exception& error) noexcept {
  try {
    if (dynamic_cast<const std::bad_alloc*>(&error) == nullptr) return error.what();
  } catch (const std::bad_alloc&) {
    return "no memory";
  }
  return "no memory";  // short enough to take none
}

}  // namespace

PackPublisher::PackPublisher(tiers::PackDirectory directory, const std::atomic<bool>* cancel)
    : own_(std::make_shared<Own>(std::move(directory))),
      state_(std::make_shared<State>(own_->directory.for_publishing())),
      cancel_(cancel) {
  try {
    std::thread([state = state_] { run(state); }).detach();
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::kOutOfMemory,
                std::string("no thread for saving contexts: ") + error.what(), "",
                "free memory, or use --no-save");
  }
}

PackPublisher::~PackPublisher() {
  const std::lock_guard lock(state_->mutex);
  state_->ends = true;
  state_->n_ended += state_->waiting.size();
  state_->waiting.clear();
  state_->changed.notify_all();
}

void PackPublisher::add(tiers::PackWriter writer) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->problem.empty()) return;
  state_->waiting.push_back(std::move(writer));
  ++state_->n_given;
  state_->changed.notify_all();
}

void PackPublisher::add(tiers::RowsWriter writer) {
  const std::lock_guard lock(state_->mutex);
  state_->waiting.push_back(std::move(writer));
  ++state_->n_given;
  state_->changed.notify_all();
}

void PackPublisher::add_replaced(std::string pack, bool is_held) {
  const std::lock_guard lock(state_->mutex);
  if (!state_->problem.empty()) return;
  state_->waiting.push_back(Replaced{std::move(pack), is_held});
  ++state_->n_given;
  state_->changed.notify_all();
}

uint64_t PackPublisher::n_given() const {
  const std::lock_guard lock(state_->mutex);
  return state_->n_given;
}

void PackPublisher::wait_named(uint64_t n_given, std::chrono::milliseconds wait_max,
                               const std::atomic<bool>* cancel) {
  std::unique_lock lock(state_->mutex);
  wait_for(wait_max, cancel, [&](std::chrono::milliseconds time) {
    return state_->changed.wait_for(lock, time, [&] { return state_->n_ended >= n_given; });
  });
}

tiers::PackDirectory& PackPublisher::directory() {
  if (own_->is_asked) fail_hung();
  return own_->directory;
}

void PackPublisher::ask(std::function<void(tiers::PackDirectory&)> use,
                        std::chrono::milliseconds silence_max) {
  if (own_->is_asked.exchange(true)) fail_hung();
  // Goes with the work, whether that was begun or not.
  const auto end = [own = own_](Own* of) { of->is_asked = false; };
  std::shared_ptr<Own> asked(own_.get(), end);
  do_patiently(
      {silence_max, cancel_}, [own = own_] { return own->directory.n_answers(); },
      [asked = std::move(asked), use = std::move(use)] { use(asked->directory); });
}

void PackPublisher::between_packs(std::function<void(tiers::PackDirectory&)> use,
                                  std::chrono::milliseconds wait_max,
                                  std::chrono::milliseconds silence_max) {
  while_none_is_named([&] { ask(std::move(use), silence_max); }, wait_max, cancel_);
}

void PackPublisher::while_none_is_named(const std::function<void()>& use,
                                        std::chrono::milliseconds wait_max,
                                        const std::atomic<bool>* cancel) {
  std::unique_lock lock(state_->naming, std::defer_lock);
  // By the clock of the wall, since the thread sanitizer of g++ 12 does not know the call that
  // waits by the other one. A clock that is set stretches or cuts one short wait of many.
  wait_for(wait_max, cancel, [&](std::chrono::milliseconds time) {
    return lock.try_lock_until(std::chrono::system_clock::now() + time);
  });
  use();
}

std::string PackPublisher::problem() const {
  const std::lock_guard lock(state_->mutex);
  return state_->problem;
}

void PackPublisher::set_problem(const std::string& problem) {
  const std::lock_guard lock(state_->mutex);
  if (state_->problem.empty()) state_->problem = problem;
}

std::string PackPublisher::rows_problem() const {
  const std::lock_guard lock(state_->mutex);
  return state_->rows_problem;
}

void PackPublisher::set_rows_problem(const std::string& problem) {
  const std::lock_guard lock(state_->mutex);
  if (state_->rows_problem.empty()) state_->rows_problem = problem;
}

PublishedCounts PackPublisher::counts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->counts;
}

/// Errors: kIo, kDoesNotFit.
PublishedCounts PackPublisher::publish(State& state, tiers::PackWriter writer) {
  const uint64_t n_tokens = writer.head().n_positions();
  writer.seal();
  const uint64_t bytes = writer.bytes();
  const std::lock_guard naming(state.naming);
  state.directory.publish(std::move(writer));
  return {.tokens = n_tokens, .bytes = bytes};
}

PublishedCounts PackPublisher::publish(State& state, tiers::RowsWriter writer) {
  writer.seal();
  const uint64_t bytes = writer.bytes();
  const std::lock_guard naming(state.naming);
  return {.rows_bytes = state.directory.publish_rows(std::move(writer)) ? bytes : 0};
}

/// What cannot go now stays until it is met again: that is no error of what was saved.
PublishedCounts PackPublisher::publish(State& state, Replaced replaced) {
  const std::lock_guard naming(state.naming);
  try {
    if (replaced.is_held) state.directory.discard_replaced(replaced.pack);
  } catch (const std::exception&) {
  }
  return {.replaced_packs = 1};
}

void PackPublisher::run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  for (;;) {
    state->changed.wait(lock, [&] { return state->ends || !state->waiting.empty(); });
    if (state->waiting.empty()) return;
    auto next = std::move(state->waiting.front());
    state->waiting.pop_front();
    lock.unlock();
    const bool is_pack = std::holds_alternative<tiers::PackWriter>(next);
    PublishedCounts published;
    std::string problem;
    try {
      published =
          std::visit([&](auto& writer) { return publish(*state, std::move(writer)); }, next);
    } catch (const std::exception& error) {
      problem = problem_of(error);
    }
    const bool has_problem = !problem.empty();
    lock.lock();
    state->counts.tokens += published.tokens;
    state->counts.bytes += published.bytes;
    state->counts.rows_bytes += published.rows_bytes;
    state->counts.replaced_packs += published.replaced_packs;
    std::string& first = is_pack ? state->problem : state->rows_problem;
    if (first.empty()) first = std::move(problem);
    ++state->n_ended;
    if (is_pack && has_problem) {
      state->n_ended += state->waiting.size();
      state->waiting.clear();
    }
    state->changed.notify_all();
  }
}

}  // namespace strata::engine

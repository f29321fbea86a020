#include "tools/soak/soak.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/seconds_since.h"
#include "tools/soak/process_facts.h"
#include "tools/soak/questions.h"
#include "tools/soak/socket_client.h"

namespace strata::soak {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kIdleLook{50};
constexpr double kGrowthMax = 0.02;
constexpr uint32_t kRoles = 5, kRoleLeaves = 3, kRoleSlow = 4;
constexpr uint32_t kRequestsPerConnection = 16;
constexpr uint32_t kBusyMax = 1000;  // times that one question is refused
constexpr milliseconds kRetryMin{10};

struct Question {
  std::string body;
  StreamedAnswer lone;
};

/// Asked one after the other by one client.
std::vector<Question> lone_answers(const Target& target, const SoakOptions& options) {
  std::vector<Question> questions;
  SocketClient client(target.port, target.patience);
  for (std::string& body : drawn_questions(options.seed, options.n_common + options.n_rare,
                                           options.n_words_max, options.n_tokens_max)) {
    StreamedAnswer answer = ask(client, body);
    if (!answer.is_whole || !answer.fault.empty())
      throw Error(ErrorCode::kIo,
                  fmt::format("a lone client got status {}, wanted a whole answer: {}{}",
                              answer.status, answer.refusal, answer.fault),
                  fmt::format("port {}", target.port), "try a server that answers");
    questions.push_back({std::move(body), std::move(answer)});
  }
  return questions;
}

/// What the clients share.
class Field {
 public:
  Field(const Target& target, const SoakOptions& options, SoakReport& report)
      : target_(target),
        options_(options),
        questions_(lone_answers(target, options)),
        report_(report) {
    std::set<std::string> distinct;
    for (const Question& question : questions_) distinct.insert(question.lone.text);
    report_.distinct_answers = distinct.size();
  }

  void run_client(uint32_t i) {
    const uint32_t role = i % kRoles;
    std::unique_ptr<SocketClient> client;
    for (uint32_t n = 0; !is_over_; ++n) {
      if (client == nullptr || !client->is_connected() || n % kRequestsPerConnection == 0)
        client = std::make_unique<SocketClient>(target_.port, target_.patience);
      Manner manner;
      if (role == kRoleLeaves && n % 2 == 1) manner.leaves_after = 1 + (n / 2) % 6;
      if (role == kRoleSlow) manner.pause = options_.slow_pause;
      if (!ask_once(*client, question_of(i, n), manner, fmt::format("client {}, request {}", i, n)))
        client.reset();
      if (n + 1 == options_.n_each_min) count_ready();
    }
  }

  /// Waits; false where the end came first.
  bool wait(milliseconds time) {
    std::unique_lock lock(mutex_);
    return !ended_.wait_for(lock, time, [this] { return is_over_.load(); });
  }
  /// Waits until every client has asked as many questions as each must.
  void wait_each() {
    if (options_.n_each_min == 0) return;
    std::unique_lock lock(mutex_);
    const bool is_ready =
        ready_.wait_for(lock, target_.patience, [this] { return n_ready_ == options_.n_clients; });
    if (!is_ready)
      report_.findings.add(
          fmt::format("only {} clients asked {} questions", n_ready_, options_.n_each_min));
  }
  void end() {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    ended_.notify_all();
  }
  void find(const std::string& line) {
    const std::lock_guard lock(mutex_);
    report_.findings.add(line);
  }
  void finish() {
    const auto at = [](std::vector<double>& of, double share) {
      if (of.empty()) return 0.0;
      std::ranges::sort(of);
      return of[static_cast<size_t>(share * static_cast<double>(of.size() - 1))];
    };
    report_.first_token_p50_s = at(first_s_, 0.5);
    report_.first_token_p95_s = at(first_s_, 0.95);
    report_.token_p50_s = at(token_s_, 0.5);
    report_.token_p95_s = at(token_s_, 0.95);
  }

 private:
  const Question& question_of(uint32_t client, uint32_t n) const {
    // Steps that share no factor with most table sizes, so that clients meet in all ways.
    const uint64_t draw = uint64_t{client} * 7919 + uint64_t{n} * 104729;
    if (client % 2 == 0) return questions_[draw % options_.n_common];
    return questions_[options_.n_common + draw % options_.n_rare];
  }

  void count_ready() {
    const std::lock_guard lock(mutex_);
    ++n_ready_;
    ready_.notify_all();
  }

  /// One question until it is answered; false where the connection is of no more use.
  bool ask_once(SocketClient& client, const Question& question, const Manner& manner,
                const std::string& who) {
    for (uint32_t n = 0; n < kBusyMax; ++n) {
      const StreamedAnswer answer = ask(client, question.body, manner);
      if (answer.status != 429) return take(answer, question, manner, who);
      {
        const std::lock_guard lock(mutex_);
        ++report_.busy;
      }
      if (!wait(std::max(answer.retry_after, kRetryMin))) return false;
    }
    find(fmt::format("{}: refused {} times", who, kBusyMax));
    return false;
  }

  bool take(const StreamedAnswer& answer, const Question& question, const Manner& manner,
            const std::string& who) {
    const std::lock_guard lock(mutex_);
    if (answer.status != 200) {
      report_.findings.add(fmt::format("{}: status {}: {}", who, answer.status, answer.refusal));
      return false;
    }
    if (!answer.fault.empty()) {
      report_.findings.add(fmt::format("{}: {}", who, answer.fault));
      return false;
    }
    if (!answer.is_whole && manner.leaves_after < UINT32_MAX) {
      ++report_.left;
      if (!question.lone.text.starts_with(answer.text))
        report_.findings.add(fmt::format("{}: '{}' begins no lone answer", who, answer.text));
      return false;
    }
    if (!answer.says_same(question.lone)) {
      report_.findings.add(fmt::format("{}: {} tokens '{}', alone {} tokens '{}'", who,
                                       answer.n_tokens, answer.text, question.lone.n_tokens,
                                       question.lone.text));
      return answer.is_whole;
    }
    ++report_.answers;
    report_.tokens += answer.n_tokens;
    if (manner.pause.count() == 0) {
      first_s_.push_back(answer.first_token_s);
      if (answer.n_tokens > 1) token_s_.push_back(answer.per_token_s);
    }
    return true;
  }

  const Target target_;
  const SoakOptions options_;
  const std::vector<Question> questions_;
  std::atomic<bool> is_over_ = false;
  std::mutex mutex_;  // of what follows
  SoakReport& report_;
  std::condition_variable ended_, ready_;
  uint32_t n_ready_ = 0;
  std::vector<double> first_s_, token_s_;
};

/// Looks at the server's size until the end.
void watch(const Target& target, const SoakOptions& options, SoakReport& report) {
  const auto begin = Clock::now();
  const milliseconds settles = std::min(options.settles, options.duration / 2);
  const milliseconds look =
      std::clamp(options.duration / 100, milliseconds(20), milliseconds(1000));
  for (;;) {
    const auto since = Clock::now() - begin;
    const uint64_t bytes = process_facts(target.process).resident_bytes;
    if (since < settles)
      report.resident_settled_bytes = bytes;
    else
      report.resident_max_bytes = std::max(report.resident_max_bytes, bytes);
    report.resident_end_bytes = bytes;
    if (since >= options.duration) return;
    std::this_thread::sleep_for(look);
  }
}

void judge_size(const SoakOptions& options, SoakReport& report) {
  report.is_size_judged = options.duration >= 2 * options.settles;
  if (!report.is_size_judged) return;
  const double growth = static_cast<double>(report.resident_max_bytes) /
                            static_cast<double>(report.resident_settled_bytes) -
                        1;
  if (growth > kGrowthMax)
    report.findings.add(fmt::format("the resident size grew by {:.1f} %", growth * 100));
}

/// The value of a series of /metrics without labels, -1 where it is not there.
double metric(const std::string& text, const std::string& name) {
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + name.size() + 2, nullptr);
}

}  // namespace

void Findings::add(std::string line) {
  if (lines_.size() < kLinesMax) lines_.push_back(std::move(line));
  ++count_;
}

std::string wait_until_idle(const Target& target, uint32_t n_threads) {
  const auto until = Clock::now() + target.patience;
  for (;;) {
    SocketClient client(target.port, target.patience);
    const std::string metrics = client.get("/metrics").body;
    const double n_busy = metric(metrics, "strata_orders_at_work");
    const double n_waiting = metric(metrics, "strata_orders_waiting");
    const uint32_t n_now = process_facts(target.process).n_threads;
    if (n_busy == 0 && n_waiting == 0 && n_now <= n_threads) return "";
    if (Clock::now() >= until)
      return fmt::format("after {} s {} orders are at work, {} wait, {} threads run, wanted {}",
                         target.patience.count() / 1000, n_busy, n_waiting, n_now, n_threads);
    std::this_thread::sleep_for(kIdleLook);
  }
}

SoakReport run_soak(const Target& target, const SoakOptions& options) {
  SoakReport report;
  report.seed = options.seed;
  Field field(target, options, report);
  SocketClient first(target.port, target.patience);
  first.get("/health");  // its connection has a thread now
  const ProcessFacts before = process_facts(target.process);
  report.resident_start_bytes = before.resident_bytes;
  const auto begin = Clock::now();
  std::vector<std::thread> clients;
  clients.reserve(options.n_clients);
  for (uint32_t i = 0; i < options.n_clients; ++i)
    clients.emplace_back([&field, i] { field.run_client(i); });
  std::string lost;
  try {
    watch(target, options, report);
    field.wait_each();
  } catch (const Error& error) {
    lost = error.what();
  }
  field.end();
  for (std::thread& client : clients) client.join();
  if (!lost.empty()) throw Error(ErrorCode::kIo, "the server is gone: " + lost);
  report.seconds = seconds_since(begin);
  report.cpu_s = process_facts(target.process).cpu_s - before.cpu_s;
  field.finish();
  judge_size(options, report);
  first.close();
  if (const std::string left = wait_until_idle(target, before.n_threads); !left.empty())
    report.findings.add(left);
  return report;
}

std::string text_of(const SoakReport& r) {
  const auto mib = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::string out = fmt::format(
      "seed {}, {:.0f} s, {:.1f} s of the server's processor time\n"
      "| answers | tokens | left | 429 | distinct | first token p50 / p95, ms | token p50 / p95, "
      "ms "
      "| resident start / settled / end / max, MiB |\n|---|---|---|---|---|---|---|---|\n"
      "| {} | {} | {} | {} | {} | {:.1f} / {:.1f} | {:.2f} / {:.2f} | {:.1f} / {:.1f} / {:.1f} / "
      "{:.1f} |\n",
      r.seed, r.seconds, r.cpu_s, r.answers, r.tokens, r.left, r.busy, r.distinct_answers,
      r.first_token_p50_s * 1e3, r.first_token_p95_s * 1e3, r.token_p50_s * 1e3,
      r.token_p95_s * 1e3, mib(r.resident_start_bytes), mib(r.resident_settled_bytes),
      mib(r.resident_end_bytes), mib(r.resident_max_bytes));
  if (!r.is_size_judged) out += "size not judged: the run was too short\n";
  out += fmt::format("{} findings\n", r.findings.count());
  for (const std::string& line : r.findings.lines()) out += "  " + line + "\n";
  return out;
}

}  // namespace strata::soak

#include "tools/soak/hostile.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/seconds_since.h"
#include "tools/soak/hostile_case.h"
#include "tools/soak/process_facts.h"
#include "tools/soak/questions.h"
#include "tools/soak/socket_client.h"

namespace strata::soak {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr uint64_t kCasesPerQuestion = 10;
constexpr milliseconds kRetry{20};
constexpr uint32_t kRetriesMax = 500;

/// Notes where the server says nothing.
class HostileClient final : public SocketClient {
 public:
  using SocketClient::SocketClient;
  bool was_silent() const { return was_silent_; }

 private:
  void on_silence() override { was_silent_ = true; }
  bool was_silent_ = false;
};

bool is_fault(int status) {
  return status >= 500 && status != 501 && status != 503 && status != 505;
}

int first_status(const std::string& said) {
  return said.starts_with("HTTP/1.1 ")
             ? static_cast<int>(std::strtol(said.c_str() + 9, nullptr, 10))
             : 0;
}

class Siege {
 public:
  Siege(const Target& target, const HostileOptions& options, HostileReport& report)
      : target_(target), options_(options), report_(report) {
    SocketClient client(target.port, target.patience);
    lone_ = ask(client, question_);
    if (!lone_.is_whole || !lone_.fault.empty())
      throw Error(ErrorCode::kIo,
                  fmt::format("status {}, wanted a whole answer: {}{}", lone_.status, lone_.refusal,
                              lone_.fault),
                  fmt::format("port {}", target.port), "try a server that answers");
  }

  /// Sends cases until none is left.
  void send_cases() {
    for (;;) {
      const uint64_t i = next_++;
      if (i >= options_.n_cases) return;
      send_case(i);
      if (i % kCasesPerQuestion == 0) ask_good_question(i);
      if (i % 64 == 0) look();
    }
  }

  /// Sends single bytes of a head or of a body until the server ends the connection.
  void send_slowly(uint32_t i) {
    const std::string begin =
        i % 2 == 0 ? "GET /health HTTP/1.1\r\nX: "
                   : "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                     "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n";
    const bool judges = options_.slow_patience.count() > 0;
    do {
      SocketClient client(target_.port, target_.patience);
      if (!client.is_connected())
        return add_finding(fmt::format("slow client {}: no connection", i));
      client.send(begin);
      const auto since = Clock::now();
      bool has_ended = false;
      while (!has_ended && (judges || !is_over_)) {
        has_ended = client.wait_readable(options_.slow_pause) || !client.send("x");
        if (!judges || Clock::now() - since < options_.slow_patience) continue;
        add_finding(fmt::format("slow client {} is not ended", i));
        break;
      }
      const std::lock_guard lock(mutex_);
      if (has_ended) ++report_.n_slow_ended;
    } while (!is_over_);
  }
  void end() { is_over_ = true; }

  void look() {
    const uint64_t bytes = process_facts(target_.process).resident_bytes;
    const std::lock_guard lock(mutex_);
    report_.resident_max_bytes = std::max(report_.resident_max_bytes, bytes);
    report_.resident_end_bytes = bytes;
  }

 private:
  void add_finding(const std::string& line) {
    const std::lock_guard lock(mutex_);
    report_.findings.add(line);
  }

  void send_case(uint64_t i) {
    const HostileCase sent = hostile_case(options_.seed, i);
    HostileClient client(target_.port, target_.patience);
    if (!client.is_connected()) return add_finding(fmt::format("case {}: no connection", i));
    (void)client.send(sent.bytes);  // a refusal may end the connection before all of it is sent
    send_tails(i, sent, client);
    if (sent.end == HostileCase::End::kReset) {
      client.reset();
      const std::lock_guard lock(mutex_);
      ++report_.n_cases;
      return;
    }
    client.close_sending();
    const int status = first_status(client.read_to_end());
    if (client.was_silent()) add_finding(fmt::format("case {}, {}: not ended", i, sent.kind));
    if (is_fault(status)) add_finding(fmt::format("case {}, {}: status {}", i, sent.kind, status));
    const std::lock_guard lock(mutex_);
    ++report_.n_cases;
    ++report_.statuses[status];
  }

  void send_tails(uint64_t i, const HostileCase& sent, SocketClient& client) {
    uint64_t n = 0;
    while (n < sent.n_tails && !client.wait_readable(milliseconds(0)) && client.send(sent.tail))
      ++n;
    if (n * sent.tail.size() >= kGigabyte)
      add_finding(fmt::format("case {}, {}: a gigabyte is taken", i, sent.kind));
  }

  void ask_good_question(uint64_t i) {
    SocketClient client(target_.port, target_.patience);
    StreamedAnswer answer = ask(client, question_);
    for (uint32_t n = 0; n < kRetriesMax && answer.status == 429; ++n) {
      std::this_thread::sleep_for(kRetry);
      answer = ask(client, question_);
    }
    if (!answer.says_same(lone_))
      return add_finding(fmt::format("behind case {}: status {}, '{}', alone '{}' {}", i,
                                     answer.status, answer.text, lone_.text, answer.fault));
    const std::lock_guard lock(mutex_);
    ++report_.n_good;
  }

  const Target target_;
  const HostileOptions options_;
  const std::string question_ = question_body("all is well", 8);
  StreamedAnswer lone_;
  std::atomic<uint64_t> next_ = 0;
  std::atomic<bool> is_over_ = false;
  std::mutex mutex_;  // of what follows
  HostileReport& report_;
};

}  // namespace

HostileReport run_hostile(const Target& target, const HostileOptions& options) {
  HostileReport report;
  report.seed = options.seed;
  Siege siege(target, options, report);
  SocketClient first(target.port, target.patience);
  first.get("/health");  // its connection has a thread now
  const ProcessFacts before = process_facts(target.process);
  report.resident_start_bytes = before.resident_bytes;
  const auto begin = Clock::now();
  std::vector<std::thread> senders, slow;
  for (uint32_t i = 0; i < options.n_slow; ++i)
    slow.emplace_back([&siege, i] { siege.send_slowly(i); });
  std::atomic<bool> is_lost = false;
  for (uint32_t i = 0; i < options.n_threads; ++i)
    senders.emplace_back([&siege, &is_lost] {
      try {
        siege.send_cases();
      } catch (const Error&) {
        is_lost = true;  // the process can be looked at no more
      }
    });
  for (std::thread& sender : senders) sender.join();
  siege.end();
  for (std::thread& client : slow) client.join();
  if (is_lost) throw Error(ErrorCode::kIo, "the server is gone");
  report.seconds = seconds_since(begin);
  first.close();
  if (const std::string left = wait_until_idle(target, before.n_threads); !left.empty())
    report.findings.add(left);
  siege.look();
  report.cpu_s = process_facts(target.process).cpu_s - before.cpu_s;
  return report;
}

std::string text_of(const HostileReport& r) {
  const auto mib = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::string out = fmt::format(
      "seed {}, {:.0f} s, {:.1f} s of the server's processor time\n"
      "| cases | good questions answered | slow clients ended | resident start / max / end, MiB |\n"
      "|---|---|---|---|\n| {} | {} | {} | {:.1f} / {:.1f} / {:.1f} |\n",
      r.seed, r.seconds, r.cpu_s, r.n_cases, r.n_good, r.n_slow_ended, mib(r.resident_start_bytes),
      mib(r.resident_max_bytes), mib(r.resident_end_bytes));
  out += "first replies:";
  for (const auto& [status, n] : r.statuses)
    out += status == 0 ? fmt::format(" none {}", n) : fmt::format(" {} {}", status, n);
  out += fmt::format("\n{} findings\n", r.findings.count());
  for (const std::string& line : r.findings.lines()) out += "  " + line + "\n";
  return out;
}

}  // namespace strata::soak

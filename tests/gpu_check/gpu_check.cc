// gpu_check - judges and times the kernels on a device: a card, or the emulator in a dry run.
//
//   gpu_check --facts                what the device is
//   gpu_check --cases [--small]      every case; a line per failure, a table of subjects
//   gpu_check --bench [--small]      rows of a Markdown table
//   gpu_check --list                 the subjects of both, one a line
//     --only SUBJECT   that subject alone          --after N   cases from number N + 1 on
//     --seconds S      it ends by then, whatever runs   --case-seconds S   of one case, 30
//     --module FILE    the CUDA module                  --device N
//
// Exit codes: 0 good, 1 a case or a bench failed, 2 usage, 4 no device, 5 it had to stop: a case
// took too long, crashed or lost the device. "stopped at N" then says behind which case to go on.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/seconds_since.h"
#include "tests/gpu_attn/under_test.h"
#include "tests/gpu_check/checked_device.h"
#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_check {
namespace {

enum ExitCode : int { kGood, kFailed, kUsage, kNoDevice = 4, kStopped = 5 };

struct Bench {
  const char* subject;
  void (*run)(gpu_bench::GpuBench&);
};

constexpr Bench kBenches[] = {
    {"rows", gpu_bench::bench_rows},       {"attend", gpu_bench::bench_attend},
    {"linear", gpu_bench::bench_linear},   {"wide_linear", gpu_bench::bench_wide_linear},
    {"prefill", gpu_bench::bench_prefill}, {"link", gpu_bench::bench_link},
    {"scan", gpu_bench::bench_scan},       {"model", gpu_bench::bench_model},
};

/// "attend" of "attend/f16/1000 positions".
std::string subject_of(const gpu_test::GpuCase& one) {
  return one.name.substr(0, one.name.find('/'));
}

/// Cases by subject, in the order of all_cases(); those of `only`, where it is not empty.
std::map<std::string, std::vector<gpu_test::GpuCase>> cases_by_subject(const std::string& only) {
  std::map<std::string, std::vector<gpu_test::GpuCase>> subjects;
  for (const gpu_test::GpuCase& one : gpu_test::all_cases()) {
    if (only.empty() || only == subject_of(one)) subjects[subject_of(one)].push_back(one);
  }
  return subjects;
}

struct Options {
  std::string mode;
  std::string only;
  std::string module;
  bool is_small = false;
  uint32_t after = 0;
  uint32_t seconds = 0;
  uint32_t case_seconds = 30;  // one that takes longer hangs
  uint32_t device = 0;
};

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  (void)std::fflush(stdout);
}

// What runs now, for the handler of signals.
char running[256] = "the start";
char running_number[16] = "0";
char tally_line[160] = "";  // of the subject's cases before it

void now_running(const std::string& what, uint32_t number) {
  (void)std::snprintf(running, sizeof running, "%s", what.c_str());
  (void)std::snprintf(running_number, sizeof running_number, "%u", number);
}

/// Ends the process from wherever it is, a wait for the driver included.
void stop(int signal) {
  const char* why = signal == SIGALRM ? ": the time is over\n" : ": crashed\n";
  for (const char* part :
       {"FAIL ", static_cast<const char*>(running), why, static_cast<const char*>(tally_line),
        "stopped at ", static_cast<const char*>(running_number), "\n"})
    (void)!write(STDOUT_FILENO, part, std::strlen(part));
  _exit(kStopped);
}

/// The time that --seconds leaves.
class Deadline {
 public:
  explicit Deadline(uint32_t seconds) : seconds_(seconds), begin_(Clock::now()) {
    for (const int signal : {SIGALRM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE})
      (void)std::signal(signal, stop);
  }
  void begin_part(uint32_t seconds_max) const {
    const double gone = seconds_since(begin_);
    const double left = seconds_ == 0 ? seconds_max : std::max(seconds_ - gone, 1.0);
    alarm(std::min(seconds_max, static_cast<uint32_t>(left)));
  }

 private:
  using Clock = std::chrono::steady_clock;
  uint32_t seconds_;
  Clock::time_point begin_;
};

/// The device; closed at the end.
class Checked {
 public:
  Checked(const DeviceTable& device_table, uint32_t ordinal) : table(device_table) {
    error = table.open(ordinal, &device);
  }
  ~Checked() {
    if (error == 0) table.close(device);
  }
  Checked(const Checked&) = delete;
  Checked& operator=(const Checked&) = delete;

  /// Whether it answers no more.
  bool is_lost() const {
    DeviceStream* stream = nullptr;
    int last = table.create_stream(device, &stream);
    if (last == 0) last = table.wait_stream(stream);
    table.destroy_stream(stream);
    return last != 0 && table.status(last) != DeviceStatus::kOutOfMemory;
  }

  const DeviceTable& table;
  Device* device = nullptr;
  int error = 0;
};

int print_facts(const Checked& checked) {
  DeviceFacts facts{};
  const int error = checked.table.facts(checked.device, &facts);
  if (error != 0) {
    say(std::string("no facts: ") + checked.table.message(error));
    return kFailed;
  }
  char line[320];
  (void)std::snprintf(
      line, sizeof line,
      "device %s, compute capability %.1f, %u multiprocessors at %u MHz, %.1f of %.1f "
      "GiB free, second cache %.1f MiB, %.0f KiB of shared memory per block",
      facts.name, facts.capability / 10.0, facts.n_multiprocessors, facts.clock_khz / 1000,
      static_cast<double>(facts.free_bytes) / (1 << 30),
      static_cast<double>(facts.memory_bytes) / (1 << 30),
      static_cast<double>(facts.l2_bytes) / (1 << 20),
      static_cast<double>(facts.shared_bytes_per_block) / 1024);
  say(line);
  return kGood;
}

struct Tally {
  uint32_t n_cases = 0;
  uint32_t n_failed = 0;
  double worst = 0;
  double seconds = 0;
};

void write_tally(const std::string& subject, const Tally& tally) {
  (void)std::snprintf(tally_line, sizeof tally_line,
                      "cases %-12s %4u run, %u failed, worst %.3f of its tolerance, %.1f s\n",
                      subject.c_str(), tally.n_cases, tally.n_failed, tally.worst, tally.seconds);
}

/// Empty where the case holds.
std::string failure_of(const Checked& checked, const gpu_test::GpuCase& one, Tally& tally) {
  gpu_test::CaseReport report;
  try {
    gpu_test::UnderTest under_test(checked.table, checked.device);
    one.run(under_test, report);
  } catch (const std::exception& error) {
    return error.what();
  }
  tally.worst = std::max(tally.worst, report.worst());
  if (!report.failure().empty()) return report.failure();
  return report.n_compared() == 0 ? "it compared nothing" : "";
}

/// Runs the cases of a subject from `number` + 1 on; `number` ends at the last. kStopped where that
/// one lost the device.
int run_subject(const Checked& checked, const Options& options, const Deadline& deadline,
                const std::string& subject, const std::vector<gpu_test::GpuCase>& cases,
                uint32_t& number) {
  using Clock = std::chrono::steady_clock;
  const uint32_t before = number;
  Tally tally;
  for (const gpu_test::GpuCase& one : cases) {
    if ((options.is_small && !one.is_small) || ++number <= options.after) continue;
    write_tally(subject, tally);
    now_running(one.name, number);
    deadline.begin_part(options.case_seconds);
    const auto begin = Clock::now();
    const std::string failure = failure_of(checked, one, tally);
    tally.seconds += seconds_since(begin);
    ++tally.n_cases;
    if (failure.empty()) continue;
    ++tally.n_failed;
    say("FAIL " + one.name + ": " + failure);
    if (checked.is_lost()) break;
  }
  write_tally(subject, tally);
  std::printf("%s", tally_line);
  if (number == before) say("FAIL " + subject + ": it has no cases");
  if (tally.n_failed > 0 && checked.is_lost()) return kStopped;
  return tally.n_failed == 0 && number > before ? kGood : kFailed;
}

int run_cases(const Checked& checked, const Options& options, const Deadline& deadline) {
  int code = kGood;
  uint32_t number = 0;
  for (const auto& [subject, cases] : cases_by_subject(options.only)) {
    const int found = run_subject(checked, options, deadline, subject, cases, number);
    if (found != kGood) code = found;
    if (found != kStopped) continue;
    say("stopped at " + std::to_string(number));
    break;
  }
  return code;
}

int run_benches(const Checked& checked, const Options& options, const Deadline& deadline) {
  int code = kGood;
  for (const Bench& one : kBenches) {
    if (!options.only.empty() && options.only != one.subject) continue;
    now_running(std::string("bench ") + one.subject, 0);
    deadline.begin_part(options.seconds == 0 ? 3600 : options.seconds);
    try {
      gpu_bench::GpuBench bench(checked.table, checked.device, options.is_small);
      char line[160];
      (void)std::snprintf(
          line, sizeof line,
          "ceilings: copy %.1f GB/s (read and written), link %.2f GB/s, tensor %.1f TFLOP/s",
          bench.copy_bytes_per_s() / 1e9, bench.link_bytes_per_s() / 1e9,
          bench.tensor_flop_per_s() / 1e12);
      say(line);
      say(gpu_bench::bench_head());
      one.run(bench);
    } catch (const std::exception& error) {
      say(std::string("FAIL bench ") + one.subject + ": " + error.what());
      code = kFailed;
      if (checked.is_lost()) return kStopped;
    }
  }
  return code;
}

int list_subjects() {
  for (const auto& [subject, cases] : cases_by_subject("")) say(subject + " cases");
  for (const Bench& one : kBenches) say(std::string(one.subject) + " bench");
  return kGood;
}

bool read_number(const char* text, uint32_t& number) {
  char* end = nullptr;
  const unsigned long value = std::strtoul(text, &end, 10);
  number = static_cast<uint32_t>(value);
  return end != text && *end == '\0' && value < 1000000;
}

bool read_options(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (word == "--facts" || word == "--cases" || word == "--bench" || word == "--list") {
      if (!options.mode.empty()) return false;
      options.mode = word;
      continue;
    }
    if (word == "--small") {
      options.is_small = true;
      continue;
    }
    if (value == nullptr) return false;
    ++i;
    bool is_good = true;
    if (word == "--only")
      options.only = value;
    else if (word == "--module")
      options.module = value;
    else if (word == "--after")
      is_good = read_number(value, options.after);
    else if (word == "--seconds")
      is_good = read_number(value, options.seconds);
    else if (word == "--case-seconds")
      is_good = read_number(value, options.case_seconds);
    else if (word == "--device")
      is_good = read_number(value, options.device);
    else
      return false;
    if (!is_good) return false;
  }
  const auto is_named = [&](const Bench& one) { return options.only == one.subject; };
  const bool is_known = options.mode == "--bench" ? std::ranges::any_of(kBenches, is_named)
                                                  : !cases_by_subject(options.only).empty();
  return !options.mode.empty() && (options.only.empty() || is_known);
}

int check(const Options& options) {
  if (options.mode == "--list") return list_subjects();
  const Deadline deadline(options.seconds);
  deadline.begin_part(60);  // the driver's start
  const CheckedDevice found = checked_device(options.module);
  if (found.table == nullptr) {
    say(found.reason);
    return kNoDevice;
  }
  const Checked checked(*found.table, options.device);
  if (checked.error != 0) {
    say(std::string("the device cannot be opened: ") + found.table->message(checked.error));
    return kNoDevice;
  }
  if (options.mode == "--facts") return print_facts(checked);
  return options.mode == "--cases" ? run_cases(checked, options, deadline)
                                   : run_benches(checked, options, deadline);
}

}  // namespace
}  // namespace strata::gpu_check

int main(int argc, char** argv) {
  strata::gpu_check::Options options;
  if (!strata::gpu_check::read_options(argc, argv, options)) {
    (void)std::fprintf(
        stderr,
        "usage: gpu_check --facts | --list | --cases | --bench [--small] [--only SUBJECT] "
        "[--after N] [--seconds S] [--case-seconds S] [--module FILE] [--device N]\n");
    return strata::gpu_check::kUsage;
  }
  return strata::gpu_check::check(options);
}

#include "tools/cli/trace_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/step_plan.h"
#include "tools/cli/notices.h"

namespace strata::cli {
namespace {

constexpr uint32_t kStepsProcess = 1, kDiskProcess = 2;
constexpr uint32_t kStepsThread = 1;
constexpr size_t kPieceBytes = 1 << 16;

bool is_transfer(const TraceEvent& event) {
  return event.kind == TraceKind::kRead || event.kind == TraceKind::kWrite;
}

uint32_t process_of(const TraceEvent& event) {
  return is_transfer(event) ? kDiskProcess : kStepsProcess;
}

uint32_t thread_of(const TraceEvent& event) {
  return is_transfer(event) ? event.index + 1 : kStepsThread;
}

/// Microseconds with the nanoseconds behind the point.
std::string microseconds(std::chrono::nanoseconds time) {
  return fmt::format("{}.{:03}", time.count() / 1000, time.count() % 1000);
}

/// In front of others, where it is of one.
std::string layer_argument(uint32_t layer) {
  return layer == kNoLayer ? "" : fmt::format(R"("layer":{},)", layer);
}

std::string arguments_of(const TraceEvent& event) {
  switch (event.kind) {
    case TraceKind::kStep:
      return fmt::format(R"("rows":{},"first_pos":{})", event.index, event.detail);
    case TraceKind::kOperation:
      return layer_argument(event.index) +
             fmt::format(R"("bytes":{},"flop":{})", event.bytes, event.detail);
    case TraceKind::kWait:
      return "";
    case TraceKind::kRead:
    case TraceKind::kWrite:
      return layer_argument(event.layer) + fmt::format(R"("bytes":{},"offset":{},"ok":{})",
                                                       event.bytes, event.detail, event.is_ok);
  }
  return "";
}

const char* category_of(const TraceEvent& event) {
  switch (event.kind) {
    case TraceKind::kStep:
      return "step";
    case TraceKind::kOperation:
      return "operation";
    case TraceKind::kWait:
      return "wait";
    case TraceKind::kRead:
    case TraceKind::kWrite:
      return "transfer";
  }
  return "";
}

std::string metadata(const char* what, uint32_t process, uint32_t thread, const std::string& name) {
  return fmt::format(R"({{"name":"{}","ph":"M","pid":{},"tid":{},"args":{{"name":"{}"}}}})", what,
                     process, thread, name);
}

/// The names of what the events refer to, without a comma behind the last.
std::string names_of(const std::vector<TraceEvent>& events) {
  std::string text = metadata("process_name", kStepsProcess, kStepsThread, "steps") + ",\n" +
                     metadata("thread_name", kStepsProcess, kStepsThread, "operations and waits");
  std::set<uint32_t> threads;
  for (const TraceEvent& event : events)
    if (is_transfer(event)) threads.insert(thread_of(event));
  if (!threads.empty())
    text += ",\n" + metadata("process_name", kDiskProcess, *threads.begin(), "disk");
  for (const uint32_t thread : threads)
    text += ",\n" + metadata("thread_name", kDiskProcess, thread,
                             thread > kFirstWeightLane
                                 ? fmt::format("weights {}", thread - 1 - kFirstWeightLane)
                                 : fmt::format("staging frame {}", thread - 1));
  return text;
}

}  // namespace

void write_trace(const Trace& trace, AnswerSink& sink) {
  std::vector<TraceEvent> events = trace.events();
  // Whoever loads the file takes an event for a child of one that stands before it.
  std::ranges::sort(events, [](const TraceEvent& a, const TraceEvent& b) {
    return std::tuple(process_of(a), thread_of(a), a.begin, b.end, a.kind) <
           std::tuple(process_of(b), thread_of(b), b.begin, a.end, b.kind);
  });
  std::chrono::nanoseconds first = std::chrono::nanoseconds::max();
  for (const TraceEvent& event : events) first = std::min(first, event.begin);
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" + names_of(events);
  for (const TraceEvent& event : events) {
    fmt::format_to(std::back_inserter(text),
                   ",\n"
                   R"({{"name":"{}","cat":"{}","ph":"X","pid":{},"tid":{},"ts":{},"dur":{},)"
                   R"("args":{{{}}}}})",
                   event.name, category_of(event), process_of(event), thread_of(event),
                   microseconds(event.begin - first), microseconds(event.end - event.begin),
                   arguments_of(event));
    if (text.size() < kPieceBytes) continue;
    sink.write(text);
    text.clear();
  }
  sink.write(text + fmt::format("\n],\"otherData\":{{\"events\":{},\"dropped_events\":{}}}}}\n",
                                trace.n_held(), trace.n_dropped()));
}

int with_trace(const std::string& path, const std::function<int(Trace* trace)>& body) {
  if (path.empty()) return body(nullptr);
  if (path == "-")
    throw Error(ErrorCode::kUsage, "the answer has standard output to itself", "--trace",
                "name a file");
  AnswerSink sink = AnswerSink::open(path, "the trace");
  Trace trace;
  const auto finish = [&] {
    write_trace(trace, sink);
    sink.close();
    if (trace.n_dropped() > 0)
      notice(fmt::format("note: the trace holds the last {} events, {} earlier ones were dropped",
                         trace.n_held(), trace.n_dropped()));
  };
  int code = 0;
  try {
    code = body(&trace);
  } catch (...) {
    try {
      finish();
    } catch (const Error& error) {
      notice(fmt::format("note: {} [{}]", error.what(), error.where()));
    }
    throw;
  }
  finish();
  return code;
}

}  // namespace strata::cli

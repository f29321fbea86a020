// --trace: a file that chrome://tracing and Perfetto load, and that agrees with what was counted.
#include "tools/cli/trace_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "tests/tools/spilling_model.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::Outcome;
using testing::run_strata;
using testing::StrataProcess;
using testing::with;
using testing::without_json;
using std::chrono_literals::operator""us;

json parse_file(const std::string& path) {
  std::ifstream file(path);
  json parsed = json::parse(file, nullptr, false);
  EXPECT_TRUE(parsed.is_object() && parsed.contains("traceEvents")) << path;
  return parsed;
}

/// Microseconds of the format as whole nanoseconds: doubles that are added do not compare.
int64_t nanoseconds(const json& microseconds) {
  return std::llround(microseconds.get<double>() * 1000);
}

struct Span {
  int64_t begin, end;
};

/// The "X" events; checks on the way that each has what the format demands, that those of a thread
/// nest, and that every process and thread that they name has a name of its own.
std::vector<json> checked_events(const json& trace) {
  std::vector<json> events;
  std::set<std::pair<int, int>> named, used;
  std::map<std::pair<int, int>, std::vector<Span>> open;
  for (const json& event : trace["traceEvents"]) {
    const std::pair thread(event.value("pid", -1), event.value("tid", -1));
    if (event.value("ph", "") == "M") {
      EXPECT_FALSE(event["args"].value("name", "").empty()) << event;
      if (event.value("name", "") == "thread_name") named.insert(thread);
      continue;
    }
    EXPECT_EQ(event.value("ph", ""), "X") << event;
    EXPECT_FALSE(event.value("name", "").empty() || event.value("cat", "").empty()) << event;
    EXPECT_TRUE(event.value("args", json()).is_object()) << event;
    used.insert(thread);
    const int64_t begin = nanoseconds(event["ts"]), end = begin + nanoseconds(event["dur"]);
    EXPECT_GE(begin, 0) << event;
    EXPECT_GE(end, begin) << event;
    auto& around = open[thread];
    while (!around.empty() && around.back().end <= begin) around.pop_back();
    if (!around.empty()) {
      EXPECT_LE(around.back().begin, begin) << event;
      EXPECT_LE(end, around.back().end) << event;
    }
    around.push_back({begin, end});
    events.push_back(event);
  }
  EXPECT_TRUE(std::ranges::includes(named, used));
  return events;
}

class TraceFile : public testing::SpillingTest {
 protected:
  std::string path_ = folder_.path("trace.json");
};

TEST_F(TraceFile, AgreesWithWhatWasCounted) {
  const json answer =
      object_of(run_strata(spilling({"--trace", path_, "--io", "threads", "-n", "8"})));
  const json trace = parse_file(path_);
  EXPECT_EQ(trace["otherData"]["dropped_events"], 0);
  std::map<std::string, uint64_t> n, bytes;
  std::map<int, uint64_t> attended;  // by layer
  std::map<std::string, std::set<int>> layers;
  int64_t waited_ns = 0;
  for (const json& event : checked_events(trace)) {
    const std::string key = event.value("cat", "") + " " + event.value("name", "");
    ++n[key];
    bytes[key] += event["args"].value("bytes", uint64_t{0});
    if (event.value("cat", "") == "transfer") {
      EXPECT_TRUE(event["args"].value("ok", false)) << event;
      layers[event.value("name", "")].insert(event["args"].value("layer", -1));
    }
    if (event.value("name", "") == "attend") ++attended[event["args"].value("layer", -1)];
    if (event.value("cat", "") == "wait") waited_ns += nanoseconds(event["dur"]);
  }
  const json& nvme = answer["tiers"]["nvme"];
  EXPECT_EQ(bytes["transfer read"], nvme["read_bytes"]);
  // The last extents may still have been on their way when the answer was there.
  EXPECT_LE(bytes["transfer write"], nvme["written_bytes"]);
  EXPECT_GE(bytes["transfer write"], nvme["written_bytes"].get<uint64_t>() - kLayers * kPlaceBytes);
  // Counts are whole microseconds of each wait.
  const double stall_ms = nvme.value("stall_ms", 0.0), stalls = nvme.value("stalls", 0.0);
  EXPECT_NEAR(static_cast<double>(waited_ns) * 1e-6, stall_ms, 1e-3 * stalls + 1e-6);
  const uint64_t n_prompt = answer["usage"]["prompt_tokens"];
  const uint64_t n_steps = (n_prompt + 63) / 64 + 7;  // the first token comes with the last chunk
  EXPECT_EQ(n["step step"], n_steps);
  for (const char* of_layer :
       {"attn_norm", "qkv", "attend", "attn_output", "ffn_norm", "ffn_gate_up", "ffn_down"})
    EXPECT_EQ(n[std::string("operation ") + of_layer], n_steps * kLayers) << of_layer;
  EXPECT_EQ(n["operation load_weights"], 1u);
  EXPECT_EQ(bytes["operation load_weights"], answer["tiers"]["dram"]["weights_bytes"]);
  for (const char* of_step : {"embed", "logits"})
    EXPECT_GT(n[std::string("operation ") + of_step], 0u);
  for (uint32_t layer = 0; layer < kLayers; ++layer)
    EXPECT_EQ(attended[static_cast<int>(layer)], n_steps) << layer;
  for (const char* moved : {"read", "write"}) {
    EXPECT_EQ(layers[moved].size(), kLayers) << moved;
    EXPECT_EQ(*layers[moved].begin(), 0) << moved;
    EXPECT_EQ(*layers[moved].rbegin(), static_cast<int>(kLayers) - 1) << moved;
  }
  EXPECT_GT(bytes["operation qkv"], 0u);
}

TEST_F(TraceFile, ShowsTheLayersThatAreStreamed) {
  const Outcome refused = run_strata(with(in_memory(), {"--weights-dram", "1KiB"}));
  ASSERT_EQ(refused.exit_code, 3) << refused.out;
  const std::string remedy = json::parse(refused.out)["error"].value("remedy", "");
  const size_t at = remedy.find("--weights-dram ") + std::string("--weights-dram ").size();
  const std::string budget = remedy.substr(at, remedy.find_first_of(",) ", at) - at);
  const json answer = object_of(
      run_strata(with(in_memory(), {"--weights-dram", budget, "-n", "2", "--trace", path_})));
  std::set<int> layers;
  uint64_t n_steps = 0, n_taken = 0;
  for (const json& event : checked_events(parse_file(path_))) {
    n_steps += event.value("name", "") == "step";
    if (event.value("name", "") != "take_weights") continue;
    ++n_taken;
    layers.insert(event["args"].value("layer", -1));
  }
  EXPECT_GT(layers.size(), 1u);
  EXPECT_EQ(n_taken, n_steps * layers.size());
  EXPECT_GT(answer["tiers"]["nvme"].value("weights_read_bytes", uint64_t{0}), 0u);
}

TEST_F(TraceFile, ChangesNoToken) {
  EXPECT_EQ(tokens_of(run_strata(spilling({"--trace", path_}))), tokens_of(run_strata(spilling())));
}

TEST_F(TraceFile, IsWholeAfterCtrlC) {
  StrataProcess process(without_json(with(spilling({"--trace", path_}),
                                          {"-c", "32k", "-n", "-1", "--logit-bias", "3+99"})),
                        StrataProcess::Input::kNone);
  ASSERT_TRUE(process.wait_for_out("a"));
  process.interrupt();
  EXPECT_EQ(process.finish().exit_code, 130);
  EXPECT_GT(checked_events(parse_file(path_)).size(), kPromptLetters / 64 * kLayers * 7);
}

TEST_F(TraceFile, IsWholeAfterAnError) {
  EXPECT_EQ(run_strata(spilling({"--trace", path_, "-c", "512"})).exit_code, 3);
  EXPECT_TRUE(checked_events(parse_file(path_)).empty());
}

TEST_F(TraceFile, OfChatHoldsEveryTurn) {
  testing::Launch launch;
  launch.arguments = {"chat", "-m", model_, "-n", "2", "--ignore-eos", "--trace", path_};
  launch.has_input = true;
  launch.input = "abc\nabc\n";
  EXPECT_EQ(run_strata(launch).exit_code, 0);
  uint64_t n_steps = 0;
  for (const json& event : checked_events(parse_file(path_)))
    n_steps += event.value("name", "") == "step";
  EXPECT_EQ(n_steps, 4u);
}

TEST_F(TraceFile, ThatCannotBeWrittenIsRefusedBeforeLoading) {
  const std::string absent = folder_.path("absent/trace.json");
  expect_refused(without_json(spilling({"--trace", absent})),
                 {1, "io", {"cannot write the trace: No such file"}, absent, "its folder exists"});
  expect_refused(without_json(spilling({"--trace", folder_.path("")})),
                 {1, "io", {"cannot write the trace: Is a directory"}, folder_.path(""), "a file"});
  expect_refused(without_json(spilling({"--trace", "-"})),
                 {2, "usage", {"standard output"}, "--trace", "name a file"});
}

TEST_F(TraceFile, ThatDoesNotFitTheDiskIsAnErrorAfterTheAnswer) {
  const Outcome outcome = run_strata(without_json(spilling({"--trace", "/dev/full"})));
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_GT(outcome.out.size(), 20u);
  EXPECT_NE(outcome.err.find("error: cannot write the trace: No space left"), std::string::npos);
}

TEST_F(TraceFile, SaysWhatWasDropped) {
  Trace trace(3);
  const auto add = [&](const char* name, TraceKind kind, auto begin, auto end) {
    trace.add({.kind = kind, .name = name, .begin = begin, .end = end});
  };
  add("gone", TraceKind::kOperation, 1us, 2us);
  add("inner", TraceKind::kOperation, 1001us, 1002us);
  add("outer", TraceKind::kStep, 1001us, 1004us);
  add("read", TraceKind::kRead, 1000us, std::chrono::nanoseconds(1000001));
  AnswerSink sink = AnswerSink::open(path_);
  write_trace(trace, sink);
  sink.close();
  const json parsed = parse_file(path_);
  EXPECT_EQ(parsed["otherData"], json({{"events", 3}, {"dropped_events", 1}}));
  const std::vector<json> events = checked_events(parsed);
  ASSERT_EQ(events.size(), 3u);
  // The outer one first, although it ended last.
  EXPECT_EQ(events[0]["name"], "outer");
  EXPECT_EQ(events[0]["ts"], 1.0);
  EXPECT_EQ(events[1]["name"], "inner");
  EXPECT_EQ(events[2]["dur"], 0.001);
}

}  // namespace
}  // namespace strata::cli

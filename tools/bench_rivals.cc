// tools/bench_rivals.cc - methods of papers that do not fit index/selector.h beside those of
// index/, on the keys, values and queries of a real model: one row for each method and budget, as
// Markdown (docs/adr/0022-methods-measured-on-traces.md).
//
//   strata eval -m MODEL -f TEXT --record TRACE --positions 7168 --steps 7136 --layers 1,6,...
//   bench_rivals TRACE
//
// A trace of fewer steps lacks queries that InfLLM and EM-LLM learn from; their rows say so.
#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "tools/rivals/block_rivals.h"
#include "tools/rivals/events.h"
#include "tools/rivals/key_search.h"
#include "tools/rivals/position_rivals.h"
#include "tools/rivals/representatives.h"
#include "tools/rivals/sampled_keys.h"

namespace strata::rivals {
namespace {

using index::Budget;
using index::Method;
using Make = std::function<std::unique_ptr<Rival>()>;

constexpr double kCodeError = 0.37;  // of rabitq's scores of single keys, docs/adr/0011

struct Options {
  std::string trace;
  uint32_t n_judged = 64;
  std::vector<uint32_t> budgets = {1024, 512, 320};
};

Verdict print_row(const TraceCase& on, const std::string& name, Rival& rival) {
  const Verdict v = judge(on, rival);
  std::printf(
      "| %s | %.0f, %.0f | %.0f | %.1f %% | %.1f | %.1f | %.3f, %.3f | %.4f, %.4f, %.3f |\n",
      name.c_str(), v.positions, v.read, v.step_bytes / 1024, 100 * v.blocks_share, v.bytes.kept,
      v.bytes.read, v.found_mean, v.found_p10, v.error_median, v.error_mean, v.error_p99);
  std::fflush(stdout);
  return v;
}

/// What refuses the trace has a row that says why.
template <class Print>
void print_or_say_why(const std::string& name, const Print& print) {
  try {
    print();
  } catch (const Error& error) {
    std::printf("| %s | %s | | | | | | |\n", name.c_str(), error.what());
  }
}

void print_made(const TraceCase& on, const std::string& name, const Make& make) {
  print_or_say_why(name, [&] { print_row(on, name, *make()); });
}

class Bench {
 public:
  Bench(const eval::AttentionTrace& trace, uint32_t n_judged)
      : kernels_(*cpu_attn::available_kernels().back()), on_(trace, n_judged) {}

  void methods_of_index(uint32_t budget) {
    for (const auto& method : index::method_names())
      print_made(on_, method.name, [&] { return of_index(method.method, tokens(budget)); });
    print_made(on_, "best positions of a KV head",
               [&] { return std::make_unique<BestPositions>(on_, budget, true); });
    print_made(on_, fmt::format("of a KV head, scores that err {} nat", kCodeError),
               [&] { return std::make_unique<BestPositions>(on_, budget, true, kCodeError); });
    print_made(on_, "best positions of a query head",
               [&] { return std::make_unique<BestPositions>(on_, budget, false); });
  }

  void methods_of_papers(uint32_t budget) {
    const auto representatives = [&](const std::string& name, const RepresentativeRule& rule) {
      print_made(on_, name, [&] {
        return std::make_unique<RepresentativeRival>(on_, kernels_, tokens(budget), rule);
      });
    };
    representatives("InfLLM: 128, one choice for a layer", {.is_of_layer = true});
    representatives("InfLLM: 128", {});
    representatives("InfLLM: 32", {.block_positions = 32});
    for (const bool is_exact : {false, true})
      print_made(on_, is_exact ? "EM-LLM: events by exact weights" : "EM-LLM: events",
                 [&] { return std::make_unique<EventRival>(on_, budget, is_exact); });
    for (const uint32_t every : {8u, 32u})
      print_made(on_, fmt::format("RecycledAttention: every {} steps", every), [&] {
        return std::make_unique<RepeatedChoice>(
            on_, std::make_unique<BestPositions>(on_, budget, true), every, true);
      });
    for (const uint32_t every : {4u, 16u})
      print_made(on_, fmt::format("rabitq chosen every {} steps", every), [&] {
        return std::make_unique<RepeatedChoice>(on_, of_index(Method::kRabitq, tokens(budget)),
                                                every, false);
      });
  }

  void budgets_of_infinigen() {
    for (const double nats : {4.0, 5.0})
      for (const Method method : {Method::kRabitq, Method::kOracle})
        print_made(on_,
                   fmt::format("InfiniGen's budget, {} nat: {}", nats,
                               method == Method::kRabitq ? "rabitq" : "oracle"),
                   [&] {
                     return of_index(method, {Budget::Kind::kLogGap, nats});
                   });
  }

  /// And methods of index/ at the budget that was drawn.
  void magic_pig() {
    for (const HashShape shape : {HashShape{10, 150}, HashShape{8, 75}}) {
      SampledKeys sampled(on_, shape, 1);
      const auto n = static_cast<uint32_t>(
          print_row(on_, fmt::format("MagicPIG: {} x {}", shape.n_planes, shape.n_tables), sampled)
              .positions);
      for (const char* name : {"quest", "pq", "rabitq", "rabitq+tail", "oracle"})
        print_made(on_, fmt::format("{} at {}", name, n),
                   [&] { return of_index(index::find_method(name), tokens(n)); });
    }
  }

  void retrieval_attention(const std::vector<uint32_t>& budgets) {
    if (!KeySearch::is_there()) {
      std::printf("| RetrievalAttention | FAISS is not installed (libfaiss-dev) | | | | | | |\n");
      return;
    }
    std::string visits;
    struct Shape {
      const char* factory;
      std::vector<uint32_t> explored;
    };
    for (const Shape& shape : {Shape{"HNSW16,Flat", {128, 512}}, Shape{"IVF128,Flat", {8, 32}}})
      print_or_say_why(shape.factory, [&] {
        KeySearch search(on_, shape.factory);
        for (const uint32_t n_explored : shape.explored) {
          for (const uint32_t budget : budgets) {
            search.search_by(n_explored, budget);
            print_row(on_, fmt::format("{}, {} explored, {}", shape.factory, n_explored, budget),
                      search);
          }
          const VisitFigures by_queries = search.visits(false), by_keys = search.visits(true);
          visits += fmt::format("| {}, {} | {:.1f} %, {:.3f} | {:.1f} %, {:.3f} |\n", shape.factory,
                                n_explored, 100 * by_queries.visited, by_queries.recall,
                                100 * by_keys.visited, by_keys.recall);
        }
      });
    std::printf(
        "\n| 100 keys asked for: visited, found | queries | keys as queries |\n"
        "|---|---|---|\n%s",
        visits.c_str());
  }

  const TraceCase& on() const { return on_; }

 private:
  static Budget tokens(uint32_t budget) { return {Budget::Kind::kTokens, 1.0 * budget}; }
  std::unique_ptr<Rival> of_index(Method method, Budget budget) const {
    return std::make_unique<MethodRival>(on_, kernels_, method, budget);
  }

  const KernelTable& kernels_;
  TraceCase on_;
};

void print_heads() {
  std::printf(
      "\n| method | positions attended, read | KiB a step | blocks touched | bytes kept a "
      "candidate | "
      "read | weight found: mean, p10 | error of outputs: median, mean, p99 "
      "|\n|---|---|---|---|---|---|---|---|\n");
}

void run(const Options& options) {
  const eval::AttentionTrace trace = eval::read_trace(options.trace);
  Bench bench(trace, options.n_judged);
  std::printf("%s: %u streams of %u positions, head_dim %u; %u steps of %u queries judged\n",
              options.trace.c_str(), trace.n_streams(), trace.n_positions, trace.head_dim,
              options.n_judged, trace.group);
  for (const uint32_t budget : options.budgets) {
    std::printf("\nA budget of %u positions:\n", budget);
    print_heads();
    bench.methods_of_index(budget);
    bench.methods_of_papers(budget);
  }
  std::printf("\nBudgets of their own:\n");
  print_heads();
  bench.budgets_of_infinigen();
  bench.magic_pig();
  std::printf("\nIndexes of FAISS:\n");
  print_heads();
  bench.retrieval_attention(options.budgets);
}

}  // namespace
}  // namespace strata::rivals

int main(int argc, char** argv) {
  strata::rivals::Options options;
  CLI::App app("Judges methods of papers beside those of index/ on a recorded trace");
  app.add_option("trace", options.trace, "what `strata eval --record` wrote")->required();
  app.add_option("--judged", options.n_judged, "steps at the trace's end that are judged");
  app.add_option("--budgets", options.budgets, "positions that a query head attends");
  CLI11_PARSE(app, argc, argv);
  try {
    strata::rivals::run(options);
  } catch (const strata::Error& error) {
    std::fprintf(stderr, "bench_rivals: %s [%s]\n", error.what(), error.where().c_str());
    return 1;
  }
  return 0;
}

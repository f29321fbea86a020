// tools/cli/bench_report.h - results of `bench` in the forms of llama-bench: a Markdown table, CSV,
// JSON, JSON lines. Keys are llama-bench's where they mean the same; the rest is what a time
// needs beside it to say something.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tools/cli/answer_sink.h"
#include "tools/cli/bench_prediction.h"
#include "tools/cli/bench_records.h"
#include "tools/cli/bench_runner.h"
#include "tools/cli/recompute_split.h"

namespace strata::cli {

/// What holds for every test of a run.
struct BenchSubject {
  std::string model_filename;
  std::string model_type;   // "llama 134.5 M Q4_1"
  uint64_t model_size = 0;  // bytes of all tensors
  uint64_t model_n_params = 0;
  uint32_t n_batch = 0;
  uint32_t n_threads = 0;
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  bool is_spilling = false;    // K and V that DRAM does not hold are on disk
  uint64_t kv_dram_bytes = 0;  // of K and V at most
  DepthFill fill = DepthFill::kPrefill;
  std::string attn_method, attn_budget;  // of retrieval; empty = attention is exact
  uint64_t kv_position_bytes = 0;        // of a KV head of a layer
  uint64_t index_budget_bytes = 0;
  RecomputeCost recompute;          // of the model
  std::string device;               // "cpu avx512", "cuda:0 (NVIDIA GeForce RTX 3060)"
  bool is_on_device = false;        // CUDA computes
  std::string rates_text;           // what predictions are priced with
  uint64_t memory_limit_bytes = 0;  // what the process may hold at most: weights, KV, 200 MB
  bool by_layer = false;            // attribution, in the table
  bool reads_ahead = true, keeps_blocks = true;  // false: an ablation, which the test's name says
};

const char* fill_name(DepthFill fill);  // "prefill", "random"

/// The keys that every result of a run has.
nlohmann::ordered_json subject_json(const BenchSubject& subject);
/// The object of one test.
nlohmann::ordered_json bench_json(const BenchSubject& subject, const BenchResult& result);

class BenchReport {
 public:
  /// `format` is a value of --output-format.
  /// scales: whether to say at the end what more threads brought each test.
  BenchReport(AnswerSink& sink, std::string format, bool scales = false);

  /// What holds for the results that follow.
  void begin(BenchSubject subject) { subject_ = std::move(subject); }
  /// Rows of md are printed at once, the others as BenchRecords does.
  void add(const BenchResult& result, const BenchPrediction& prediction);
  /// Also prints predictions, where rates were measured, stages, and what threads brought, under
  /// the table of md.
  void finish();

 private:
  void add_row(const BenchResult& result, const BenchPrediction& prediction);
  std::string test_text(const BenchTest& test) const;
  std::string index_line(const BenchResult& result) const;
  std::string scaling_lines() const;

  AnswerSink& sink_;
  std::string format_;
  bool scales_;
  BenchRecords records_;
  BenchSubject subject_;
  bool has_header_ = false;
  std::string predictions_, notes_;  // what stands under the table of md
  struct TestRates {
    std::string test;
    std::vector<std::pair<uint32_t, double>> of_threads;  // their number, tokens/s
  };
  std::vector<TestRates> rates_;  // in the order of the tests
};

}  // namespace strata::cli

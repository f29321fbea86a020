// tools/cli/bench_setup.h - what every bench of a model begins and ends with.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "engine/engine.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/bench_report.h"
#include "tools/cli/command_line.h"

namespace strata::cli {

inline constexpr uint64_t kBenchWorkingBytes = 200'000'000;  // stated, beside weights and KV

/// md, csv, json or jsonl.
std::string bench_format(const Settings& settings);
BenchSubject bench_subject(const engine::Engine& engine, const Settings& settings);
/// Reads the weights, with progress. Errors: those of Engine::load; kCancelled.
void load_for_bench(engine::Engine& engine);
/// kBenchWorkingBytes, or what steps on a device and its driver take, where that is more.
uint64_t bench_working_bytes(const engine::Engine& engine);
/// The process's peak beside what it may hold, on standard error.
void say_memory(uint64_t weight_bytes, uint64_t kv_bytes, uint64_t working_bytes);

/// Refuses what a bench of the disk, --`flag`, has no use for, where the command itself says it: a
/// config file may well hold the tests of other benches. Errors: kUsage.
void check_disk_bench(const Command& command, std::string_view flag);
/// What -d says, or 32,768 tokens, or the model's own context where that is less. Errors: kUsage
/// below n_min and beyond what the model was trained for, those of reading its head.
uint32_t disk_bench_depth(const Command& command, std::string_view flag, uint32_t n_min);
/// Says where the depth holds random K and V, and where it goes beyond what the model was trained
/// for.
void say_disk_bench_depth(const engine::Engine& engine, const BenchSubject& subject,
                          uint32_t n_depth);
/// Shows positions as they are read, a line for each filling.
std::function<void(uint64_t done, uint64_t total)> depth_progress();

/// `bench --tiers` (bench_tiers_verb.cc). Returns the exit code.
int run_tier_bench(const Command& command, AnswerSink& sink);
/// `bench --reopen` (bench_reopen_verb.cc), and what it starts (reopened.cc). Return the exit code.
int run_reopen_bench(const Command& command, AnswerSink& sink);
int run_reopened(const Command& command, AnswerSink& sink);
/// `bench --validate-plans` (plan_trials_verb.cc). Returns the exit code.
int run_plan_trials(const Command& command, AnswerSink& sink);
/// `bench --device` (bench_device_verb.cc). Returns the exit code.
int run_device_bench(const Command& command, AnswerSink& sink);

}  // namespace strata::cli

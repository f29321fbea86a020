// tools/cli/settings.h - every option's value, typed. Filled once (command_line.h) from the table
// in option_rows.cc, which holds names, defaults and ranges; nothing else reads an option.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace strata::cli {

struct Settings {
  // The model and its memory.
  std::string model;
  uint64_t ctx_size = 0;  // 0 = chosen
  uint64_t threads = 0;   // 0 = every CPU this process may use
  std::string cache_type_k, cache_type_v;
  uint64_t dram = 0;           // 0 = what is free
  uint64_t kv_dram = 0;        // 0 = what the context needs
  std::string nvme;            // resolved by command_line.h: a folder, or empty = no spill file
  bool nvme_is_named = false;  // by the user, not by default
  uint64_t nvme_budget = 0;    // 0 = half of what the disk has free
  std::string io;
  std::string device;            // as parse_device_choice() reads it
  std::string plan;              // a file that says what lives where; empty = the planner does
  uint64_t hbm = 0;              // of the device's memory; 0 = what is free there
  std::string cpu_share;         // of weights, K and V that it lacks: auto or 60%; 0 = none
  uint64_t weights_dram = 0;     // 0 = all of them
  std::vector<std::string> pin;  // REGEX=TIER
  int64_t n_gpu_layers = -1;     // -1 = as planned
  std::string kv_tier;           // "auto", or a tier
  std::string load;
  std::string attn;            // exact, or a method of retrieval
  std::string kv_budget;       // of a selected step: 2048, 2%, 0.98p
  std::string attn_layers;     // 0-1:dense,7:reuse; empty = the index chooses in all
  std::string kv_near;         // of its weight: 0 or 1%
  std::string sparse_prefill;  // off, on, or a position
  std::string draft_lookup;    // auto, off, or most tokens of a draft
  uint64_t batch_size = 0;
  bool batch_is_named = false;  // by the user, not by default
  std::string cpu_isa;
  bool allow_untrained = false;
  // RoPE overrides: negative or empty = the model's own.
  std::string rope_scaling;
  double rope_freq_base = 0, rope_factor = 0;
  uint64_t yarn_orig_ctx = 0;
  double yarn_ext_factor = 0, yarn_attn_factor = 0, yarn_beta_fast = 0, yarn_beta_slow = 0;
  // The request.
  std::string prompt;
  std::vector<std::string> file;
  std::string system;
  bool raw = false;
  int64_t predict = 0;  // -1 = until the model stops or the context is full
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::string json_schema;  // a file; empty = none
  // Sampling.
  int64_t seed = 0;  // -1 = drawn
  double temp = 0;
  uint64_t top_k = 0;
  double top_p = 0, min_p = 0, repeat_penalty = 0;
  uint64_t repeat_last_n = 0;
  double presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::string> logit_bias;
  // Tests of `bench`.
  std::vector<uint64_t> n_prompt, n_gen, n_depth;
  uint64_t repetitions = 0;
  std::string depth_fill;
  bool roofline = false;
  bool tiers = false;
  bool reopen = false;
  bool validate_plans = false;
  bool attribution = false;
  bool no_read_ahead = false, no_kept_blocks = false;  // ablations
  bool scaling = false;                                // fewer threads too
  uint64_t plans = 0;                                  // that it tries at each depth and budget
  uint64_t disk_rate = 0;   // bytes per second of reads at most; 0 = no limit
  std::string reopened;     // where --reopen has saved a context; empty = nothing is opened
  uint64_t device_ctx = 0;  // of a prediction; 0 = the model's
  // What `plan` says.
  bool allow_q8 = false;  // K and V in q8_0 are tried too
  bool explain = false;
  std::string save;                         // the file it is written to; empty = none
  double ttft_max_ms = 0, tpot_max_ms = 0;  // 0 = as it comes
  double min_rate = 0;                      // tokens per second; 0 = plan for ctx_size
  std::vector<std::string> what_if;         // PART=CHANGE
  bool show = false;                        // the profile that is kept
  bool if_stale = false;                    // measure only where that is not good any more
  bool force = false;                       // keep what was disturbed too
  // What `eval` judges.
  bool probe = false;
  bool gate = false;
  std::string methods, budgets;  // comma separated
  uint64_t last = 0;
  std::string kv_held;      // empty = all of K and V
  std::string profile_dir;  // set by command_line.h: of verdicts and machines; empty = none
  std::string html;         // empty = no page
  std::string record;       // empty = no trace of attention
  std::vector<uint64_t> layers;
  uint64_t positions = 0, steps = 0;  // of the trace
  std::string tasks;                  // comma separated; empty = none
  std::vector<uint64_t> lengths;
  uint64_t cases = 0, task_seed = 0;
  // Saved contexts.
  std::string session;      // empty = no name
  std::string session_dir;  // resolved by command_line.h: a folder, or empty = none is known
  uint64_t cache_budget = 0;
  bool no_cache = false;
  bool no_save = false;
  std::vector<std::string> name;  // of sessions or packs
  bool all = false;
  // The server.
  std::string host, socket;
  uint64_t port = 0;
  std::vector<std::string> api_key, cors_origin;
  std::string api_key_file;
  bool share_prefixes = false;  // between keys
  uint64_t parallel = 0, queue = 0;
  uint64_t timeout = 0, drain = 0;  // seconds
  std::string log;
  // Shells and manuals.
  std::string shell;
  std::vector<std::string> verb;  // the words of its name; empty = the program
  std::string pages;              // a folder; empty = one page is printed
  // Output.
  bool is_utf8 = false;  // set by command_line.h: the locale
  bool json = false;
  std::string output;
  std::string output_format;
  std::string trace;  // empty = none
  bool verbose = false;
  bool ids = false;
  bool special = false;
  bool check = false;
  // The command itself.
  std::string config;
  bool help = false;
  bool version = false;
};

}  // namespace strata::cli

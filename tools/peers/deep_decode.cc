// Decoding behind a long context by llama.cpp or a fork of it, in seconds instead of hours: takes
// llama-bench's options and gives its JSON, so that tools/peers.py runs it as a peer. llama-bench
// reads the whole depth anew for each run; this reads at most 1,024 tokens and has the engine load
// their K and V again and again, moved on to the positions that follow, until the depth is full.
// Every position is then attended as always: the time does not depend on what K and V hold.
//
// Part of no build: whoever compares compiles it against the engine that is compared, LLAMA being
// its source folder:
//   g++ -O2 -std=c++17 -I LLAMA/include -I LLAMA/ggml/include tools/peers/deep_decode.cc
//     -L LIBRARIES -lllama -lggml -lggml-base -o deep
// with -DOLD_API where llama.h has llama_kv_cache_seq_add, not llama_memory_seq_add (ik_llama.cpp).

#include <llama.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr int kPieceTokens = 1024;
constexpr int kBatch = 512;

#ifdef OLD_API
void move_sequence(llama_context* context, llama_pos by) {
  llama_kv_cache_seq_add(context, 1, -1, -1, by);
}
void join_sequences(llama_context* context) {
  llama_kv_cache_seq_cp(context, 1, 0, -1, -1);
  llama_kv_cache_seq_rm(context, 1, -1, -1);
}
llama_pos last_position(llama_context* context) { return llama_kv_cache_seq_pos_max(context, 0); }
void set_flash_attention(llama_context_params* params, bool on) { params->flash_attn = on; }
void set_one_cache(llama_context_params*) {}
void free_model(llama_model* model) { llama_free_model(model); }
constexpr auto get_size = llama_state_seq_get_size;
constexpr auto get_bytes = llama_state_seq_get_data;
constexpr auto set_bytes = llama_state_seq_set_data;
#else
void move_sequence(llama_context* context, llama_pos by) {
  llama_memory_seq_add(llama_get_memory(context), 1, -1, -1, by);
}
void join_sequences(llama_context* context) {
  llama_memory_seq_cp(llama_get_memory(context), 1, 0, -1, -1);
  llama_memory_seq_rm(llama_get_memory(context), 1, -1, -1);
}
llama_pos last_position(llama_context* context) {
  return llama_memory_seq_pos_max(llama_get_memory(context), 0);
}
void set_flash_attention(llama_context_params* params, bool on) {
  params->flash_attn_type = on ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
}
void set_one_cache(llama_context_params* params) { params->kv_unified = true; }
void free_model(llama_model* model) { llama_model_free(model); }
constexpr auto get_size = llama_state_seq_get_size_ext;
constexpr auto get_bytes = llama_state_seq_get_data_ext;
constexpr auto set_bytes = llama_state_seq_set_data_ext;
#endif

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "deep_decode: %s\n", why.c_str());
  std::exit(1);
}

void decode(llama_context* context, const std::vector<llama_token>& tokens, llama_pos begin) {
  llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = begin + static_cast<llama_pos>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = i + 1 == tokens.size();
  }
  batch.n_tokens = static_cast<int32_t>(tokens.size());
  if (llama_decode(context, batch) != 0)
    give_up("a step failed at position " + std::to_string(begin));
  llama_batch_free(batch);
}

void fill(llama_context* context, int depth) {
  const int n_piece = depth < kPieceTokens ? depth : kPieceTokens;
  std::vector<llama_token> piece(n_piece);
  for (int i = 0; i < n_piece; ++i) piece[i] = 100 + i * 37 % 1000;
  for (int begin = 0; begin < n_piece; begin += kBatch) {
    const int end = begin + kBatch < n_piece ? begin + kBatch : n_piece;
    decode(context, {piece.begin() + begin, piece.begin() + end}, begin);
  }
  std::vector<uint8_t> bytes(get_size(context, 0, 0));
  bytes.resize(get_bytes(context, bytes.data(), bytes.size(), 0, 0));
  for (int begin = n_piece; begin + n_piece <= depth; begin += n_piece) {
    if (set_bytes(context, bytes.data(), bytes.size(), 1, 0) == 0)
      give_up("K and V were not taken");
    move_sequence(context, begin);
    join_sequences(context);
  }
}

ggml_type type_of(const std::string& name) {
  if (name == "f16") return GGML_TYPE_F16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  give_up("K and V are f16 or q8_0, not " + name);
}

struct Options {
  std::string model, type_k = "f16", type_v = "f16";
  int n_gen = 32, depth = 0, n_threads = 2;
  bool flash = false;
};

/// Of what peers.py passes, -p 0, -r 1 and -o json say nothing here.
void take(Options* options, const std::string& option, const std::string& value) {
  if (option == "-m") {
    options->model = value;
  } else if (option == "-t") {
    options->n_threads = std::stoi(value);
  } else if (option == "-n") {
    options->n_gen = std::stoi(value);
  } else if (option == "-d" || option == "--n-depth") {
    options->depth = std::stoi(value);
  } else if (option == "-fa") {
    options->flash = value == "1";
  } else if (option == "-ctk") {
    options->type_k = value;
  } else if (option == "-ctv") {
    options->type_v = value;
  } else if (option + value != "-p0" && option + value != "-r1" && option != "-o") {
    give_up(option + " " + value + " is not understood");
  }
}

llama_context_params params_of(const Options& options) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(options.depth + options.n_gen + 8 + 255) / 256 * 256;
  params.n_batch = kBatch;
  params.n_ubatch = kBatch;
  params.n_seq_max = 2;
  params.n_threads = options.n_threads;
  params.n_threads_batch = options.n_threads;
  params.type_k = type_of(options.type_k);
  params.type_v = type_of(options.type_v);
  set_flash_attention(&params, options.flash);
  set_one_cache(&params);
  return params;
}

/// Tokens a second, behind a first one that makes or moves what is made or moved once.
double measure(llama_context* context, const Options& options) {
  if (options.depth > 0) fill(context, options.depth);
  const llama_pos begin = last_position(context) + 1;
  if (begin != options.depth) give_up("a depth above 1,024 is a multiple of it");
  decode(context, {100}, begin);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 1; i <= options.n_gen; ++i) decode(context, {100 + i}, begin + i);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return options.n_gen / seconds.count();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc == 2 && std::string(argv[1]) == "--help") {
    std::puts("-m MODEL -t N -n TOKENS -d, --n-depth DEPTH -fa 0|1 -ctk TYPE -ctv TYPE");
    return 0;
  }
  for (int i = 1; i + 1 < argc; i += 2) take(&options, argv[i], argv[i + 1]);
  const auto errors_alone = [](ggml_log_level level, const char* text, void*) {
    if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
  };
  llama_log_set(errors_alone, nullptr);
  llama_backend_init();
  llama_model* model =
      llama_model_load_from_file(options.model.c_str(), llama_model_default_params());
  if (model == nullptr) give_up("the model is not loaded");
  llama_context* context = llama_init_from_model(model, params_of(options));
  if (context == nullptr) give_up("no context");
  std::printf("[{\"n_depth\": %d, \"n_gen\": %d, \"avg_ts\": %.4f}]\n", options.depth,
              options.n_gen, measure(context, options));
  llama_free(context);
  free_model(model);
}

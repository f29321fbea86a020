// Decoding behind a long context by llama.cpp or a fork of it, in seconds instead of hours: takes llama-bench's options and gives
// its JSON, so that tools/peers.py runs it as a peer. llama-bench reads the whole depth anew for each run; this reads at most
// 1,024 tokens and has the engine load their K and V again and again, moved on to the positions that follow, until the depth is
// full. Every position of the depth is then attended as always: the time does not depend on what K and V hold.
//
// Part of no build: whoever compares compiles it against the engine that is compared, where LLAMA is its source folder:
//   g++ -O2 -std=c++17 -I LLAMA/include -I LLAMA/ggml/include tools/peer_deep.cc -L LIBRARIES -lllama -lggml -lggml-base -o deep
// and with -DOLD_API where llama.h has llama_kv_cache_seq_add instead of llama_memory_seq_add (ik_llama.cpp).

#include <llama.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int kPieceTokens = 1024;

#ifdef OLD_API
void move_sequence(llama_context* context, llama_pos by) { llama_kv_cache_seq_add(context, 1, -1, -1, by); }
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
void move_sequence(llama_context* context, llama_pos by) { llama_memory_seq_add(llama_get_memory(context), 1, -1, -1, by); }
void join_sequences(llama_context* context) {
  llama_memory_seq_cp(llama_get_memory(context), 1, 0, -1, -1);
  llama_memory_seq_rm(llama_get_memory(context), 1, -1, -1);
}
llama_pos last_position(llama_context* context) { return llama_memory_seq_pos_max(llama_get_memory(context), 0); }
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
  std::fprintf(stderr, "peer_deep: %s\n", why.c_str());
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
  if (llama_decode(context, batch) != 0) { give_up("a step failed at position " + std::to_string(begin)); }
  llama_batch_free(batch);
}

void fill(llama_context* context, int depth) {
  const int n_piece = depth < kPieceTokens ? depth : kPieceTokens;
  std::vector<llama_token> piece(n_piece);
  for (int i = 0; i < n_piece; ++i) { piece[i] = 100 + i * 37 % 1000; }
  for (int begin = 0; begin < n_piece; begin += 512) {
    const int end = begin + 512 < n_piece ? begin + 512 : n_piece;
    decode(context, {piece.begin() + begin, piece.begin() + end}, begin);
  }
  std::vector<uint8_t> bytes(get_size(context, 0, 0));
  bytes.resize(get_bytes(context, bytes.data(), bytes.size(), 0, 0));
  for (int begin = n_piece; begin + n_piece <= depth; begin += n_piece) {
    if (set_bytes(context, bytes.data(), bytes.size(), 1, 0) == 0) { give_up("K and V were not taken"); }
    move_sequence(context, begin);
    join_sequences(context);
  }
}

ggml_type type_of(const std::string& name) {
  if (name == "f16") { return GGML_TYPE_F16; }
  if (name == "q8_0") { return GGML_TYPE_Q8_0; }
  give_up("K and V are f16 or q8_0, not " + name);
}

}  // namespace

int main(int argc, char** argv) {
  std::string model_path, type_k = "f16", type_v = "f16";
  int n_gen = 32, depth = 0, n_threads = 2;
  bool flash = false;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--help") {
      std::puts("-m MODEL -t THREADS -n TOKENS -d, --n-depth DEPTH -fa 0|1 -ctk TYPE -ctv TYPE (-p 0, -r 1, -o json)");
      return 0;
    }
    if (i + 1 == argc) { give_up(option + " has no value"); }
    const std::string value = argv[++i];
    if (option == "-m") { model_path = value; }
    else if (option == "-t") { n_threads = std::stoi(value); }
    else if (option == "-n") { n_gen = std::stoi(value); }
    else if (option == "-d" || option == "--n-depth") { depth = std::stoi(value); }
    else if (option == "-fa") { flash = value == "1"; }
    else if (option == "-ctk") { type_k = value; }
    else if (option == "-ctv") { type_v = value; }
    else if (!((option == "-p" && value == "0") || (option == "-r" && value == "1") || option == "-o")) { give_up(option + " " + value); }
  }
  llama_log_set([](ggml_log_level level, const char* text, void*) { if (level == GGML_LOG_LEVEL_ERROR) { std::fputs(text, stderr); } },
                nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(model_path.c_str(), llama_model_default_params());
  if (model == nullptr) { give_up(model_path + " is not loaded"); }
  llama_context_params params = llama_context_default_params();
  params.n_ctx = (depth + n_gen + 8 + 255) / 256 * 256;
  params.n_batch = 512;
  params.n_ubatch = 512;
  params.n_seq_max = 2;
  params.n_threads = n_threads;
  params.n_threads_batch = n_threads;
  params.type_k = type_of(type_k);
  params.type_v = type_of(type_v);
  set_flash_attention(&params, flash);
  set_one_cache(&params);
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) { give_up("no context of " + std::to_string(params.n_ctx) + " tokens"); }
  if (depth > 0) { fill(context, depth); }
  const llama_pos begin = last_position(context) + 1;
  if (begin != depth) { give_up("the depth is " + std::to_string(begin) + ", not " + std::to_string(depth) + ": a multiple of 1,024"); }
  decode(context, {100}, begin);  // what is made or moved once
  const auto start = std::chrono::steady_clock::now();
  for (int i = 1; i <= n_gen; ++i) { decode(context, {100 + i}, begin + i); }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("[{\"n_depth\": %d, \"n_gen\": %d, \"avg_ts\": %.4f}]\n", depth, n_gen, n_gen / seconds);
  llama_free(context);
  free_model(model);
}

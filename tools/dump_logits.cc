// dump_logits MODEL IDS OUT [K_CODEC V_CODEC] - teacher-forced logits as raw f32 [n_tokens,
// vocab_size]. IDS is a text file of token ids. Why: to compare with another engine's logits over
// the same ids (docs/measurements.md).
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "engine/gguf/gguf_file.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/walk.h"

namespace {

using namespace strata;

constexpr uint32_t kChunk = 128;

KvCodec codec(const std::string& name) {
  if (name == "f16") return KvCodec::kF16;
  if (name == "q8_0") return KvCodec::kQ8_0;
  throw Error(ErrorCode::kUsage, "a codec is f16 or q8_0, found " + name);
}

void run(int argc, char** argv) {
  const auto file = engine::GgufFile::open(argv[1]);
  ThreadPool pool(std::max(1u, std::thread::hardware_concurrency()));
  const auto model = engine::Model::load(file, engine::read_model_spec(file), pool);
  std::vector<int32_t> ids;
  std::ifstream input(argv[2]);
  for (int32_t id = 0; input >> id;) {
    if (id < 0 || static_cast<uint32_t>(id) >= model.shape().vocab_size)
      throw Error(ErrorCode::kUsage, fmt::format("token {} is not in the vocabulary", id), argv[2]);
    ids.push_back(id);
  }
  if (ids.empty()) throw Error(ErrorCode::kUsage, "no token ids", argv[2]);
  engine::KvCacheOptions options{.k_codec = codec(argc > 4 ? argv[4] : "f16"),
                                 .v_codec = codec(argc > 5 ? argv[5] : "f16"),
                                 .chunk_rows = kChunk};
  options.budget_bytes = engine::kv_bytes_for_context(model.shape(), options.k_codec,
                                                      options.v_codec, ids.size(), kChunk);
  engine::KvCache cache(model.shape(), options);
  engine::Walk walk(model, cache, cpu_attn::choose_kernels(), pool, kChunk);
  auto sequence = cache.make_sequence();
  std::ofstream output(argv[3], std::ios::binary);
  for (size_t done = 0; done < ids.size();) {
    std::vector<engine::StepRow> rows;
    for (size_t i = done; i < std::min(ids.size(), done + kChunk); ++i)
      rows.push_back({&sequence, ids[i], true});
    walk.step(rows);
    for (uint32_t i = 0; i < rows.size(); ++i) {
      const auto logits = walk.logits(i);
      output.write(reinterpret_cast<const char*>(logits.data()),
                   static_cast<std::streamsize>(logits.size_bytes()));
    }
    done += rows.size();
  }
  output.close();
  if (!output) throw Error(ErrorCode::kIo, "cannot write", argv[3]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 6) {
    fmt::print(stderr, "usage: dump_logits MODEL IDS OUT [K_CODEC V_CODEC]\n");
    return 2;
  }
  try {
    run(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return exit_code(error.code());
  }
  return 0;
}

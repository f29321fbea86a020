#include "tools/eval/attention_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/half.h"
#include "engine/attention_probe.h"

namespace strata::eval {
namespace {

constexpr char kMagic[] = {'S', 'T', 'R', 'A', 'T', 'T', 'R', 'C'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kHeaderCounts = 7;           // with the version
constexpr uint32_t kMostOfAnything = 1u << 20;  // layers, heads, dimensions, positions

/// Keeps the queries of the layers that are recorded.
class QueryRecorder : public engine::AttentionProbe {
 public:
  explicit QueryRecorder(AttentionTrace& trace) : trace_(trace) {}
  void hear(const engine::ProbedHead& head) override {
    const auto layer = std::ranges::find(trace_.layers, head.layer);
    if (layer == trace_.layers.end()) return;
    const auto idx = static_cast<uint32_t>(layer - trace_.layers.begin());
    auto& queries = trace_.queries[idx * trace_.n_kv_heads + head.kv_head];
    for (const float value : head.q) queries.push_back(f32_to_f16(value));
  }

 private:
  AttentionTrace& trace_;
};

void check_layers(const ModelShape& shape, std::span<const uint64_t> layers) {
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorCode::kUsage, what, "--layers", "name layers whose attention is full");
  };
  if (layers.empty()) refuse("no layer is named");
  for (const uint64_t layer : layers) {
    if (layer >= shape.n_layers)
      refuse(fmt::format("wanted a layer below {}, found {}", shape.n_layers, layer));
    const LayerShape& of = shape.layers[layer];
    const LayerShape& first = shape.layers[layers.front()];
    if (of.window > 0) refuse(fmt::format("layer {} attends a window only", layer));
    if (of.n_kv_heads != first.n_kv_heads || of.n_heads != first.n_heads)
      refuse(fmt::format("layers {} and {} have different heads", layers.front(), layer));
  }
}

void check_sizes(const SplitRunner& runner, uint64_t n_tokens, uint32_t n_steps) {
  const KvLayout& layout = runner.cache().layout();
  if (layout.k_codec != KvCodec::kF16 || layout.v_codec != KvCodec::kF16)
    throw Error(ErrorCode::kUnsupported, "a trace holds K and V in f16", "--cache-type-k",
                "leave -ctk and -ctv out");
  if (n_tokens % kBlockPositions != 0 || n_tokens <= n_steps)
    throw Error(ErrorCode::kUsage,
                fmt::format("wanted a multiple of {} positions above {}, found {}", kBlockPositions,
                            n_steps, n_tokens),
                "--positions", "give another number, or a longer text");
}

template <class T>
void put(std::ofstream& file, const T* values, size_t n) {
  file.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(n * sizeof(T)));
}

/// Takes values from the front of a file's bytes.
class Bytes {
 public:
  Bytes(std::span<const char> bytes, std::string path) : left_(bytes), path_(std::move(path)) {}
  template <class T>
  void take(T* out, size_t n) {
    if (left_.size() / sizeof(T) < n)
      refuse(fmt::format("truncated: wanted {} bytes more, found {}", n * sizeof(T), left_.size()));
    std::memcpy(out, left_.data(), n * sizeof(T));
    left_ = left_.subspan(n * sizeof(T));
  }
  bool is_empty() const { return left_.empty(); }
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kBadFile, why, path_,
                "make the trace again with `strata eval --record`");
  }

 private:
  std::span<const char> left_;
  std::string path_;
};

}  // namespace

std::vector<float> AttentionTrace::query(uint32_t stream, uint32_t step) const {
  std::vector<float> values(uint64_t{group} * head_dim);
  const uint16_t* from = queries[stream].data() + step * values.size();
  std::transform(from, from + values.size(), values.begin(), f16_to_f32);
  return values;
}

AttentionTrace record_trace(SplitRunner& runner, std::span<const int32_t> tokens, uint32_t n_steps,
                            std::span<const uint64_t> layers) {
  engine::KvCache& cache = runner.cache();
  check_layers(cache.shape(), layers);
  check_sizes(runner, tokens.size(), n_steps);
  const LayerShape& of = cache.shape().layers[layers.front()];
  AttentionTrace trace{.n_kv_heads = of.n_kv_heads,
                       .group = of.n_heads / of.n_kv_heads,
                       .head_dim = cache.shape().head_dim,
                       .n_positions = static_cast<uint32_t>(tokens.size()),
                       .n_steps = n_steps,
                       .layers = {},
                       .blocks = {},
                       .queries = {}};
  for (const uint64_t layer : layers) trace.layers.push_back(static_cast<uint32_t>(layer));
  trace.blocks.resize(trace.n_streams());
  trace.queries.resize(trace.n_streams());

  // All of the context is chosen, so that every bit is that of exact attention; `recent` keeps no
  // index rows.
  const Contender everything{.method = index::Method::kRecent,
                             .rule = {.budget = {.kind = index::Budget::Kind::kShare, .value = 1}},
                             .method_name = "recent",
                             .budget_text = "100%"};
  runner.read(tokens.first(tokens.size() - n_steps));
  runner.use(&everything);
  engine::Sequence sequence = runner.start();
  QueryRecorder recorder(trace);
  {
    const ProbeScope scope(runner.walk(), &recorder);
    for (size_t i = tokens.size() - n_steps; i < tokens.size(); ++i)
      runner.feed(sequence, tokens.subspan(i, 1));
  }
  for (uint32_t stream = 0; stream < trace.n_streams(); ++stream)
    for (uint32_t pos = 0; pos < trace.n_positions; pos += kBlockPositions) {
      const std::byte* block = cache.block(sequence, trace.layers[stream / trace.n_kv_heads],
                                           stream % trace.n_kv_heads, pos);
      trace.blocks[stream].insert(trace.blocks[stream].end(), block,
                                  block + cache.layout().block_bytes);
    }
  return trace;
}

void write_trace(const AttentionTrace& trace, const std::string& path) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  const uint32_t counts[kHeaderCounts] = {
      kVersion,         static_cast<uint32_t>(trace.layers.size()),
      trace.n_kv_heads, trace.group,
      trace.head_dim,   trace.n_positions,
      trace.n_steps};
  put(file, kMagic, sizeof(kMagic));
  put(file, counts, kHeaderCounts);
  put(file, trace.layers.data(), trace.layers.size());
  for (uint32_t stream = 0; stream < trace.n_streams(); ++stream) {
    put(file, trace.blocks[stream].data(), trace.blocks[stream].size());
    put(file, trace.queries[stream].data(), trace.queries[stream].size());
  }
  file.close();
  if (!file)
    throw Error(ErrorCode::kIo, "cannot write the trace", path, "check the folder and its space");
}

AttentionTrace read_trace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ErrorCode::kIo, "cannot open the trace", path, "check the path");
  const std::vector<char> all{std::istreambuf_iterator<char>(file), {}};
  Bytes bytes(all, path);
  char magic[sizeof(kMagic)];
  uint32_t counts[kHeaderCounts];
  bytes.take(magic, sizeof(magic));
  if (std::memcmp(magic, kMagic, sizeof(magic)) != 0) bytes.refuse("not a trace of attention");
  bytes.take(counts, kHeaderCounts);
  if (counts[0] != kVersion)
    bytes.refuse(fmt::format("wanted version {}, found {}", kVersion, counts[0]));
  for (uint32_t i = 1; i < kHeaderCounts; ++i)
    if (counts[i] == 0 || counts[i] > kMostOfAnything)
      bytes.refuse(fmt::format("wanted 1 to {}, found {}", kMostOfAnything, counts[i]));
  AttentionTrace trace{.n_kv_heads = counts[2],
                       .group = counts[3],
                       .head_dim = counts[4],
                       .n_positions = counts[5],
                       .n_steps = counts[6],
                       .layers = {},
                       .blocks = {},
                       .queries = {}};
  if (trace.head_dim % 8 != 0 || trace.n_positions % kBlockPositions != 0)
    bytes.refuse(fmt::format("{} dimensions, {} positions", trace.head_dim, trace.n_positions));
  const uint64_t n_block_bytes = uint64_t{trace.n_blocks()} * trace.layout().block_bytes;
  const uint64_t n_queries = uint64_t{trace.n_steps} * trace.group;
  // What the file cannot hold is refused before room is made for it.
  const uint64_t n_wanted = uint64_t{counts[1]} * counts[2];
  if (n_wanted > all.size() / n_block_bytes || n_queries > all.size() / trace.head_dim)
    bytes.refuse(fmt::format("truncated: {} bytes hold no {} streams", all.size(), n_wanted));
  trace.layers.resize(counts[1]);
  bytes.take(trace.layers.data(), trace.layers.size());
  for (uint32_t stream = 0; stream < trace.n_streams(); ++stream) {
    bytes.take(trace.blocks.emplace_back(n_block_bytes).data(), n_block_bytes);
    auto& queries = trace.queries.emplace_back(n_queries * trace.head_dim);
    bytes.take(queries.data(), queries.size());
  }
  if (!bytes.is_empty()) bytes.refuse("bytes stand after the last stream");
  return trace;
}

}  // namespace strata::eval

// make_random_model SHAPE TYPE OUT [SEED] - writes a model with random weights of a known shape,
// for benches: speed does not depend on what the weights say. Rows are made while they are written,
// so that memory stays at a few MiB.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "tools/makers/medium_mix.h"
#include "tools/makers/random_transformer.h"

namespace {

using namespace strata;

struct Shape {
  std::string_view name;
  uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size, n_ctx;
  double freq_base;
  bool is_tied;
};

constexpr std::array kShapes = {
    Shape{"tiny", 2, 256, 4, 2, 64, 512, 512, 4096, 1e4, false},
    Shape{"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e5, true},
    Shape{"llama-1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, true},
    Shape{"llama-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 5e5, false},
};

/// What matrices are stored in, what those with more bits are, and the embedding.
struct Mix {
  std::string_view name;
  TensorType most, more, embedding;
};

using enum TensorType;
constexpr std::array kMixes = {
    Mix{"F32", kF32, kF32, kF32},     Mix{"F16", kF16, kF16, kF16},
    Mix{"BF16", kBF16, kBF16, kBF16}, Mix{"Q8_0", kQ8_0, kQ8_0, kQ8_0},
    Mix{"Q4_0", kQ4_0, kQ4_0, kQ8_0}, Mix{"Q4_1", kQ4_1, kQ4_1, kQ8_0},
    Mix{"Q5_0", kQ5_0, kQ5_0, kQ5_0}, Mix{"Q4_K", kQ4_K, kQ4_K, kQ6_K},
    Mix{"Q6_K", kQ6_K, kQ6_K, kQ6_K}, Mix{"Q4_K_M", kQ4_K, kQ6_K, kQ6_K}};

int usage() {
  fmt::print(stderr, "usage: make_random_model SHAPE TYPE OUT [SEED]\n  shapes:");
  for (const Shape& shape : kShapes) fmt::print(stderr, " {}", shape.name);
  fmt::print(stderr, "\n  types: ");
  for (const Mix& mix : kMixes) fmt::print(stderr, " {}", mix.name);
  fmt::print(
      stderr,
      "\n  4-bit models keep their embedding in Q8_0 or Q6_K; Q4_K_M gives half of the layers\n"
      "  their values and the matrix out of the FFN in Q6_K\n");
  return 2;
}

/// What a matrix of rows of n_in is stored in: blocks of 256 do not fit every width, and blocks of
/// 32 stand in for them, as in the quantisers of other engines.
TensorType type_for(uint32_t n_in, TensorType wanted, TensorType otherwise) {
  return n_in % tensor_type_info(wanted).block_elements == 0 ? wanted : otherwise;
}

/// q k v output, gate up down of each layer.
std::vector<TensorType> matrix_types(const Shape& shape, const Mix& mix) {
  const uint32_t q_width = shape.n_heads * shape.head_dim;
  std::vector<TensorType> types;
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer)
    for (uint32_t matrix = 0; matrix < makers::kLayerMatrices; ++matrix) {
      const uint32_t n_in = matrix == makers::kOutputMatrix ? q_width
                            : matrix == makers::kDownMatrix ? shape.d_ff
                                                            : shape.d_model;
      const bool is_more = makers::is_in_medium_mix(matrix, layer, shape.n_layers);
      types.push_back(type_for(n_in, is_more ? mix.more : mix.most, TensorType::kQ5_0));
    }
  return types;
}

makers::RandomTransformer model_of(const Shape& shape, const Mix& mix, uint64_t seed) {
  makers::RandomTransformer model;
  model.name = fmt::format("random {} {}", shape.name, mix.name);
  model.n_layers = shape.n_layers;
  model.d_model = shape.d_model;
  model.n_heads = shape.n_heads;
  model.n_kv_heads = shape.n_kv_heads;
  model.head_dim = shape.head_dim;
  model.d_ff = shape.d_ff;
  model.vocab_size = shape.vocab_size;
  model.n_ctx = shape.n_ctx;
  model.rope.freq_base = shape.freq_base;
  model.is_tied = shape.is_tied;
  model.matrix_types = matrix_types(shape, mix);
  model.embedding_type = type_for(shape.d_model, mix.embedding, TensorType::kQ8_0);
  model.seed = seed;
  return model;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) return usage();
  const auto shape = std::ranges::find(kShapes, argv[1], &Shape::name);
  const auto mix = std::ranges::find(kMixes, argv[2], &Mix::name);
  uint64_t seed = 1;
  if (argc == 5) {
    const std::string_view text = argv[4];
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
    if (error != std::errc() || end != text.data() + text.size()) return usage();
  }
  if (shape == kShapes.end() || mix == kMixes.end()) return usage();
  try {
    makers::write_random_transformer(model_of(*shape, *mix, seed), argv[3]);
  } catch (const Error& error) {
    fmt::print(stderr, "error: {} [{}]\n", error.what(), error.where());
    return exit_code(error.code());
  }
  return 0;
}

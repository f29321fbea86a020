// cpu_attn/index_scalar.cc - kernels of retrieval, instruction set "scalar".
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/key_rotation.h"
#include "cpu_attn/index.h"

namespace strata::cpu_attn {
namespace {

#include "cpu_attn/vec_scalar.inc"

#include "cpu_attn/repeat.inc"

#include "cpu_attn/vec_exp.inc"

#include "cpu_attn/index_encode.inc"

#include "cpu_attn/index_rabitq_encode.inc"

#include "cpu_attn/index_cluster_encode.inc"

#include "cpu_attn/index_pq_weight.inc"

#include "cpu_attn/index_pq_query.inc"

#include "cpu_attn/index_pool.inc"

#include "cpu_attn/index_tail.inc"

#include "cpu_attn/index_digest_wide.inc"

#include "cpu_attn/index_digest.inc"

// ---- A block's 32 keys stand for a vector of codes.
constexpr uint32_t kCodeKeys = kBlockPositions;
constexpr uint32_t kScanQueries = 4;
using Codes = const uint8_t*;

Codes load_codes(const std::byte* at) { return reinterpret_cast<Codes>(at); }

struct KeySums {
  uint16_t key[kCodeKeys];
  void clear() { memset(key, 0, sizeof key); }
  void add(const uint8_t* table, Codes codes) {
    for (uint32_t i = 0; i < kCodeKeys; ++i)
      key[i] = static_cast<uint16_t>(key[i] + table[codes[i] % kPqCentroids]);
  }
  void store_maxima(uint16_t* to) const {
    for (uint64_t i = 0; i < kCodeKeys / 2; ++i)
      to[i] = key[2 * i] > key[2 * i + 1] ? key[2 * i] : key[2 * i + 1];
  }
};

void store_block_scores(const uint16_t* maxima, float scale, float offset, float* out) {
  constexpr uint32_t kPairs = kCodeKeys / 2;
  const float step = gap_step(scale);
  for (uint32_t b = 0; b < kExtentBlocks; ++b, maxima += kPairs) {
    int32_t best = 0;
    for (uint32_t i = 0; i < kPairs; ++i) best = maxima[i] > best ? maxima[i] : best;
    float weights[kPairs];
    for (uint32_t i = 0; i < kPairs; ++i)
      weights[i] = pair_weight(static_cast<float>(best - maxima[i]) * step);
    for (uint32_t half = kPairs / 2; half > 0; half /= 2)
      for (uint32_t i = 0; i < half; ++i) weights[i] += weights[i + half];
    out[b] = scale * static_cast<float>(best) + offset + log_of_weight(weights[0]);
  }
}

#include "cpu_attn/index_pq_scan.inc"

// ---- One word of codes at a time.
using Words = uint32_t;
Words load_words(const std::byte* at) {
  Words words;
  memcpy(&words, at, sizeof words);
  return words;
}
/// The bits of `of` that the mask has, and the others of `others`.
Words bits_or(uint32_t mask, Words of, Words others) { return (of & mask) | (others & ~mask); }

/// Sum of four products; bytes of `codes` are unsigned, those of `query` signed.
int32_t product_of_four(uint32_t codes, uint32_t query) {
  int32_t sum = 0;
  for (uint32_t byte = 0; byte < 4; ++byte)
    sum += static_cast<int32_t>(codes >> 8 * byte & 255u) *
           static_cast<int8_t>(query >> 8 * byte & 255u);
  return sum;
}

constexpr uint32_t kPairsAtOnce = 1;
struct Products {
  int32_t sum;
  void clear() { sum = 0; }
  void add(Words codes, uint32_t query) { sum += product_of_four(codes, query); }
  void end_group() {}
  Vec values() const { return static_cast<float>(sum); }
};

Vec weights_below(Vec down) { return pair_weight(down); }

/// Bits above those of one.
Vec bits_above_one(Vec weight) {
  uint32_t bits;
  memcpy(&bits, &weight, sizeof bits);
  return static_cast<float>(static_cast<int32_t>(bits - static_cast<uint32_t>(kBitsOfOne)));
}

using Centres = const std::byte*;
Centres load_centres(const std::byte* at) { return at; }
struct CentreProducts {
  int32_t blocks[kExtentBlocks];
  void start(int32_t sum) {
    for (int32_t& block : blocks) block = sum;
  }
  void add(Centres centres, uint32_t query) {
    for (uint64_t b = 0; b < kExtentBlocks; ++b)
      blocks[b] += product_of_four(load_words(centres + b * sizeof(Words)) & 0x7f7f7f7fu, query);
  }
  Vec values(uint32_t block) const { return static_cast<float>(blocks[block]); }
};

/// Of a line, f(both keys' lanes) for both.
template <class F>
void of_both_keys(Vec* line, const F& f) {
  for (uint32_t b = 0; b < kExtentBlocks; ++b)
    line[b] = line[b + kExtentBlocks] = f(line[b], line[b + kExtentBlocks]);
}
/// The eight blocks' numbers, for both keys of a line.
Vec load_of_blocks(const float* of_blocks, uint32_t lane) {
  return of_blocks[lane % kExtentBlocks];
}
void store_blocks(float* out, uint32_t block, Vec v) { out[block] = v; }

#include "cpu_attn/index_rabitq_scan.inc"

/// The sum of 32 products, what index_cluster_scan.inc asks for besides.
int32_t product_of_group(const std::byte* seven_bits, const int8_t* codes) {
  int32_t sum = 0;
  for (uint32_t i = 0; i < kRabitqGroup; i += 4)
    sum += product_of_four(load_words(seven_bits + i) & 0x7f7f7f7fu, four_codes(codes + i));
  return sum;
}

#include "cpu_attn/index_cluster_scan.inc"

#include "cpu_attn/index_sparq_scan.inc"

}  // namespace

void fill_index_scalar(KernelTable& table) {
  table.index = {load_k,     digest_scores, pq_scan,        pq_encode,    pq_table,
                 key_scores, pool_shares,   rabitq_encode,  rabitq_query, rabitq_scan,
                 value_mean, tail_sums,     cluster_encode, cluster_scan, sparq_scan};
}

}  // namespace strata::cpu_attn

// Attention of a chunk beside softmax in double precision. Blocks lie in any order; what stands
// behind the last position is NaN, as are the results before they are written.
//
// Tolerance of out, u = 2^-11 (f16, half a unit), n positions:
//   A score is off by at most E = u sum |q k| + 2^-24 sum |k|, since q is rounded (below f16's
//   normal numbers by 2^-25 at most), and by as much again where K is decoded; and by
//   F = (d 2^-23 + 2^-20) sum |q k|, since tensor cores truncate their f32 sums and log2(e) q is
//   rounded.
//   A weight is off by a factor of exp(E + F), by u as f16, by 2^-20 through exp2 and its argument;
//   V by u where it is decoded. Weights far below the largest are off by 2^-31 of that: f16's
//   smallest step over the kernel's lift of 2^7. Sums in f32 add n 2^-23.
//   Both sums of the quotient carry it: |error| <= A (2 (exp(E + F) - 1) + 2 u + n 2^-22 + 2^-19) +
//   n 2^-31 B, A being the weighted mean of |v|, B the largest |v|.
// Where n is large that is far above what happens, because the errors of E and u have either sign,
// independently of V, which is drawn at random: their sum stays below 8 times its root mean square
// but for a chance of 2 exp(-32) (Hoeffding). The smaller of both bounds counts.
#include <algorithm>
#include <cmath>
#include <random>

#include "base/half.h"
#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {
namespace {

constexpr double kUnit = 0x1p-11;
constexpr double kDeviations = 8;

struct Chunk {
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t head_dim = 64;
  uint32_t n_kv_heads = 1;
  uint32_t group = 1;
  uint32_t n_rows = 1;
  uint32_t first_position = 0;
  uint32_t window = 0;
  uint32_t first_block = 0;
  uint32_t n_missing = 0;  // blocks at the end that the table lacks
  uint32_t n_splits = 1;
  bool is_quantised = false;
  double score_size = 1;      // about the spread of scores
  uint32_t sampled_rows = 0;  // of each head; 0 = all
  uint32_t seed = 1;

  uint32_t n_positions() const { return first_position + n_rows; }
  uint32_t n_blocks() const {
    return (n_positions() + kBlockPositions - 1) / kBlockPositions - first_block - n_missing;
  }
  uint64_t width() const { return uint64_t{n_kv_heads} * group * head_dim; }
  std::string name() const;
};

std::string Chunk::name() const {
  std::string text = std::string("prefill/") + kv_codec_name(k_codec) + "_" +
                     kv_codec_name(v_codec) + "/d" + std::to_string(head_dim) + "/heads" +
                     std::to_string(n_kv_heads) + "x" + std::to_string(group) + "/" +
                     std::to_string(n_rows) + " rows at " + std::to_string(first_position);
  if (window != 0) text += "/window " + std::to_string(window);
  if (first_block != 0) text += "/from block " + std::to_string(first_block);
  if (n_missing != 0) text += "/" + std::to_string(n_missing) + " missing";
  if (n_splits != 1) text += "/splits " + std::to_string(n_splits);
  if (is_quantised) text += "/int8";
  if (score_size != 1) text += "/scores " + std::to_string(std::lround(score_size * 10)) + "e-1";
  return text + "/seed " + std::to_string(seed);
}

/// The blocks of one KV head and what they hold.
struct HeadBlocks {
  std::vector<std::byte> bytes;  // [n_blocks of all positions, block_bytes]
  std::vector<float> k;          // [n_positions, head_dim]
  std::vector<float> v;
};

/// Draws K or V and stores it as the codec does.
void draw_part(const Chunk& chunk, const KvLayout& layout, bool is_key, std::mt19937& random,
               HeadBlocks& head) {
  const uint32_t d = chunk.head_dim;
  const KvCodec codec = is_key ? chunk.k_codec : chunk.v_codec;
  std::vector<float>& values = is_key ? head.k : head.v;
  values.resize(uint64_t{chunk.n_positions()} * d);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> code(-127, 127);
  for (uint32_t position = 0; position < chunk.n_positions(); ++position) {
    std::byte* block = head.bytes.data() + uint64_t{position / 32} * layout.block_bytes;
    std::byte* part = block + (is_key ? 0 : layout.v_offset);
    std::byte* scales = block + (is_key ? layout.k_scales_offset : layout.v_scales_offset);
    const uint32_t row = position % 32;
    uint16_t scale = 0;
    for (uint32_t dim = 0; dim < d; ++dim) {
      const uint32_t at = is_key ? dim * 32 + row : row * d + dim;
      float& value = values[uint64_t{position} * d + dim];
      if (codec == KvCodec::kF16) {
        const uint16_t half = f32_to_f16(normal(random));
        std::memcpy(part + at * 2, &half, 2);
        value = f16_to_f32(half);
        continue;
      }
      if (dim % 32 == 0) {
        scale = f32_to_f16(std::abs(normal(random)) / 60 + 0.001f);
        std::memcpy(scales + (dim / 32 * 32 + row) * 2, &scale, 2);
      }
      const auto byte = static_cast<int8_t>(code(random));
      std::memcpy(part + at, &byte, 1);
      value = f16_to_f32(scale) * static_cast<float>(byte);
    }
  }
}

HeadBlocks draw_head(const Chunk& chunk, const KvLayout& layout, std::mt19937& random) {
  HeadBlocks head;
  const uint64_t n_blocks = (chunk.n_positions() + 31) / 32;
  head.bytes.assign(n_blocks * layout.block_bytes, std::byte{0xFF});
  draw_part(chunk, layout, true, random, head);
  draw_part(chunk, layout, false, random, head);
  return head;
}

/// What one query attends and how far off its result may be.
struct Wanted {
  std::vector<double> out;
  std::vector<double> tolerance;
};

void attend_exactly(const Chunk& chunk, const HeadBlocks& head, uint32_t row,
                    std::span<const float> q, Wanted& wanted) {
  const uint32_t d = chunk.head_dim;
  const uint64_t table_end = uint64_t{chunk.first_block + chunk.n_blocks()} * 32;
  const uint64_t position = uint64_t{chunk.first_position} + row;
  const uint64_t end = std::min(position + 1, table_end);
  uint64_t begin = uint64_t{chunk.first_block} * 32;
  if (chunk.window != 0 && position + 1 > chunk.window)
    begin = std::max(begin, position + 1 - chunk.window);
  std::vector<double> scores;
  const double n_rounded = chunk.k_codec == KvCodec::kF16 ? 1 : 2;
  double of_inputs = 0, of_sums = 0;  // E and F
  double largest = -INFINITY;
  for (uint64_t p = begin; p < end; ++p) {
    double sum = 0, size = 0, k_size = 0;
    for (uint32_t i = 0; i < d; ++i) {
      const double k = head.k[p * d + i];
      sum += q[i] * k;
      size += std::abs(q[i] * k);
      k_size += std::abs(k);
    }
    scores.push_back(sum);
    largest = std::max(largest, sum);
    of_inputs = std::max(of_inputs, n_rounded * (kUnit * size + 0x1p-24 * k_size));
    of_sums = std::max(of_sums, size * (d * 0x1p-23 + 0x1p-20));
  }
  std::vector<double> out(d), size(d), squares(d);
  double l = 0, l_squares = 0, v_largest = 0;
  for (uint64_t p = begin; p < end; ++p) {
    const double weight = std::exp(scores[p - begin] - largest);
    l += weight;
    l_squares += weight * weight;
    for (uint32_t i = 0; i < d; ++i) {
      const double part = weight * head.v[p * d + i];
      out[i] += part;
      size[i] += std::abs(part);
      squares[i] += part * part;
      v_largest = std::max(v_largest, std::abs(static_cast<double>(head.v[p * d + i])));
    }
  }
  const auto n = static_cast<double>(scores.size());
  const double of_weights = std::expm1(of_inputs + of_sums);
  for (uint32_t i = 0; i < d; ++i) {
    if (l == 0) {
      wanted.out.push_back(0);
      wanted.tolerance.push_back(0);
      continue;
    }
    wanted.out.push_back(out[i] / l);
    const double fixed = size[i] / l * (n * 0x1p-22 + 0x1p-19) + n * 0x1p-31 * v_largest;
    const double worst = size[i] / l * (2 * of_weights + 2 * kUnit);
    const double likely = kDeviations *
                              ((of_inputs + 2 * kUnit) * std::sqrt(squares[i]) +
                               of_inputs * std::abs(out[i] / l) * std::sqrt(l_squares)) /
                              l +
                          size[i] / l * (2 * of_sums + of_weights * of_weights);
    wanted.tolerance.push_back(fixed + std::min(worst, likely));
  }
}

/// The int8 form belongs to `out` as it came: scales of max|x| / 127, codes within half a step.
void expect_quantised(UnderTest& device, CaseReport& report, const QuantRows& quant,
                      std::span<const float> out) {
  const auto q = device.download(quant.q, out.size());
  const auto scales = device.download(quant.scales, out.size() / kActGroup);
  const auto neg_sums = device.download(quant.neg_sums, out.size() / kActHalfGroup);
  std::vector<float> decoded(out.size());
  std::vector<double> values(out.begin(), out.end());
  bool sums_agree = true;
  for (uint64_t i = 0; i < out.size(); ++i) {
    decoded[i] = scales[i / kActGroup] * static_cast<float>(q[i]);
    if (i % kActHalfGroup != 0) continue;
    int32_t sum = 0;
    for (uint64_t j = i; j < i + kActHalfGroup; ++j) sum += q[j];
    sums_agree = sums_agree && neg_sums[i / kActHalfGroup] == -sum;
  }
  report.expect_near(
      decoded, values, [&](uint64_t i) { return scales[i / kActGroup] * (0.5 + 0x1p-14) + 1e-30; },
      "decoded int8");
  report.expect(sums_agree, "sums of int8 codes");
}

void run_chunk(UnderTest& device, CaseReport& report, const Chunk& chunk) {
  std::mt19937 random(chunk.seed);
  const KvLayout layout = KvLayout::make(chunk.k_codec, chunk.v_codec, chunk.head_dim);
  const uint32_t d = chunk.head_dim;
  const uint64_t n_queries = uint64_t{chunk.n_rows} * chunk.group;

  std::vector<HeadBlocks> heads;
  std::vector<const std::byte*> table;
  const uint64_t stride = chunk.n_blocks() + 3;
  for (uint32_t h = 0; h < chunk.n_kv_heads; ++h) {
    heads.push_back(draw_head(chunk, layout, random));
    const std::byte* blocks = device.upload(heads.back().bytes);
    for (uint64_t i = 0; i < stride; ++i)  // null behind the table's end
      table.push_back(i < chunk.n_blocks() ? blocks + (chunk.first_block + i) * layout.block_bytes
                                           : nullptr);
  }
  std::vector<float> q(chunk.n_kv_heads * n_queries * d);
  std::normal_distribution<float> normal(
      0, static_cast<float>(chunk.score_size / std::sqrt(static_cast<double>(d))));
  for (float& value : q) value = normal(random);
  std::vector<uint32_t> positions;
  for (uint32_t i = 0; i < chunk.n_rows; ++i) positions.push_back(chunk.first_position + i);

  const uint64_t n_out = chunk.n_rows * chunk.width();
  float* out = device.make<float>(n_out);
  QuantRows quant{};
  if (chunk.is_quantised)
    quant = {.q = device.make<int8_t>(n_out),
             .scales = device.make<float>(n_out / kActGroup),
             .neg_sums = device.make<int32_t>(n_out / kActHalfGroup)};
  device.check(device.kernels().prefill(
      device.stream(), {.q = device.upload(q),
                        .positions = device.upload(positions),
                        .blocks = device.upload(table),
                        .block_stride = stride,
                        .first_block = chunk.first_block,
                        .n_blocks = chunk.n_blocks(),
                        .layout = layout,
                        .n_rows = chunk.n_rows,
                        .n_kv_heads = chunk.n_kv_heads,
                        .group = chunk.group,
                        .window = chunk.window,
                        .out = out,
                        .quant = quant,
                        .n_splits = chunk.n_splits,
                        .scratch = device.make<std::byte>(device_prefill_scratch_bytes(
                            chunk.n_splits, chunk.n_rows, chunk.n_kv_heads, chunk.group, d))}));
  const auto got = device.download(out, n_out);

  Wanted wanted;
  std::vector<float> compared;
  const uint32_t step =
      chunk.sampled_rows == 0 ? 1 : std::max(1u, chunk.n_rows / chunk.sampled_rows);
  for (uint32_t row = 0; row < chunk.n_rows; row += step)
    for (uint32_t h = 0; h < chunk.n_kv_heads; ++h)
      for (uint32_t g = 0; g < chunk.group; ++g) {
        const uint64_t query = h * n_queries + row * chunk.group + g;
        attend_exactly(chunk, heads[h], row, std::span(q).subspan(query * d, d), wanted);
        const float* at = got.data() + row * chunk.width() + (h * chunk.group + g) * d;
        compared.insert(compared.end(), at, at + d);
      }
  report.expect_near(
      compared, wanted.out, [&](uint64_t i) { return wanted.tolerance[i]; }, "out");
  report.expect(std::ranges::all_of(got, [](float x) { return std::isfinite(x); }), "all finite");
  if (chunk.is_quantised) expect_quantised(device, report, quant, got);
}

std::vector<Chunk> small_chunks() {
  constexpr KvCodec kF16 = KvCodec::kF16;
  constexpr KvCodec kQ8 = KvCodec::kQ8_0;
  std::vector<Chunk> chunks = {
      {.n_rows = 1},
      {.group = 3, .n_rows = 45, .score_size = 0.3},
      {.group = 1, .n_rows = 130, .score_size = 6},
      {.n_kv_heads = 2, .group = 4, .n_rows = 33, .first_position = 31},
      {.group = 8, .n_rows = 17, .first_position = 200, .is_quantised = true},
      {.group = 5, .n_rows = 30, .first_position = 97, .score_size = 30},
      {.group = 7, .n_rows = 20, .first_position = 300, .window = 40},
      {.group = 2, .n_rows = 70, .first_position = 130, .window = 1},
      // Row 63 leaves out the first position of a step, and that alone.
      {.n_rows = 70, .first_position = 225, .window = 128, .score_size = 0.3},
      {.group = 2, .n_rows = 90, .first_position = 210, .window = 33, .first_block = 3},
      {.group = 2, .n_rows = 40, .first_position = 100, .first_block = 2},
      {.group = 1, .n_rows = 40, .first_position = 100, .n_missing = 2},
      {.group = 1, .n_rows = 20, .first_position = 40, .first_block = 1, .n_missing = 1},
      {.head_dim = 128, .n_kv_heads = 2, .group = 4, .n_rows = 40, .first_position = 90},
      {.head_dim = 128, .group = 6, .n_rows = 11, .first_position = 2100, .score_size = 4},
      {.head_dim = 80, .n_kv_heads = 3, .group = 1, .n_rows = 34, .first_position = 62},
      {.head_dim = 80, .n_kv_heads = 2, .group = 2, .n_rows = 9, .is_quantised = true},
      {.head_dim = 96, .group = 4, .n_rows = 20, .first_position = 45},
      {.head_dim = 256, .group = 2, .n_rows = 40, .first_position = 70},
      {.head_dim = 256, .group = 4, .n_rows = 20, .first_position = 1040, .window = 100},
      {.head_dim = 8, .group = 2, .n_rows = 20, .first_position = 40},
      {.head_dim = 72, .group = 2, .n_rows = 20, .first_position = 40},
      {.head_dim = 112, .group = 2, .n_rows = 20, .first_position = 40},
      {.head_dim = 192, .group = 2, .n_rows = 20, .first_position = 40},
      {.group = 2, .n_rows = 33, .first_position = 290, .n_splits = 3, .is_quantised = true},
      {.head_dim = 128, .group = 4, .n_rows = 12, .first_position = 40, .n_splits = 7},
      {.group = 2, .n_rows = 20, .first_position = 700, .window = 65, .n_splits = 2},
      {.head_dim = 256, .group = 2, .n_rows = 12, .first_position = 400, .n_splits = 4},
  };
  for (const auto& [k, v, d] : {std::tuple{kQ8, kQ8, 64u},
                                {kQ8, kQ8, 128u},
                                {kQ8, kF16, 128u},
                                {kF16, kQ8, 128u},
                                {kQ8, kQ8, 96u},
                                {kQ8, kQ8, 256u},
                                {kF16, kQ8, 32u},
                                {kQ8, kF16, 160u}}) {
    Chunk chunk{.k_codec = k, .v_codec = v, .head_dim = d, .group = 2, .n_rows = 26};
    chunk.first_position = 75;
    chunks.push_back(chunk);
  }
  chunks.push_back({.k_codec = kQ8,
                    .v_codec = kQ8,
                    .head_dim = 64,
                    .n_kv_heads = 2,
                    .group = 3,
                    .n_rows = 50,
                    .first_position = 2200,
                    .window = 90,
                    .first_block = 60,
                    .n_splits = 2});
  return chunks;
}

/// Whole layers of common models, on a card.
std::vector<Chunk> large_chunks() {
  std::vector<Chunk> chunks;
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    for (const uint32_t n_splits : {1u, 3u})
      for (const uint32_t d : {64u, 128u, 256u}) {
        Chunk chunk{.k_codec = codec, .v_codec = codec, .head_dim = d, .n_kv_heads = 4};
        chunk.group = d == 64 ? 3 : 4;
        chunk.n_rows = 512;
        chunk.first_position = 7600;
        chunk.n_splits = n_splits;
        chunk.sampled_rows = 16;
        chunks.push_back(chunk);
      }
  return chunks;
}

}  // namespace

std::vector<GpuCase> prefill_cases() {
  std::vector<GpuCase> cases;
  const auto add = [&](const std::vector<Chunk>& chunks, bool is_small) {
    for (const Chunk& chunk : chunks)
      cases.push_back(
          {chunk.name(),
           [chunk](UnderTest& device, CaseReport& report) { run_chunk(device, report, chunk); },
           is_small});
  };
  add(small_chunks(), true);
  add(large_chunks(), false);
  return cases;
}

}  // namespace strata::gpu_test

// Scores of blocks by the codes of their keys, against double precision and beside the CPU's scan:
// every head size, groups and rows, tiles that are partly written, in pinned memory, none at all.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <span>

#include "base/host_memory.h"
#include "base/key_rotation.h"
#include "cpu_attn/index.h"
#include "tests/cpu_attn/rabitq_tile.h"
#include "tests/gpu_attn/row_oracle.h"

namespace strata::gpu_test {
namespace {

using testing::rabitq_rotated;
using testing::RabitqReader;

constexpr uint32_t kSeed = 20261129;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinite = std::numeric_limits<float>::infinity();
constexpr uint32_t kDrawnTiles = 3;   // of a case; lists name them again and again
constexpr uint64_t kSpareScores = 5;  // floats between the scores of two queries: nobody's
constexpr uint64_t kSpareTiles = 2;   // entries between the lists of two KV heads: null
constexpr double kMostOfF32 = std::numeric_limits<float>::max();

enum class Contents {
  kKeys,
  kUnusual,   // blocks that no key was written to or that hold what is not finite; such queries
  kAllAlike,  // all products of a block have one sign; from block to block they go beyond f32
  kAnyBytes,
};

struct ScanShape {
  uint32_t head_dim;
  uint32_t group = 1;
  uint32_t n_rows = 1;
  uint32_t n_tiles = 3;
  uint32_t n_kv_heads = 1;
  Contents contents = Contents::kKeys;
  bool is_pinned = false;  // tiles, their list and the scores
  float query_length = 2;  // about so many nat lie between the keys of a block
  uint32_t n_warps = DeviceScanArgs{}.n_warps;

  uint32_t n_queries() const { return n_rows * group; }
  uint64_t score_stride() const { return uint64_t{n_tiles} * kExtentBlocks + kSpareScores; }
  uint64_t n_scores() const { return uint64_t{n_kv_heads} * n_queries() * score_stride(); }
};

IndexKernels cpu_kernels() {
  KernelTable table;
  cpu_attn::fill_index_scalar(table);
  return table.index;
}

/// kDrawnTiles tiles side by side, made by the CPU.
class DrawnTiles {
 public:
  DrawnTiles(const ScanShape& shape, std::mt19937& random)
      : tile_bytes_(rabitq_tile_bytes(shape.head_dim)),
        memory_(HostMemory::reserve(kDrawnTiles * tile_bytes_)) {
    if (shape.contents == Contents::kAnyBytes) {
      for (std::byte& byte : bytes()) byte = static_cast<std::byte>(random());
      return;
    }
    const HostMemory keys = HostMemory::reserve(keys_of_block(shape.head_dim) * sizeof(float));
    const bool is_unusual = shape.contents == Contents::kUnusual;
    for (uint32_t tile = 0; tile < kDrawnTiles; ++tile)
      for (uint32_t block = 0; block < kExtentBlocks; ++block) {
        if (is_unusual && tile == 1 && block >= 3) break;  // the last tile of a context
        const auto to = keys.as<float>(keys_of_block(shape.head_dim));
        draw_keys(shape.head_dim, random, to);
        if (is_unusual && tile == 2 && block == 6) to[5] = kNan;
        kernels_.rabitq_encode(
            {to.data(), shape.head_dim, block, memory_.data() + tile * tile_bytes_});
      }
    if (is_unusual) steps(0).factor[2] = kInfinite;
    if (shape.contents == Contents::kAllAlike) make_alike(shape.head_dim);
  }

  std::span<std::byte> bytes() const { return {memory_.data(), kDrawnTiles * tile_bytes_}; }
  const std::byte* tile(uint32_t i) const { return memory_.data() + i * tile_bytes_; }
  uint64_t tile_bytes() const { return tile_bytes_; }
  const HostMemory& memory() const { return memory_; }

 private:
  static uint64_t keys_of_block(uint32_t head_dim) { return uint64_t{head_dim} * kBlockPositions; }

  RabitqSteps& steps(uint32_t tile) const {
    return *reinterpret_cast<RabitqSteps*>(memory_.data() + (tile + 1) * tile_bytes_ -
                                           sizeof(RabitqSteps));
  }

  /// All codes of a block become the least or the largest one, no factor is zero, and steps grow
  /// from block to block.
  void make_alike(uint32_t head_dim) const {
    for (uint32_t tile = 0; tile < kDrawnTiles; ++tile) {
      std::byte* codes = memory_.data() + tile * tile_bytes_;
      std::byte* factors = codes + rabitq_codes_bytes(head_dim);
      for (uint64_t i = 0; i < rabitq_codes_bytes(head_dim); ++i)
        codes[i] = i / sizeof(uint32_t) % 2 == 0 ? std::byte{0} : std::byte{0xFF};
      for (uint32_t i = 0; i < kExtentPositions; ++i)
        factors[i] = static_cast<std::byte>(1 + i / kExtentBlocks * 4);
      for (uint32_t block = 0; block < kExtentBlocks; ++block)
        steps(tile).factor[block] = std::pow(10.0f, static_cast<float>(22 + block * 2 + tile));
    }
  }

  /// Keys of a block share a mean, and are of several lengths.
  static void draw_keys(uint32_t head_dim, std::mt19937& random, std::span<float> keys) {
    const auto mean = normal_row(head_dim, random, 1.5f);
    const auto sizes = normal_row(kBlockPositions, random);
    for (uint32_t d = 0; d < head_dim; ++d) {
      const auto apart = normal_row(kBlockPositions, random);
      for (uint32_t i = 0; i < kBlockPositions; ++i)
        keys[d * kBlockPositions + i] = mean[d] + sizes[i] * apart[i];
    }
  }

  uint64_t tile_bytes_;
  HostMemory memory_;
  IndexKernels kernels_ = cpu_kernels();
};

/// Queries of all KV heads as the CPU rounds them.
struct RoundedQueries {
  RoundedQueries(const ScanShape& shape, const std::vector<float>& q)
      : n_codes(rabitq_groups(shape.head_dim) * kRabitqGroup),
        codes(uint64_t{shape.n_kv_heads} * shape.n_queries() * n_codes),
        scales(uint64_t{shape.n_kv_heads} * shape.n_queries()),
        sums(scales.size()) {
    const HostMemory columns =
        HostMemory::reserve(uint64_t{shape.head_dim} * kBlockPositions * sizeof(float));
    cpu_kernels().rabitq_query({q.data(), static_cast<uint32_t>(scales.size()), shape.head_dim,
                                reinterpret_cast<float*>(columns.data()), codes.data(),
                                scales.data(), sums.data()});
  }

  uint32_t n_codes;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> sums;
};

/// Whether the rotation only adds and multiplies by powers of two.
bool is_turned_exactly(uint32_t head_dim) {
  return std::has_single_bit(head_dim) && std::countr_zero(head_dim) % 2 == 0;
}

/// A transform of n dimensions rounds log2(n) + 1 times, each time by less than kUnit of the
/// query's length (n values, each at most so long and 1 / sqrt(n) of a sum); two of them, a scale
/// and a product round, and codes are within half of what is rounded to them. Ties go away from
/// zero. The scale of what is not finite, also not until it is turned, is NaN.
void expect_rounded(CaseReport& report, const ScanShape& shape, const std::vector<float>& q,
                    const RoundedQueries& rounded) {
  uint64_t n_wrong = 0, n_ties = 0;
  for (uint64_t query = 0; query < rounded.scales.size(); ++query) {
    const float* row = q.data() + query * shape.head_dim;
    const double scale = rounded.scales[query];
    const auto turned = rabitq_rotated(row, shape.head_dim);
    double square = 0, largest = 0;
    for (const double x : turned) {
      square += x * x;
      largest = std::isnan(x) ? x : std::max(largest, std::abs(x));
    }
    if (std::isnan(scale) != !(largest <= kMostOfF32)) ++n_wrong;
    if (std::isnan(scale)) continue;
    if (largest < double{kRotatedLeast}) {  // nothing is left of it
      if (scale != 0 || rounded.sums[query] != 0) ++n_wrong;
      continue;
    }
    const double roundings = 2 * (std::log2(shape.head_dim) + 1);
    const double tolerance =
        roundings * kUnit * std::sqrt(square) + (0.5 + 127 * 3 * kUnit) * scale;
    int32_t sum = 0;
    for (uint32_t d = 0; d < shape.head_dim; ++d) {
      const double code = rounded.codes[query * rounded.n_codes + d];
      sum += static_cast<int32_t>(code);
      if (!(std::abs(turned[d] - code * scale) <= tolerance)) ++n_wrong;
      if (scale != 1 || std::abs(turned[d] - std::trunc(turned[d])) != 0.5) continue;
      ++n_ties;
      if (code != std::round(turned[d])) ++n_wrong;
    }
    if (sum != rounded.sums[query]) ++n_wrong;
  }
  report.expect(n_wrong == 0, std::to_string(n_wrong) + " codes of queries");
  const bool has_ties = shape.contents == Contents::kUnusual && is_turned_exactly(shape.head_dim);
  report.expect((n_ties > 0) == has_ties, std::to_string(n_ties) + " ties");
}

struct WantedScore {
  double score;
  double tolerance;
};

/// ln(sum exp) of a block's products with a rounded query.
///
/// Values of keys are integers but for the product with the factor. The largest one's part of a
/// score rounds in that product, in three that make the step, in log2 e and the one with the step,
/// in two sums, in ln 2 and the product with it, and two values have a difference that rounded
/// twice: 12 times its size. The centre's part rounds in three products and a sum. A weight 2^x
/// errs by 3 roundings of x, which make at most e^-1 each of the sum, by 2 ulp of exp2, and is
/// rescaled up to 10 times (a lane's keys, three joins), each with 2 ulp, a product and a sum:
/// below 128 roundings of the sum, with those of log2.
///
/// Weights are taken in bits: what f32 does not hold of the step that makes them, of the largest
/// one, of the centre's step or of the score makes that infinite.
WantedScore wanted_score(const RabitqReader& tile, uint32_t head_dim, uint32_t block,
                         const int8_t* codes, float query_scale) {
  const double scale = query_scale;
  const double centre_step = scale * double{tile.steps().centre[block]};
  const double step = scale * double{tile.steps().factor[block]};
  double centre = 0;
  for (uint32_t d = 0; d < head_dim; ++d)
    centre += codes[d] * (double{static_cast<float>(tile.centre(block, d) & 127)} - 64);
  centre *= centre_step;
  double top = -kInfinity, sum = 0, size = 0;
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    double value = 0;
    for (uint32_t d = 0; d < head_dim; ++d) value += codes[d] * (tile.level(block, i, d) - 3.5);
    value *= step * static_cast<int8_t>(tile.factor(block, i));
    const double now = std::max(top, value);
    sum = sum * std::exp(top - now) + std::exp(value - now);
    top = now;
    size = std::max(size, std::abs(value));
  }
  const double score = centre + top + std::log(sum);
  const double bits_per_nat = 1 / std::log(2.0);
  for (const double part : {centre_step, step / 8 * bits_per_nat, top * bits_per_nat, score})
    if (!(std::abs(part) <= kMostOfF32)) return {kInfinity, 0};
  return {score, kUnit * (12 * size + 4 * std::abs(centre) + 128)};
}

/// Device memory, or host memory that it has pinned.
class ScanMemory {
 public:
  ScanMemory(UnderTest& on, bool is_pinned) : on_(on), is_pinned_(is_pinned) {}
  ~ScanMemory() {
    on_.table().wait_stream(on_.stream());
    for (const HostMemory& memory : pinned_) on_.table().unpin(on_.device(), memory.data());
  }
  ScanMemory(const ScanMemory&) = delete;
  ScanMemory& operator=(const ScanMemory&) = delete;

  /// As the device sees them.
  std::byte* place(std::span<const std::byte> bytes) {
    if (!is_pinned_) return on_.upload(bytes);
    pinned_.push_back(HostMemory::reserve(std::max<uint64_t>(bytes.size(), 1)));
    std::ranges::copy(bytes, pinned_.back().data());
    void* mapped = nullptr;
    on_.check(on_.table().pin(on_.device(), pinned_.back().data(), pinned_.back().size(), &mapped));
    return static_cast<std::byte*>(mapped);
  }

 private:
  UnderTest& on_;
  bool is_pinned_;
  std::vector<HostMemory> pinned_;
};

/// Which drawn tile stands at a place of a KV head's list: not in order.
uint32_t drawn_at(const ScanShape& shape, uint32_t head, uint32_t tile) {
  return (tile * 2 + head + shape.n_tiles) % kDrawnTiles;
}

/// A query whose turned values lie between two codes, but for one of 127: the rotation backwards.
void put_ties(std::span<float> q) {
  for (uint32_t j = 0; j < q.size(); ++j) {
    double sum = 127;
    for (uint32_t i = 1; i < q.size(); ++i)
      sum += (std::popcount(i & j) % 2 == 0 ? 1 : -1) * (i % 2 == 0 ? 1 : -1) * (i % 100 + 0.5);
    q[j] = static_cast<float>(testing::rabitq_sign(j, 0) * sum /
                              std::sqrt(static_cast<double>(q.size())));
  }
}

std::vector<float> draw_queries(const ScanShape& shape, std::mt19937& random) {
  const uint64_t n_queries = uint64_t{shape.n_kv_heads} * shape.n_queries();
  auto q = normal_row(n_queries * shape.head_dim, random,
                      shape.query_length / std::sqrt(static_cast<float>(shape.head_dim)));
  const auto row = [&](uint64_t i) {
    return std::span(q).subspan(i * shape.head_dim, shape.head_dim);
  };
  if (shape.contents == Contents::kAllAlike)
    for (float& x : row(0)) x *= 1e-31f;  // nothing, and something times such steps
  if (shape.contents != Contents::kUnusual) return q;
  std::ranges::fill(row(0), 0.0f);
  std::ranges::fill(row(1), -0.0f);
  row(2)[3] = kInfinite;
  row(3)[4] = -kInfinite;
  for (uint32_t d = 0; d < shape.head_dim; ++d)  // finite until it is turned
    row(4)[d] = static_cast<float>(kMostOfF32 * testing::rabitq_sign(d, 0));
  if (is_turned_exactly(shape.head_dim)) put_ties(row(5));
  row(n_queries - 1)[1] = kNan;
  return q;
}

std::vector<float> scan_on_device(UnderTest& on, const ScanShape& shape, const DrawnTiles& tiles,
                                  const std::vector<float>& q) {
  ScanMemory memory(on, shape.is_pinned);
  const std::byte* placed = memory.place(tiles.bytes());
  const uint64_t tile_stride = shape.n_tiles + kSpareTiles;
  std::vector<const std::byte*> list(shape.n_kv_heads * tile_stride);
  for (uint32_t head = 0; head < shape.n_kv_heads; ++head)
    for (uint32_t i = 0; i < shape.n_tiles; ++i)
      list[head * tile_stride + i] = placed + drawn_at(shape, head, i) * tiles.tile_bytes();
  const std::vector<std::byte> untouched(shape.n_scores() * sizeof(float), std::byte{0xFF});
  auto* scores = reinterpret_cast<float*>(memory.place(untouched));
  on.check(on.kernels().scan_codes(on.stream(), {.q = on.upload(q),
                                                 .tiles = reinterpret_cast<const std::byte* const*>(
                                                     memory.place(std::as_bytes(std::span(list)))),
                                                 .tile_stride = tile_stride,
                                                 .n_tiles = shape.n_tiles,
                                                 .head_dim = shape.head_dim,
                                                 .n_kv_heads = shape.n_kv_heads,
                                                 .n_queries = shape.n_queries(),
                                                 .block_scores = scores,
                                                 .score_stride = shape.score_stride(),
                                                 .n_warps = shape.n_warps}));
  return on.download(scores, shape.n_scores());
}

/// What the drawn tiles should score with one query, and what the CPU gives them.
struct WantedOfQuery {
  WantedOfQuery(const ScanShape& shape, const DrawnTiles& tiles, const RoundedQueries& queries,
                uint64_t query)
      : of_cpu(uint64_t{kDrawnTiles} * kExtentBlocks) {
    const int8_t* codes = queries.codes.data() + query * queries.n_codes;
    const float scale = queries.scales[query];
    for (uint32_t i = 0; i < kDrawnTiles; ++i) {
      const std::byte* tile = tiles.tile(i);
      for (uint32_t block = 0; block < kExtentBlocks; ++block)
        exact.push_back(wanted_score({tile, shape.head_dim}, shape.head_dim, block, codes, scale));
      cpu_kernels().rabitq_scan({&tile, 1, shape.head_dim, codes, &scale, &queries.sums[query], 1,
                                 of_cpu.data() + uint64_t{i} * kExtentBlocks, 0});
    }
  }

  std::vector<WantedScore> exact;
  std::vector<float> of_cpu;
};

/// Scores of all queries, what they should be, and the floats between them.
struct Judged {
  std::vector<float> scores, spare;
  std::vector<double> wanted, tolerance, of_cpu, cpu_tolerance;
};

Judged judge(const ScanShape& shape, const DrawnTiles& tiles, const RoundedQueries& queries,
             const std::vector<float>& found) {
  Judged judged;
  for (uint64_t query = 0; query < queries.scales.size(); ++query) {
    const WantedOfQuery of_query(shape, tiles, queries, query);
    const auto head = static_cast<uint32_t>(query / shape.n_queries());
    const float* row = found.data() + query * shape.score_stride();
    for (uint32_t i = 0; i < shape.n_tiles * kExtentBlocks; ++i) {
      const uint32_t at =
          drawn_at(shape, head, i / kExtentBlocks) * kExtentBlocks + i % kExtentBlocks;
      const auto [score, tolerance] = of_query.exact[at];
      judged.scores.push_back(row[i]);
      judged.wanted.push_back(score);
      judged.tolerance.push_back(tolerance);
      judged.of_cpu.push_back(double{of_query.of_cpu[at]});
      judged.cpu_tolerance.push_back(cpu_attn::kWeightTolerance + 3 * tolerance);
    }
    const float* end = row + shape.score_stride();
    judged.spare.insert(judged.spare.end(), end - kSpareScores, end);
  }
  return judged;
}

void scan_case(UnderTest& on, CaseReport& report, const ScanShape& shape) {
  std::mt19937 random(kSeed + shape.head_dim * 131 + shape.n_queries());
  const DrawnTiles tiles(shape, random);
  const auto q = draw_queries(shape, random);
  const RoundedQueries queries(shape, q);
  expect_rounded(report, shape, q, queries);
  const auto found = scan_on_device(on, shape, tiles, q);
  const Judged judged = judge(shape, tiles, queries, found);
  report.expect_near(
      judged.scores, judged.wanted, [&](uint64_t i) { return judged.tolerance[i]; }, "scores");
  const bool is_by_cpu = shape.contents == Contents::kKeys || shape.contents == Contents::kUnusual;
  if (is_by_cpu)  // which counts on steps and factors that it gives itself
    report.expect_near(
        judged.scores, judged.of_cpu, [&](uint64_t i) { return judged.cpu_tolerance[i]; },
        "scores beside the CPU's");
  const std::vector<std::byte> untouched(judged.spare.size() * sizeof(float), std::byte{0xFF});
  report.expect_equal(std::as_bytes(std::span(judged.spare)), untouched, "beside the scores");
}

std::string name_of(const ScanShape& shape) {
  std::string name = "scan/d" + std::to_string(shape.head_dim) + "/group" +
                     std::to_string(shape.group) + "/" + std::to_string(shape.n_rows) + " rows/" +
                     std::to_string(shape.n_kv_heads) + "x" + std::to_string(shape.n_tiles) +
                     " tiles";
  if (shape.contents == Contents::kUnusual) name += "/unusual";
  if (shape.contents == Contents::kAllAlike) name += "/all alike";
  if (shape.contents == Contents::kAnyBytes) name += "/any bytes";
  if (shape.query_length > 100) name += "/far apart";
  if (shape.n_warps == 1) name += "/tiles in turn";
  return shape.is_pinned ? name + "/pinned" : name;
}

}  // namespace

std::vector<GpuCase> scan_cases() {
  std::vector<ScanShape> shapes;
  for (const uint32_t head_dim : {8u, 24u, 40u, 64u, 80u, 96u, 128u, 160u, 200u, 256u})
    shapes.push_back({.head_dim = head_dim, .group = 3, .n_kv_heads = 2});
  for (uint32_t group = 1; group <= 8; ++group)
    shapes.push_back({.head_dim = 128, .group = group, .n_tiles = 1 + group % 3});
  for (const uint32_t n_rows : {2u, 3u, 5u, 8u})
    shapes.push_back({.head_dim = 64, .group = 4, .n_rows = n_rows, .n_tiles = 6 - n_rows % 5});
  // A warp has several tiles: of many queries two, of one warp two and three.
  shapes.push_back({.head_dim = 64, .group = 3, .n_rows = 7, .n_tiles = 11, .n_kv_heads = 2});
  for (const uint32_t head_dim : {64u, 128u, 256u}) {
    shapes.push_back({.head_dim = head_dim, .group = 16, .n_rows = 2, .n_tiles = 6});
    for (const uint32_t group : {3u, 9u})  // a tile of queries, and two
      shapes.push_back({.head_dim = head_dim, .group = group, .n_tiles = 11, .n_warps = 1});
  }
  for (const auto& [head_dim, n_rows] : {std::pair{128u, 8u}, {256u, 3u}})
    shapes.push_back({.head_dim = head_dim, .group = 16, .n_rows = n_rows, .n_tiles = 1});
  for (const uint32_t head_dim : {32u, 64u, 128u, 256u})
    for (const Contents contents : {Contents::kUnusual, Contents::kAllAlike, Contents::kAnyBytes})
      shapes.push_back({.head_dim = head_dim, .group = 5, .n_kv_heads = 2, .contents = contents});
  for (const uint32_t head_dim : {64u, 128u})  // beyond what exp holds
    shapes.push_back({.head_dim = head_dim, .group = 4, .query_length = 400});
  shapes.push_back({.head_dim = 128, .group = 4, .n_kv_heads = 2, .is_pinned = true});
  shapes.push_back({.head_dim = 64, .n_tiles = 100});
  shapes.push_back({.head_dim = 128, .group = 4, .n_tiles = 0, .n_kv_heads = 2});
  std::vector<GpuCase> cases;
  cases.reserve(shapes.size() + 2);
  for (const ScanShape& shape : shapes)
    cases.push_back({name_of(shape), [shape](UnderTest& device, CaseReport& report) {
                       scan_case(device, report, shape);
                     }});
  // So many that a warp has several tiles: on a card alone.
  for (const uint32_t group : {4u, 12u}) {
    const ScanShape shape{.head_dim = 128, .group = group, .n_tiles = 515, .n_kv_heads = 8};
    cases.push_back(
        {name_of(shape),
         [shape](UnderTest& device, CaseReport& report) { scan_case(device, report, shape); },
         false});
  }
  return cases;
}

}  // namespace strata::gpu_test

#include "index/method.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "index/cluster_selector.h"
#include "index/digest_selector.h"
#include "index/oracle_selector.h"
#include "index/pq_selector.h"
#include "index/rabitq_selector.h"
#include "index/recent_selector.h"
#include "index/sparq_selector.h"

namespace strata::index {
namespace {

constexpr std::array kMethods = {
    MethodName{Method::kOracle, "oracle", "exact weights from copies of the keys, for comparison"},
    MethodName{Method::kRecent, "recent", "the first and the latest blocks only (StreamingLLM)"},
    MethodName{Method::kQuest, "quest", "bounds from each page's least and largest keys (Quest)"},
    MethodName{Method::kCuboid, "cuboid", "centre and deviation of each page's keys (ArkVale)"},
    MethodName{Method::kMean, "mean", "mean key of each page (landmarks)"},
    MethodName{Method::kPq, "pq", "every key, by product quantisation (PQCache)"},
    MethodName{Method::kRabitq, "rabitq", "every key, rotated and rounded (RaBitQ, ParisKV)"},
    MethodName{Method::kRabitqTail, "rabitq+tail",
               "rabitq, with an estimate of what is not attended"},
    MethodName{Method::kCluster, "cluster",
               "four clusters of each block, the fewest bytes (RetroInfer)"},
    MethodName{Method::kClusterTail, "cluster+tail",
               "cluster, with an estimate of what is not attended"},
    MethodName{Method::kSparq, "sparq",
               "every key, in a quarter of its dimensions: those that a query is large in (SparQ)"},
};

/// What a method keeps of a page; nothing where it keeps no digests.
std::optional<Digest> digest_of(Method method) {
  switch (method) {
    case Method::kQuest:
      return Digest::kBounds;
    case Method::kCuboid:
      return Digest::kCuboid;
    case Method::kMean:
      return Digest::kMean;
    case Method::kOracle:
    case Method::kRecent:
    case Method::kPq:
    case Method::kRabitq:
    case Method::kRabitqTail:
    case Method::kCluster:
    case Method::kClusterTail:
    case Method::kSparq:
      return std::nullopt;
  }
  STRATA_CHECK(false, "method %d", static_cast<int>(method));
}

Tail tail_of(Method method) {
  return method == Method::kRabitqTail || method == Method::kClusterTail ? Tail::kMeanValues
                                                                         : Tail::kNone;
}

bool is_cluster(Method method) {
  return method == Method::kCluster || method == Method::kClusterTail;
}

/// Bytes of rows per extent of a stream; 0 = none are kept.
uint64_t tile_bytes(Method method, uint32_t head_dim) {
  if (const auto digest = digest_of(method))
    return round_up(digest_tile_bytes(DigestSelector::n_dims(*digest, head_dim)), 64);
  if (method == Method::kOracle) return OracleSelector::tile_bytes(head_dim);
  if (method == Method::kRabitq || method == Method::kRabitqTail)
    return rabitq_tile_bytes(head_dim) + tail_tile_bytes(tail_of(method), head_dim);
  if (is_cluster(method))
    return cluster_tile_bytes(head_dim) + tail_tile_bytes(tail_of(method), head_dim);
  if (method == Method::kSparq) return sparq_tile_bytes(head_dim);
  return method == Method::kPq ? PqSelector::tile_bytes() : 0;
}

uint32_t n_slots(const IndexShape& shape) {
  return shape.n_streams * (tile_slots(shape.n_blocks) + 2 * shape.n_sequences);
}

}  // namespace

std::span<const MethodName> method_names() { return kMethods; }

bool has_rotated_codes(Method method) { return method == Method::kRabitq; }

bool has_tail(Method method) { return tail_of(method) != Tail::kNone; }

std::string rows_kind(Method method) {
  switch (method) {
    case Method::kOracle:
    case Method::kRecent:
      return "";
    case Method::kQuest:
      return "quest1";
    case Method::kCuboid:
      return "cuboid1";
    case Method::kMean:
      return "mean1";
    case Method::kPq:
      return "pq1";
    case Method::kRabitq:
      return "rabitq3";
    case Method::kRabitqTail:
      return "rabitqtail3";
    case Method::kCluster:
      return "cluster1";
    case Method::kClusterTail:
      return "clustertail1";
    case Method::kSparq:
      return "sparq1";
  }
  STRATA_CHECK(false, "method %d", static_cast<int>(method));
}

Method find_method(std::string_view name) {
  const auto found = std::ranges::find(kMethods, name, &MethodName::name);
  if (found != kMethods.end()) return found->method;
  std::string names = "exact";
  for (const MethodName& of : kMethods) names += std::string(", ") + of.name;
  throw Error(ErrorCode::kUsage, "unknown attention method '" + std::string(name) + "'", "--attn",
              "wanted one of: " + names);
}

void check_supported(Method method, const KvLayout& layout) {
  if (method != Method::kPq || layout.head_dim % kPqSubspaces == 0) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("method 'pq' cuts keys into {} equal parts, head_dim is {}", kPqSubspaces,
                          layout.head_dim),
              "--attn", "choose another method");
}

uint64_t index_bytes(Method method, const IndexShape& shape) {
  const uint64_t rows =
      tile_bytes(method, shape.layout.head_dim) * TileMemory::kSlotTiles * n_slots(shape);
  if (method != Method::kPq) return rows;
  return rows + uint64_t{shape.n_sequences} * shape.n_streams *
                    PqSelector::stream_bytes(shape.layout, shape.n_blocks);
}

uint64_t edition_bytes(Method method, const IndexShape& shape) {
  const bool has_tiles = tile_bytes(method, shape.layout.head_dim) > 0;
  return has_tiles ? TileMemory::edition_bytes(n_slots(shape)) : 0;
}

uint64_t segment_bytes(Method method, const KvLayout& layout) {
  const uint64_t tile = tile_bytes(method, layout.head_dim);
  return method == Method::kPq
             ? PqSelector::kSegmentExtents * tile + PqSelector::codebook_bytes(layout)
             : tile;
}

double scanned_bytes(Method method, const KvLayout& layout, uint32_t n_queries) {
  if (method == Method::kSparq)
    return static_cast<double>(
               SparqSelector::read_bytes_max(kExtentBlocks, layout.head_dim, n_queries)) /
           kExtentPositions;
  const uint32_t n_extents = method == Method::kPq ? PqSelector::kSegmentExtents : 1;
  return static_cast<double>(segment_bytes(method, layout)) / (n_extents * kExtentPositions);
}

SelectorSource::SelectorSource(Method method, const IndexShape& shape, const KernelTable& kernels)
    : method_(method), shape_(shape), kernels_(kernels) {
  check_supported(method, shape.layout);
  if (const uint64_t bytes = tile_bytes(method, shape.layout.head_dim); bytes > 0)
    memory_ = std::make_shared<TileMemory>(bytes, n_slots(shape));
}

std::unique_ptr<Selector> SelectorSource::make() const {
  if (const auto digest = digest_of(method_))
    return std::make_unique<DigestSelector>(*digest, shape_.layout, kernels_, memory_,
                                            shape_.n_streams);
  if (method_ == Method::kRecent) return std::make_unique<RecentSelector>();
  if (method_ == Method::kPq)
    return std::make_unique<PqSelector>(shape_.layout, kernels_, memory_, shape_.n_streams);
  if (method_ == Method::kRabitq || method_ == Method::kRabitqTail)
    return std::make_unique<RabitqSelector>(shape_.layout, kernels_, memory_, shape_.n_streams,
                                            tail_of(method_));
  if (is_cluster(method_))
    return std::make_unique<ClusterSelector>(shape_.layout, kernels_, memory_, shape_.n_streams,
                                             tail_of(method_));
  if (method_ == Method::kSparq)
    return std::make_unique<SparqSelector>(shape_.layout, kernels_, memory_, shape_.n_streams);
  return std::make_unique<OracleSelector>(shape_.layout, kernels_, memory_, shape_.n_streams);
}

}  // namespace strata::index

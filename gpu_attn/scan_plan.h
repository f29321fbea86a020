// gpu_attn/scan_plan.h - how a scan of codes is cut: what a warp takes at once, and the shared
// memory of a launch. Why: a test compares them with what the gates of kernels are told.
#pragma once

#include <algorithm>

#include "base/device_kernels.h"
#include "base/index_kernels.h"

namespace strata::gpu_attn {

inline constexpr uint32_t kQuads = kRabitqGroup / 4;
inline constexpr uint32_t kScanWarps = 4;   // of a thread block
inline constexpr uint32_t kSlots = 4;       // lanes that have a row of an operand together
inline constexpr uint32_t kLaneBlocks = 4;  // whose codes a lane holds
inline constexpr uint32_t kLaneBytes = kLaneBlocks * sizeof(uint32_t);
inline constexpr uint32_t kWarpBytes = 32 * kLaneBytes;  // that its lanes load at once
inline constexpr uint32_t kLineBytes = 2 * kExtentBlocks * sizeof(uint32_t);  // of a pair of keys

/// kChunk groups of dimensions lie side by side in a product; kChunks chunks are a head. Lanes have
/// kKeys keys side by side. A pass takes kTiles tiles of queries.
template <uint32_t kChunksOf, uint32_t kKeysOf, uint32_t kTilesOf>
struct ScanPlan {
  static constexpr uint32_t kChunks = kChunksOf;
  static constexpr uint32_t kKeys = kKeysOf;
  static constexpr uint32_t kTiles = kTilesOf;
  static constexpr uint32_t kChunk = kSlots / kKeys;
  static constexpr uint32_t kHeadDimMax = kChunks * kChunk * kRabitqGroup;
  static constexpr uint32_t kTileQueries = kDeviceScanColumns / kKeys;
  static constexpr uint32_t kPass = kTiles * kTileQueries;
  static constexpr uint32_t kQueryWords = kChunks * kChunk * kQuads;
  static constexpr uint32_t kStepPairs = 2 * kKeys;  // of keys
  static constexpr uint32_t kSteps = kBlockPositions / 2 / kStepPairs;
  static constexpr uint32_t kStepBytes = kChunks * kRabitqGroupWords * kWarpBytes;  // at most
  static constexpr uint32_t kStages = 4 / kChunks;  // steps that shared memory holds
  // Of a multiprocessor: more would lack registers.
  static constexpr uint32_t kThreadBlocks = kChunks * kTiles == 4 ? 2 : 5 - kChunks * kTiles;
  static constexpr uint32_t kStepsAtOnce = 2 / kTiles;  // whose values registers hold
  static_assert(kSteps % kStages == 0 && kSteps % kStepsAtOnce == 0);
  static_assert(kHeadDimMax == device_scan_dims(kHeadDimMax) &&
                kTileQueries == device_scan_tile(kHeadDimMax));
};

/// What stands behind a tile's codes.
constexpr uint32_t scan_rest_bytes(uint32_t head_dim) {
  return static_cast<uint32_t>(rabitq_tile_bytes(head_dim) - rabitq_codes_bytes(head_dim));
}

/// Queries of a KV head, up to whole passes.
template <class Plan>
constexpr uint32_t scan_padded_queries(uint32_t n_queries) {
  return (n_queries + Plan::kPass - 1) / Plan::kPass * Plan::kPass;
}

/// Bytes of a thread block: a ring of steps, two rests and a query for each warp, then all queries'
/// codes, scales and sums.
template <class Plan>
constexpr uint32_t scan_shared_bytes(uint32_t head_dim, uint32_t n_queries) {
  const uint32_t of_warp = Plan::kStages * Plan::kStepBytes + 2 * scan_rest_bytes(head_dim) +
                           head_dim * uint32_t{sizeof(float)};
  const uint32_t of_query = (Plan::kQueryWords + 2) * uint32_t{sizeof(uint32_t)};
  return kScanWarps * of_warp + scan_padded_queries<Plan>(n_queries) * of_query;
}

/// The most that a launch takes: plans of one tile are for as many queries, those of two for all.
template <class Plan>
constexpr uint32_t scan_shared_bytes_max() {
  return scan_shared_bytes<Plan>(
      Plan::kHeadDimMax, Plan::kTiles == 1 ? Plan::kPass : kDeviceFewRows * kDeviceGroupMax);
}

/// What a thread block may have on every card from 8.0 on ("Technical Specifications per Compute
/// Capability" of the CUDA C++ Programming Guide: 99 KiB on 8.6, 8.9 and 12.0).
inline constexpr uint32_t kScanSharedLimit = 99 * 1024;
static_assert(std::max({scan_shared_bytes_max<ScanPlan<1, 2, 2>>(),
                        scan_shared_bytes_max<ScanPlan<1, 1, 2>>(),
                        scan_shared_bytes_max<ScanPlan<2, 1, 2>>(),
                        scan_shared_bytes_max<ScanPlan<2, 1, 1>>()}) <= kScanSharedLimit);

}  // namespace strata::gpu_attn

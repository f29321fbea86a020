// index/pq_selector.h - product quantisation: keys as 16 codes of 6 bits, scored one by one through
// look-up tables of the query. Source: PQCache (arXiv 2407.12820); what differs stands in
// index/pq_codebook.h.
//
// Codebooks. Each stream has its own, trained on the first kSampleExtents extents. Until these are
// there their K bytes are kept and scored exactly; then they are encoded and go. Where the mean
// error of the last kDriftExtents extents exceeds kDriftFactor times the training error, the keys
// that follow are sampled in the same way for a new codebook; what has codes keeps them, and the
// codebook. All of it is decided at multiples of an extent and from the keys alone, so that a
// rebuilt index has the same bytes however it was cut into steps.
//
// Weight of a block: the largest of its keys' scores, scale * (sum of 16 table entries) + offset,
// in coded and in sampled blocks alike. Error bound: build_pq_table(); against the keys themselves,
// the quantisation error on top.
//
// Tile: kPqTileBytes of codes and a trailer of 64 bytes (PqTrailer).
// Memory besides tiles: codebooks, and samples in blocks from the heap, which forks share.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "index/pq_codebook.h"
#include "index/tiled_selector.h"

namespace strata::index {

/// What follows the codes of an extent.
struct PqTrailer {
  uint32_t codebook;  // its number in the stream, or PqSelector::kNoCodebook
  uint32_t infinite;  // bit per block: has keys that are not finite
  // Mean |key - centroids|^2 of each block's keys; 0 where they are not finite.
  std::array<float, kExtentBlocks> errors;
  std::array<uint32_t, 6> zeros;
};
static_assert(sizeof(PqTrailer) == 64);

class PqSelector : public TiledSelector {
 public:
  static constexpr uint32_t kNoCodebook = ~0u;
  static constexpr uint32_t kSampleExtents = 8;  // 2,048 keys
  static constexpr uint32_t kDriftExtents = 16;  // 4,096 keys
  static constexpr double kDriftFactor = 1.3;
  static constexpr uint32_t kMaxCodebooks = 8;  // of a stream; the last one stays

  /// layout.head_dim is a multiple of kPqSubspaces.
  PqSelector(const KvLayout& layout, const KernelTable& kernels, std::shared_ptr<TileMemory> memory,
             uint32_t n_streams);
  static uint64_t tile_bytes() { return kPqTileBytes + sizeof(PqTrailer); }
  /// The most that one stream of n_blocks blocks holds besides tiles: a sample and codebooks. A
  /// fork that goes its own way holds the blocks it samples and the codebooks it trains once more.
  static uint64_t stream_bytes(const KvLayout& layout, uint32_t n_blocks);

  /// Blocks of a stream in ascending order; one that was observed before is passed over. The block
  /// that completes a sample costs the training (docs/adr/0006-codebooks.md has times), and its
  /// memory: the sample as f32.
  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t n_queries) const override;
  void estimate(const EstimateArgs& args) const override;
  void truncate(uint32_t n_blocks) override;
  std::unique_ptr<Selector> fork() const override;

  std::span<const std::byte> rows(StreamIdx stream, uint32_t extent) const override;
  void load_rows(StreamIdx stream, uint32_t extent, std::span<const std::byte> bytes) override;
  uint32_t n_codebooks(StreamIdx stream) const override;
  std::span<const std::byte> codebook(StreamIdx stream, uint32_t idx) const override;
  void load_codebook(StreamIdx stream, std::span<const std::byte> bytes) override;

 private:
  struct Codebook {
    std::shared_ptr<const PqCodebook> book;
    uint32_t first_extent;  // that has codes of it; kUnused after load_codebook
  };
  /// K bytes and scales of a block, as they lie in the layout.
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  using RawBlock = std::shared_ptr<const Line[]>;
  struct Stream {
    std::vector<Codebook> codebooks;
    std::vector<RawBlock> sample;    // the last blocks observed, where they have no codes yet
    std::vector<uint32_t> infinite;  // blocks with keys that are not finite, ascending
    uint32_t n_observed = 0;         // blocks
    uint32_t n_coded() const { return n_observed - static_cast<uint32_t>(sample.size()); }
  };
  static constexpr uint32_t kUnused = ~0u;

  PqSelector(const PqSelector&) = default;
  const Stream& at(StreamIdx stream) const;
  PqTrailer& trailer(StreamIdx stream, uint32_t extent);
  const PqTrailer& trailer(StreamIdx stream, uint32_t extent) const;
  bool begins_sample(StreamIdx stream, uint32_t extent) const;
  bool has_drifted(StreamIdx stream, uint32_t extent) const;
  void keep_raw(StreamIdx stream, const std::byte* block);
  void train(StreamIdx stream);
  void encode(StreamIdx stream, uint32_t block_idx, const float* keys);
  void scan(const EstimateArgs& args, const PqCodebook& book, uint32_t first_extent,
            uint32_t end_extent) const;
  void score_sample(const EstimateArgs& args, uint32_t first_block) const;

  std::vector<Stream> streams_;
};

}  // namespace strata::index

// index/pq_selector.h - product quantisation: keys as 16 codes of 6 bits, scored one by one through
// look-up tables of the query. Source: PQCache (arXiv 2407.12820); what differs stands in
// index/pq_codebook.h.
//
// Codebooks. Keys after RoPE turn with their position, so that a codebook serves no keys but those
// it was trained on: each stream has one for every kSegmentBlocks blocks. Until these are there
// their K bytes are kept and scored as they are; then they are encoded. All of it is decided
// at fixed positions and from the keys alone, so that a rebuilt index has the same bytes however it
// was cut into steps. What comes anew where a trained segment was truncated gets its codebook, and
// is not saved, nor is what comes after it.
//
// Weight of a block: ln(sum exp) over the larger scores of its 16 pairs of neighbouring keys, of
// coded and of kept blocks alike (base/index_kernels.h has the errors of tables; on top of these
// is the quantisation error).
//
// Tile: kPqTileBytes of codes and a trailer of 64 bytes (PqTrailer).
// Memory besides tiles: codebooks, and a segment of kept blocks per stream; forks share both. A
// segment is taken at once and used again for the next: taken from the heap and given back block by
// block, kept blocks left holes among the codebooks, 77 MB of them beside 262 MB at 131,072
// positions of 90 streams.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "index/pq_codebook.h"
#include "index/tiled_selector.h"

namespace strata::index {

/// What follows the codes of an extent.
struct PqTrailer {
  uint32_t infinite;  // bit per block: has keys that are not finite
  std::array<uint32_t, 15> zeros;
};
static_assert(sizeof(PqTrailer) == 64);

class PqSelector : public TiledSelector {
 public:
  static constexpr uint32_t kSegmentExtents = 4;  // 1,024 keys, a quarter of a slot of TileMemory
  static constexpr uint32_t kSegmentBlocks = kSegmentExtents * kExtentBlocks;

  /// layout.head_dim is a multiple of kPqSubspaces.
  PqSelector(const KvLayout& layout, const KernelTable& kernels, std::shared_ptr<TileMemory> memory,
             uint32_t n_streams);
  static uint64_t tile_bytes() { return kPqTileBytes + sizeof(PqTrailer); }
  /// The most that one stream of n_blocks blocks holds besides tiles: kept blocks and codebooks. A
  /// fork that goes its own way holds a segment of kept blocks and the codebooks it trains once
  /// more.
  static uint64_t stream_bytes(const KvLayout& layout, uint32_t n_blocks);

  /// Blocks of a stream in ascending order; one that was observed before is passed over. The block
  /// that completes a segment costs the training (docs/adr/0006-codebooks.md has times), and its
  /// memory: the segment's keys as f32.
  void observe(StreamIdx stream, uint32_t block_idx, const std::byte* block) override;
  uint64_t scratch_floats(uint32_t n_queries) const override;
  void estimate(const EstimateArgs& args) const override;
  /// With codebooks and kept blocks, of a stream that was never truncated.
  uint64_t held_bytes(uint64_t n_blocks) const override;
  void truncate(uint32_t n_blocks) override;
  std::unique_ptr<Selector> fork() const override;

  std::span<const std::byte> rows(StreamIdx stream, uint32_t extent) const override;
  uint32_t n_codebooks(StreamIdx stream) const override;
  std::span<const std::byte> codebook(StreamIdx stream, uint32_t idx) const override;
  static uint64_t codebook_bytes(const KvLayout& layout) {
    return uint64_t{kPqCentroids} * layout.head_dim * sizeof(float);
  }
  uint64_t codebook_bytes() const override { return codebook_bytes(layout_); }
  uint32_t segment_extents() const override { return kSegmentExtents; }
  uint32_t n_segments(StreamIdx stream) const override { return at(stream).n_of_text; }
  bool loads_in_any_order() const override { return false; }
  void load_segment(StreamIdx stream, uint32_t segment, std::span<const std::byte> bytes) override;

 private:
  /// K bytes and scales of a block, as they lie in the layout.
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };
  struct Stream {
    std::vector<std::shared_ptr<const PqCodebook>> codebooks;  // of the first segments
    // The last blocks observed, where they have no codes yet: room for a segment, shared by forks
    // until one of them keeps another block. Null before the first.
    std::shared_ptr<Line[]> kept;
    uint32_t n_kept = 0;
    std::vector<uint32_t> infinite;  // blocks with keys that are not finite, ascending
    uint32_t n_observed = 0;         // blocks
    // Of the codebooks, the first ones, which were trained on keys that are all there.
    uint32_t n_of_text = 0;
    uint32_t n_coded() const { return n_observed - n_kept; }
  };

  PqSelector(const PqSelector&) = default;
  const Stream& at(StreamIdx stream) const;
  PqTrailer& trailer(StreamIdx stream, uint32_t extent);
  const PqTrailer& trailer(StreamIdx stream, uint32_t extent) const;
  uint32_t block_lines() const { return layout_.v_offset / sizeof(Line); }
  const std::byte* kept_block(const Stream& stream, uint32_t idx) const {
    return stream.kept[size_t{idx} * block_lines()].bytes.data();
  }
  void keep_raw(StreamIdx stream, const std::byte* block);
  void train(StreamIdx stream);
  void encode(StreamIdx stream, uint32_t block_idx, const float* keys);
  void scan(const EstimateArgs& args, const PqCodebook& book, const PqCodebook* next,
            uint32_t first_extent, uint32_t end_extent) const;
  void score_kept(const EstimateArgs& args, uint32_t first_block) const;

  std::vector<Stream> streams_;
};

}  // namespace strata::index

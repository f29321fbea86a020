// tiers/pack_format.h - the bytes of a pack: the K and V blocks of a run of positions of one text,
// every layer and stream of them (docs/adr/0002-saved-contexts.md).
//
//   regions  for each extent of 256 positions, for each layer: [n_kv_heads][blocks of the extent]
//            blocks, padded to 4,096 bytes. One layer of an extent is one aligned read, and an
//            extent's layers follow each other. A layer that lacks all blocks has no region.
//   tags     [n_streams][n_blocks] of 16 bytes, streams in layer order; zero for absent blocks
//   head     shape, run, tokens and which were generated, presence: all that finding a pack needs
//   trailer  64 bytes: magic, version, sizes, hash of the tags, hash of head and trailer
//
// The head is last because it is known last; a pack that has a name is whole, since it gets its
// name after its bytes are on the disk. Little-endian throughout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/kv_layout.h"
#include "tiers/block_tag.h"

namespace strata::tiers {

inline constexpr uint32_t kPackVersion = 2;
inline constexpr uint32_t kPackPositionsMax = 4096;
inline constexpr uint64_t kRegionAlignment = 4096;
inline constexpr uint32_t kPackLayersMax = 1024;
inline constexpr uint32_t kPackKvHeadsMax = 256;  // of one layer
inline constexpr uint32_t kPackHeadDimMax = 4096;
inline constexpr uint64_t kPackTrailerBytes = 64;
/// Head and trailer of any pack fit into its last so many bytes: one read finds both.
inline constexpr uint64_t kPackTailBytes = uint64_t{64} * 1024;

struct PackLayer {
  uint32_t n_kv_heads = 0;  // 0 where the layer reads another one's blocks
  uint32_t window = 0;      // positions attended; 0 = all
  bool operator==(const PackLayer&) const = default;
};

/// What two runs must have in common for one to read the other's blocks.
struct PackShape {
  Hash128 model;  // of the weights and hyper-parameters, RoPE included
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t head_dim = 0;
  std::vector<PackLayer> layers;
  bool operator==(const PackShape&) const = default;
};

/// Which run of which text. A row's RoPE position is its position in the text.
struct PackRun {
  PackShape shape;
  uint32_t first_pos = 0;       // a multiple of 256
  Hash128 chain_before;         // of the text before the run
  std::vector<int32_t> tokens;  // of the run, 1 to 4,096
  // As tokens: 1 where a model generated it, 0 where a tokenizer made it of text. Says how a text
  // may be found, not what the blocks hold. Empty = all 0.
  std::vector<uint8_t> is_generated;
};

/// A run, and which of its blocks a pack holds.
struct PackHead {
  PackRun run;
  std::vector<Hash128> chains;    // after each block, computed from the tokens and never read
  std::vector<uint8_t> presence;  // [n_layers][n_blocks], 1 = there, in all streams of the layer
  Hash128 tags_hash;              // of the tag table's bytes

  /// With every block present. A run that breaks the limits above is a bug (STRATA_CHECK).
  static PackHead of(PackRun run);

  uint32_t n_layers() const { return static_cast<uint32_t>(run.shape.layers.size()); }
  uint32_t n_positions() const { return static_cast<uint32_t>(run.tokens.size()); }
  uint32_t end_pos() const { return run.first_pos + n_positions(); }
  uint32_t n_blocks() const { return static_cast<uint32_t>(chains.size()); }
  uint32_t n_extents() const { return (n_blocks() + kExtentBlocks - 1) / kExtentBlocks; }
  uint32_t extent_blocks(uint32_t extent) const;   // 8, fewer in the last one
  uint32_t block_positions(uint32_t block) const;  // 32, fewer in the last one
  const Hash128& chain_end() const { return chains.back(); }
  bool has(uint32_t layer, uint32_t block) const {
    return presence[uint64_t{layer} * n_blocks() + block] != 0;
  }
  /// Has the layer any block of the extent?
  bool has_region(uint32_t layer, uint32_t extent) const;
  BlockIdentity identity(uint32_t layer, uint32_t kv_head, uint32_t block) const;
};

/// Where the parts of a pack lie.
struct PackGeometry {
  static constexpr uint64_t kNoRegion = UINT64_MAX;

  uint32_t n_layers = 0;
  uint32_t n_blocks = 0;
  uint32_t block_bytes = 0;
  std::vector<uint64_t> region_offsets;  // [n_extents][n_layers], kNoRegion where there is none
  std::vector<uint32_t> first_streams;   // [n_layers + 1]: streams of the layers before
  uint64_t tags_offset = 0;              // = bytes of the regions
  uint64_t tags_bytes = 0;
  uint64_t head_offset = 0;

  explicit PackGeometry(const PackHead& head);

  uint64_t region_offset(uint32_t extent, uint32_t layer) const {
    return region_offsets[uint64_t{extent} * n_layers + layer];
  }
  uint64_t n_tags() const { return uint64_t{first_streams.back()} * n_blocks; }
  uint64_t tag_idx(uint32_t layer, uint32_t kv_head, uint32_t block) const {
    return (uint64_t{first_streams[layer]} + kv_head) * n_blocks + block;
  }
};

/// Bytes of a region without and with its padding.
uint64_t region_payload_bytes(const PackHead& head, const PackGeometry& geometry, uint32_t extent,
                              uint32_t layer);

/// Bytes of the whole file at most, that is with every block present.
uint64_t pack_bytes_max(const PackRun& run);

/// Equal shapes have equal ones, and others by chance alone do.
Hash128 shape_hash(const PackShape& shape);

/// The name of a pack's file: its chain hash at the end and a hash of shape, run and presence, as
/// 32 + 1 + 32 hexadecimal digits, then ".pack". Two packs of one name hold the same blocks; which
/// tokens were generated is no part of it.
std::string pack_file_name(const PackHead& head);
std::string pack_file_name(const Hash128& chain_end, const Hash128& contents);
bool is_pack_file_name(std::string_view name);

/// Tags, head and trailer: what follows the regions. `tags` as PackGeometry::tag_idx numbers them.
std::vector<std::byte> encode_pack_end(PackHead& head, std::span<const Hash128> tags);

/// The head of a pack of file_bytes, from its last min(file_bytes, kPackTailBytes) bytes. Trusts
/// nothing: every size is checked against file_bytes before anything of that size is made, and all
/// of it is right or nothing is returned.   Errors: kBadFile, kUnsupported (another version).
PackHead parse_pack_head(std::span<const std::byte> tail, uint64_t file_bytes,
                         const std::string& name);

/// The tags, from the bytes at geometry.tags_offset. Errors: kBadFile.
std::vector<Hash128> parse_pack_tags(const PackHead& head, const PackGeometry& geometry,
                                     std::span<const std::byte> bytes, const std::string& name);

/// Sets the rows from n_rows on to zero: what an open block held before must not reach a file.
void clear_rows_from(uint32_t n_rows, const KvLayout& layout, std::span<std::byte> block);

}  // namespace strata::tiers

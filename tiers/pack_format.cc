#include "tiers/pack_format.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/byte_fields.h"

namespace strata::tiers {
namespace {

constexpr std::array<char, 8> kMagic = {'S', 'T', 'R', 'A', 'P', 'A', 'C', 'K'};
constexpr uint64_t kHashBytes = 16;
constexpr uint64_t kHeadFixedBytes = 8 * 4 + 3 * kHashBytes;
constexpr std::string_view kNameEnd = ".pack";

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw Error(ErrorCode::kBadFile, "a damaged saved context: " + problem, name,
              "Remove the file; its positions will be computed again.");
}

/// Apart from the enumerators, so that their order may change.
uint32_t code_of(KvCodec codec) { return codec == KvCodec::kF16 ? 1 : 2; }

KvCodec codec_of(uint32_t code, const std::string& name) {
  if (code != 1 && code != 2) refuse(name, "codec " + std::to_string(code) + " is unknown");
  return code == 1 ? KvCodec::kF16 : KvCodec::kQ8_0;
}

uint64_t presence_row_bytes(uint32_t n_blocks) { return div_up(n_blocks, 8); }

/// Eight to a byte, the first in its lowest bit.
void put_bits(std::span<const uint8_t> flags, FieldWriter& out) {
  for (size_t i = 0; i < flags.size(); i += 8) {
    uint8_t bits = 0;
    for (size_t j = i; j < std::min(i + 8, flags.size()); ++j)
      bits = static_cast<uint8_t>(bits | (flags[j] != 0 ? 1u << (j - i) : 0u));
    out.put(bits);
  }
}

/// False where a bit behind the last flag is set.
bool take_bits(FieldReader& in, std::span<uint8_t> flags) {
  const auto bytes = in.take_bytes(div_up(flags.size(), 8));
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    const bool bit = (std::to_integer<unsigned>(bytes[i / 8]) >> (i % 8) & 1) != 0;
    if (i < flags.size())
      flags[i] = bit;
    else if (bit)
      return false;
  }
  return true;
}

/// What is wrong with a run, or "". With these limits no size below can wrap: a pack has less than
/// 2^10 layers x 2^8 heads x 2^7 blocks x 2^19 bytes.
std::string problem_of(const PackRun& run) {
  const PackShape& shape = run.shape;
  const bool quantised = shape.k_codec == KvCodec::kQ8_0 || shape.v_codec == KvCodec::kQ8_0;
  const uint32_t step = quantised ? 32 : 8;
  const auto is_not = [](const char* what, uint64_t found, const std::string& wanted) {
    return std::string(what) + " is " + std::to_string(found) + ", not " + wanted;
  };
  if (shape.head_dim == 0 || shape.head_dim > kPackHeadDimMax || shape.head_dim % step != 0)
    return is_not("head_dim", shape.head_dim, "a multiple of " + std::to_string(step));
  if (shape.layers.empty() || shape.layers.size() > kPackLayersMax)
    return is_not("the number of layers", shape.layers.size(), "1 to 1024");
  for (const PackLayer& layer : shape.layers) {
    if (layer.n_kv_heads > kPackKvHeadsMax)
      return is_not("the number of KV heads", layer.n_kv_heads, "0 to 256");
  }
  if (run.tokens.empty() || run.tokens.size() > kPackPositionsMax)
    return is_not("the number of positions", run.tokens.size(), "1 to 4096");
  if (run.first_pos % kExtentPositions != 0 || run.first_pos > uint32_t{INT32_MAX} - 4096)
    return is_not("the first position", run.first_pos, "a multiple of 256 below 2^31");
  return "";
}

std::vector<Hash128> chains_of(const PackRun& run) {
  std::vector<Hash128> chains;
  Hash128 chain = run.chain_before;
  const std::span<const int32_t> tokens = run.tokens;
  for (size_t at = 0; at < tokens.size(); at += kBlockPositions) {
    const size_t n = std::min<size_t>(kBlockPositions, tokens.size() - at);
    chain = extend_chain(chain, tokens.subspan(at, n));
    chains.push_back(chain);
  }
  return chains;
}

/// What tells one pack from another: the head without what was generated.
std::vector<std::byte> encode_contents(const PackHead& head) {
  const PackShape& shape = head.run.shape;
  FieldWriter out;
  out.put(kKvLayoutVersion);
  out.put(code_of(shape.k_codec));
  out.put(code_of(shape.v_codec));
  out.put(shape.head_dim);
  out.put(head.n_layers());
  out.put(head.run.first_pos);
  out.put(head.n_positions());
  out.put(uint32_t{0});
  out.put(shape.model);
  out.put(head.run.chain_before);
  out.put(head.chain_end());
  for (const PackLayer& layer : shape.layers) {
    out.put(layer.n_kv_heads);
    out.put(layer.window);
  }
  for (const int32_t token : head.run.tokens) out.put(token);
  const std::span<const uint8_t> presence = head.presence;
  for (uint32_t layer = 0; layer < head.n_layers(); ++layer)
    put_bits(presence.subspan(uint64_t{layer} * head.n_blocks(), head.n_blocks()), out);
  return out.take();
}

std::vector<std::byte> encode_head(const PackHead& head) {
  FieldWriter out;
  out.put_bytes(encode_contents(head));
  put_bits(head.run.is_generated, out);
  return out.take();
}

void append_hexadecimal(const Hash128& hash, std::string& text) {
  for (const uint64_t half : {hash.high, hash.low})
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[half >> shift & 15];
}

/// The trailer's fields, checked against each other and against the file's size.
struct Trailer {
  uint32_t head_bytes = 0;
  uint64_t tags_bytes = 0;
  Hash128 tags_hash;
};

Trailer parse_trailer(std::span<const std::byte> tail, uint64_t file_bytes,
                      const std::string& name) {
  FieldReader in(tail.last(kPackTrailerBytes), name);
  if (!std::ranges::equal(in.take_bytes(kMagic.size()), std::as_bytes(std::span(kMagic))))
    refuse(name, "it does not end as one");
  const auto version = in.take<uint32_t>();
  if (version != kPackVersion)
    throw Error(ErrorCode::kUnsupported,
                "a saved context of format " + std::to_string(version) + ", where this program " +
                    "reads format " + std::to_string(kPackVersion),
                name, "Remove the file; its positions will be computed again.");
  Trailer trailer;
  trailer.head_bytes = in.take<uint32_t>();
  trailer.tags_bytes = in.take<uint64_t>();
  const auto claimed_bytes = in.take<uint64_t>();
  trailer.tags_hash = in.take_hash();
  const Hash128 hash = in.take_hash();
  if (claimed_bytes != file_bytes)
    refuse(name, "it was " + std::to_string(claimed_bytes) + " bytes long and is " +
                     std::to_string(file_bytes));
  if (trailer.head_bytes > tail.size() - kPackTrailerBytes)
    refuse(name, "a head of " + std::to_string(trailer.head_bytes) + " bytes does not fit");
  const auto hashed = tail.last(trailer.head_bytes + kPackTrailerBytes);
  if (hash_bytes(hashed.first(hashed.size() - kHashBytes)) != hash)
    refuse(name, "the hash of its head differs");
  return trailer;
}

void parse_presence(FieldReader& in, PackHead& head, const std::string& name) {
  for (uint32_t layer = 0; layer < head.n_layers(); ++layer) {
    const auto row =
        std::span(head.presence).subspan(uint64_t{layer} * head.n_blocks(), head.n_blocks());
    if (!take_bits(in, row)) refuse(name, "it marks blocks behind its end");
    const PackLayer& shape = head.run.shape.layers[layer];
    if ((shape.window == 0 || shape.n_kv_heads == 0) && std::ranges::find(row, 0) != row.end())
      refuse(name, "a layer without a window lacks blocks");
  }
}

PackHead parse_head(std::span<const std::byte> bytes, const std::string& name) {
  FieldReader in(bytes, name);
  PackRun run;
  if (const auto version = in.take<uint32_t>(); version != kKvLayoutVersion)
    throw Error(ErrorCode::kUnsupported,
                "a saved context of block layout " + std::to_string(version) +
                    ", where this program reads " + std::to_string(kKvLayoutVersion),
                name, "Remove the file; its positions will be computed again.");
  run.shape.k_codec = codec_of(in.take<uint32_t>(), name);
  run.shape.v_codec = codec_of(in.take<uint32_t>(), name);
  run.shape.head_dim = in.take<uint32_t>();
  const auto n_layers = in.take<uint32_t>();
  run.first_pos = in.take<uint32_t>();
  const auto n_positions = in.take<uint32_t>();
  if (in.take<uint32_t>() != 0) refuse(name, "a reserved field is used");
  if (n_layers > kPackLayersMax || n_positions > kPackPositionsMax)
    refuse(name, std::to_string(n_layers) + " layers and " + std::to_string(n_positions) +
                     " positions are too many");
  const uint64_t wanted_bytes =
      kHeadFixedBytes + uint64_t{n_layers} * 8 + uint64_t{n_positions} * 4 +
      n_layers * presence_row_bytes(static_cast<uint32_t>(div_up(n_positions, kBlockPositions))) +
      div_up(n_positions, 8);
  if (bytes.size() != wanted_bytes)
    refuse(name, "its head has " + std::to_string(bytes.size()) + " bytes, not " +
                     std::to_string(wanted_bytes));
  run.shape.model = in.take_hash();
  run.chain_before = in.take_hash();
  const Hash128 chain_end = in.take_hash();
  run.shape.layers.resize(n_layers);
  for (PackLayer& layer : run.shape.layers) {
    layer.n_kv_heads = in.take<uint32_t>();
    layer.window = in.take<uint32_t>();
  }
  run.tokens.resize(n_positions);
  for (int32_t& token : run.tokens) token = in.take<int32_t>();
  if (const std::string problem = problem_of(run); !problem.empty()) refuse(name, problem);
  PackHead head = PackHead::of(std::move(run));
  if (head.chain_end() != chain_end) refuse(name, "its tokens have another chain hash");
  parse_presence(in, head, name);
  if (!take_bits(in, head.run.is_generated)) refuse(name, "it marks tokens behind its end");
  return head;
}

}  // namespace

PackHead PackHead::of(PackRun run) {
  const std::string problem = problem_of(run);
  STRATA_CHECK(problem.empty(), "%s", problem.c_str());
  PackHead head;
  head.chains = chains_of(run);
  head.presence.assign(run.shape.layers.size() * head.chains.size(), 1);
  run.is_generated.resize(run.tokens.size());
  head.run = std::move(run);
  return head;
}

uint32_t PackHead::extent_blocks(uint32_t extent) const {
  return std::min(kExtentBlocks, n_blocks() - extent * kExtentBlocks);
}

uint32_t PackHead::block_positions(uint32_t block) const {
  return std::min(kBlockPositions, n_positions() - block * kBlockPositions);
}

bool PackHead::has_region(uint32_t layer, uint32_t extent) const {
  if (run.shape.layers[layer].n_kv_heads == 0) return false;
  for (uint32_t i = 0; i < extent_blocks(extent); ++i)
    if (has(layer, extent * kExtentBlocks + i)) return true;
  return false;
}

BlockIdentity PackHead::identity(uint32_t layer, uint32_t kv_head, uint32_t block) const {
  BlockIdentity identity;
  identity.model = run.shape.model;
  identity.chain = chains[block];
  identity.layer = layer;
  identity.kv_head = kv_head;
  identity.first_pos = run.first_pos + block * kBlockPositions;
  identity.n_positions = block_positions(block);
  identity.k_codec = run.shape.k_codec;
  identity.v_codec = run.shape.v_codec;
  return identity;
}

PackGeometry::PackGeometry(const PackHead& head)
    : n_layers(head.n_layers()), n_blocks(head.n_blocks()) {
  const PackShape& shape = head.run.shape;
  block_bytes = KvLayout::make(shape.k_codec, shape.v_codec, shape.head_dim).block_bytes;
  first_streams.push_back(0);
  for (const PackLayer& layer : shape.layers)
    first_streams.push_back(first_streams.back() + layer.n_kv_heads);
  for (uint32_t extent = 0; extent < head.n_extents(); ++extent) {
    for (uint32_t layer = 0; layer < n_layers; ++layer) {
      const bool is_there = head.has_region(layer, extent);
      region_offsets.push_back(is_there ? tags_offset : kNoRegion);
      if (is_there)
        tags_offset += round_up(region_payload_bytes(head, *this, extent, layer), kRegionAlignment);
    }
  }
  tags_bytes = n_tags() * kHashBytes;
  head_offset = tags_offset + tags_bytes;
}

uint64_t region_payload_bytes(const PackHead& head, const PackGeometry& geometry, uint32_t extent,
                              uint32_t layer) {
  return uint64_t{head.run.shape.layers[layer].n_kv_heads} * head.extent_blocks(extent) *
         geometry.block_bytes;
}

uint64_t pack_bytes_max(const PackRun& run) {
  const PackHead head = PackHead::of(run);
  return PackGeometry(head).head_offset + encode_head(head).size() + kPackTrailerBytes;
}

Hash128 shape_hash(const PackShape& shape) {
  FieldWriter out;
  out.put(shape.model);
  out.put(code_of(shape.k_codec));
  out.put(code_of(shape.v_codec));
  out.put(shape.head_dim);
  for (const PackLayer& layer : shape.layers) {
    out.put(layer.n_kv_heads);
    out.put(layer.window);
  }
  return hash_bytes(out.take());
}

std::string pack_file_name(const PackHead& head) {
  return pack_file_name(head.chain_end(), hash_bytes(encode_contents(head)));
}

std::string pack_file_name(const Hash128& chain_end, const Hash128& contents) {
  std::string name;
  append_hexadecimal(chain_end, name);
  name += '-';
  append_hexadecimal(contents, name);
  return name += kNameEnd;
}

bool is_pack_file_name(std::string_view name) {
  constexpr size_t kDigits = 32;
  if (name.size() != 2 * kDigits + 1 + kNameEnd.size() || !name.ends_with(kNameEnd)) return false;
  for (size_t i = 0; i < 2 * kDigits + 1; ++i) {
    const char c = name[i];
    const bool is_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (i == kDigits ? c != '-' : !is_digit) return false;
  }
  return true;
}

std::vector<std::byte> encode_pack_end(PackHead& head, std::span<const Hash128> tags) {
  const PackGeometry geometry(head);
  STRATA_CHECK(tags.size() == geometry.n_tags(), "%zu tags", tags.size());
  FieldWriter out;
  for (const Hash128& tag : tags) out.put(tag);
  head.tags_hash = hash_bytes(out.bytes());
  const std::vector<std::byte> encoded = encode_head(head);
  out.put_bytes(encoded);
  out.put_bytes(std::as_bytes(std::span(kMagic)));
  out.put(kPackVersion);
  out.put(static_cast<uint32_t>(encoded.size()));
  out.put(geometry.tags_bytes);
  out.put(geometry.head_offset + encoded.size() + kPackTrailerBytes);
  out.put(head.tags_hash);
  out.put(hash_bytes(out.bytes().subspan(geometry.tags_bytes)));
  return out.take();
}

PackHead parse_pack_head(std::span<const std::byte> tail, uint64_t file_bytes,
                         const std::string& name) {
  STRATA_CHECK(tail.size() == std::min(file_bytes, kPackTailBytes), "a tail of %zu bytes",
               tail.size());
  if (tail.size() < kPackTrailerBytes)
    refuse(name, "it is only " + std::to_string(file_bytes) + " bytes long");
  const Trailer trailer = parse_trailer(tail, file_bytes, name);
  const auto head_and_trailer = tail.last(trailer.head_bytes + kPackTrailerBytes);
  PackHead head = parse_head(head_and_trailer.first(trailer.head_bytes), name);
  head.tags_hash = trailer.tags_hash;
  const PackGeometry geometry(head);
  const uint64_t wanted_bytes = geometry.head_offset + trailer.head_bytes + kPackTrailerBytes;
  if (trailer.tags_bytes != geometry.tags_bytes || file_bytes != wanted_bytes)
    refuse(name, "its blocks and tags take " + std::to_string(wanted_bytes) + " bytes, and it is " +
                     std::to_string(file_bytes) + " bytes long");
  return head;
}

std::vector<Hash128> parse_pack_tags(const PackHead& head, const PackGeometry& geometry,
                                     std::span<const std::byte> bytes, const std::string& name) {
  STRATA_CHECK(bytes.size() == geometry.tags_bytes, "%zu bytes of tags", bytes.size());
  if (hash_bytes(bytes) != head.tags_hash) refuse(name, "the hash of its tags differs");
  std::vector<Hash128> tags(static_cast<size_t>(geometry.n_tags()));
  STRATA_CHECK(bytes.size() == tags.size() * sizeof(Hash128), "%zu bytes for %zu tags",
               bytes.size(), tags.size());
  if (!tags.empty()) std::memcpy(tags.data(), bytes.data(), bytes.size());
  return tags;
}

void clear_rows_from(uint32_t n_rows, const KvLayout& layout, std::span<std::byte> block) {
  STRATA_CHECK(block.size() == layout.block_bytes, "a block of %zu bytes", block.size());
  if (n_rows >= kBlockPositions) return;
  // Rows of one dimension, or of one group of scales, stand beside each other.
  const auto clear_columns = [&](uint32_t offset, uint32_t n, uint32_t row_bytes) {
    for (uint32_t i = 0; i < n; ++i) {
      const auto columns =
          block.subspan(offset + i * kBlockPositions * row_bytes, kBlockPositions * row_bytes);
      std::ranges::fill(columns.subspan(n_rows * row_bytes), std::byte{0});
    }
  };
  const bool k_f16 = layout.k_codec == KvCodec::kF16;
  const bool v_f16 = layout.v_codec == KvCodec::kF16;
  clear_columns(0, layout.head_dim, k_f16 ? 2 : 1);
  if (!k_f16) clear_columns(layout.k_scales_offset, layout.head_dim / 32, 2);
  const uint32_t v_row_bytes = layout.head_dim * (v_f16 ? 2 : 1);
  clear_columns(layout.v_offset, 1, v_row_bytes);
  if (!v_f16) clear_columns(layout.v_scales_offset, layout.head_dim / 32, 2);
}

}  // namespace strata::tiers

// tiers/block_tag.h - 128 bits that say which block some bytes are, and that they are whole.
// Why: a checksum alone passes another block's bytes, or an older version's. The tag covers what
// the block is (model, the text up to and through it, stream, position, codec, generation) and its
// bytes; it is checked on every read, and there is no switch. Source: XXH3, 128 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/kv_layout.h"

namespace strata::tiers {

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Hash128&) const = default;
};

inline constexpr uint32_t kKvLayoutVersion = 1;  // of base/kv_layout.h; another one never passes

/// Everything that decides a block's bytes.
struct BlockIdentity {
  Hash128 model;  // of the weights and hyper-parameters, RoPE included
  Hash128 chain;  // of the tokens up to and through this block (extend_chain)
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  uint32_t first_pos = 0;
  uint32_t n_positions = kBlockPositions;  // fewer only at the end of a saved context
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint64_t generation = 0;  // of the place: what stood there before has another one
};

/// XXH3 of any bytes, by the widest vectors of this CPU; the same value from each of them.
/// Cost    reads the bytes once, about as fast as DRAM gives them (docs/measurements.md)
/// Threads any; this holds for all functions here, and none of them allocates
Hash128 hash_bytes(std::span<const std::byte> bytes);

/// The chain hash after the `tokens` of one block: of `before`, of their number and of them.
///
/// A chain starts at Hash128{} and grows by whole blocks: `before` is the chain after the block
/// before this one, `tokens` are all tokens of this block, at most kBlockPositions (STRATA_CHECK).
/// The same text cut elsewhere has another chain; so the block that ends a saved context is hashed
/// again from its first token once it has grown. No tokens leave the chain as it is.
Hash128 extend_chain(const Hash128& before, std::span<const int32_t> tokens);

/// The tag of a block: hash of the identity, of the payload's length and of hash_bytes(payload).
/// Its bytes and codes are fixed (block_tag.cc): a saved tag stays valid on any machine.
///
/// next   the payload whose tag is asked next, or none: its beginning is fetched from DRAM
///        meanwhile. It changes the time only (docs/measurements.md).
Hash128 block_tag(const BlockIdentity& identity, std::span<const std::byte> payload,
                  std::span<const std::byte> next = {});

}  // namespace strata::tiers

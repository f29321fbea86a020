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

/// The hash of any bytes, by the widest vectors of this CPU; the same value from each of them.
Hash128 hash_bytes(std::span<const std::byte> bytes);

/// The chain hash after `tokens`: of `before` and of the tokens.
Hash128 extend_chain(const Hash128& before, std::span<const int32_t> tokens);

/// The tag of a block: hash of the identity, of the payload's length and of hash_bytes(payload).
Hash128 block_tag(const BlockIdentity& identity, std::span<const std::byte> payload);

}  // namespace strata::tiers

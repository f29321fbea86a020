#include "tiers/block_tag.h"

#include <array>
#include <bit>

#include "base/check.h"
#include "tiers/hash_kernels.h"

namespace strata::tiers {
namespace {

// The two messages that are hashed. Numbers are little-endian, a hash is its low half, then its
// high half; nothing of it may change while saved files are to be read.
//
//   tag    u32 2, u32 layout version, u32 layer, u32 kv_head, u32 first_pos, u32 n_positions,
//          u32 code of the K codec, u32 code of the V codec, u64 generation, model, chain,
//          u64 bytes of the payload, hash of the payload
//   chain  u32 1, u32 number of tokens, hash before, i32 of each token
constexpr uint32_t kChainMessage = 1;
constexpr uint32_t kTagMessage = 2;
constexpr size_t kTagMessageWords = 12;
constexpr size_t kMaxChainMessageWords = 3 + kBlockPositions / 2;

/// Written in words of 8 bytes, because that is how the hash reads short messages: a load that has
/// to gather what several stores wrote waits for all of them, once per block.
template <size_t kWords>
class Message {
 public:
  void add_u64(uint64_t value) {
    STRATA_CHECK(n_ < kWords, "more than %zu words", kWords);
    if constexpr (std::endian::native == std::endian::big) value = __builtin_bswap64(value);
    words_[n_++] = value;
  }
  void add_u32s(uint32_t first, uint32_t second) { add_u64(first | uint64_t{second} << 32); }
  void add_hash(const Hash128& hash) {
    add_u64(hash.low);
    add_u64(hash.high);
  }
  /// Its first bytes: a message may end in the middle of a word.
  std::span<const std::byte> first(size_t n_bytes) const {
    return std::as_bytes(std::span(words_)).first(n_bytes);
  }

 private:
  std::array<uint64_t, kWords> words_;
  size_t n_ = 0;
};

/// Apart from the enumerators, so that their order may change.
uint32_t code_of(KvCodec codec) {
  switch (codec) {
    case KvCodec::kF16:
      return 1;
    case KvCodec::kQ8_0:
      return 2;
  }
  STRATA_CHECK(false, "codec %u", static_cast<unsigned>(codec));
  return 0;
}

}  // namespace

Hash128 hash_bytes(std::span<const std::byte> bytes) {
  static const auto hash = available_hash_kernels().back().hash;
  return hash(bytes.data(), bytes.size());
}

Hash128 extend_chain(const Hash128& before, std::span<const int32_t> tokens) {
  STRATA_CHECK(tokens.size() <= kBlockPositions, "%zu tokens in a block of %u", tokens.size(),
               kBlockPositions);
  if (tokens.empty()) return before;
  Message<kMaxChainMessageWords> message;
  message.add_u32s(kChainMessage, static_cast<uint32_t>(tokens.size()));
  message.add_hash(before);
  for (size_t i = 0; i < tokens.size(); i += 2) {
    message.add_u32s(static_cast<uint32_t>(tokens[i]),
                     i + 1 < tokens.size() ? static_cast<uint32_t>(tokens[i + 1]) : 0);
  }
  return hash_bytes(message.first(4 + 4 + 16 + 4 * tokens.size()));
}

Hash128 block_tag(const BlockIdentity& identity, std::span<const std::byte> payload,
                  std::span<const std::byte> next) {
  prefetch_next_block(payload, next);
  // A field that is added has to be named here, or this does not compile.
  const auto& [model, chain, layer, kv_head, first_pos, n_positions, k_codec, v_codec, generation] =
      identity;
  Message<kTagMessageWords> message;
  message.add_u32s(kTagMessage, kKvLayoutVersion);
  message.add_u32s(layer, kv_head);
  message.add_u32s(first_pos, n_positions);
  message.add_u32s(code_of(k_codec), code_of(v_codec));
  message.add_u64(generation);
  message.add_hash(model);
  message.add_hash(chain);
  message.add_u64(payload.size());
  message.add_hash(hash_bytes(payload));
  return hash_bytes(message.first(8 * kTagMessageWords));
}

}  // namespace strata::tiers

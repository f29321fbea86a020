#include "base/kv_layout.h"

#include "base/check.h"
#include "base/checked_math.h"

namespace strata {
namespace {

uint32_t value_bytes(KvCodec codec, uint32_t head_dim) {
  return head_dim * (codec == KvCodec::kF16 ? 2u : 1u);
}
uint32_t scale_bytes(KvCodec codec, uint32_t head_dim) {
  return codec == KvCodec::kF16 ? 0u : head_dim / kScaleGroup * 2u;
}
uint32_t aligned(uint32_t bytes) { return static_cast<uint32_t>(round_up(bytes, 64)); }

}  // namespace

KvLayout KvLayout::make(KvCodec k_codec, KvCodec v_codec, uint32_t head_dim) {
  STRATA_CHECK(head_dim > 0 && head_dim % 8 == 0, "head_dim=%u", head_dim);
  const bool quantised = k_codec == KvCodec::kQ8_0 || v_codec == KvCodec::kQ8_0;
  STRATA_CHECK(!quantised || head_dim % kScaleGroup == 0, "head_dim=%u with a q8_0 codec",
               head_dim);
  KvLayout layout{.k_codec = k_codec, .v_codec = v_codec, .head_dim = head_dim};
  layout.k_scales_offset = aligned(value_bytes(k_codec, head_dim) * kBlockPositions);
  layout.v_offset =
      layout.k_scales_offset + aligned(scale_bytes(k_codec, head_dim) * kBlockPositions);
  layout.v_scales_offset =
      layout.v_offset + aligned(value_bytes(v_codec, head_dim) * kBlockPositions);
  layout.block_bytes =
      layout.v_scales_offset + aligned(scale_bytes(v_codec, head_dim) * kBlockPositions);
  return layout;
}

uint64_t kv_position_bytes(const KvLayout& layout) {
  const uint32_t d = layout.head_dim;
  return uint64_t{value_bytes(layout.k_codec, d)} + scale_bytes(layout.k_codec, d) +
         value_bytes(layout.v_codec, d) + scale_bytes(layout.v_codec, d);
}

const char* kv_codec_name(KvCodec codec) { return codec == KvCodec::kF16 ? "f16" : "q8_0"; }

}  // namespace strata

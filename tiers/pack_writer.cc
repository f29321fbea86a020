#include "tiers/pack_writer.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::tiers {

PackWriter::PackWriter(std::shared_ptr<DurableDirectory> directory, PackRun run)
    : head_(PackHead::of(std::move(run))),
      full_(head_),
      layout_(KvLayout::make(head_.run.shape.k_codec, head_.run.shape.v_codec,
                             head_.run.shape.head_dim)),
      file_(UnpublishedFile::create(std::move(directory), UnpublishedFile::Place::kNeverReplaces)),
      tags_(static_cast<size_t>(full_.n_tags())) {
  uint64_t region_bytes = 0;
  for (uint32_t layer = 0; layer < head_.n_layers(); ++layer)
    region_bytes = std::max(region_bytes, region_payload_bytes(head_, full_, 0, layer));
  region_.resize(static_cast<size_t>(round_up(region_bytes, kRegionAlignment)));
  skip_layers_without_streams();
}

void PackWriter::skip_layers_without_streams() {
  while (next_extent_ < head_.n_extents()) {
    if (next_layer_ == head_.n_layers()) {
      next_layer_ = 0;
      ++next_extent_;
    } else if (head_.run.shape.layers[next_layer_].n_kv_heads == 0) {
      ++next_layer_;
    } else {
      return;
    }
  }
}

void PackWriter::write(uint32_t extent, uint32_t layer, std::span<const std::byte* const> blocks) {
  STRATA_CHECK(extent == next_extent_ && layer == next_layer_ && extent < head_.n_extents(),
               "extent %u layer %u, not %u %u", extent, layer, next_extent_, next_layer_);
  const PackLayer& shape = head_.run.shape.layers[layer];
  const uint32_t n = head_.extent_blocks(extent);
  STRATA_CHECK(blocks.size() == uint64_t{shape.n_kv_heads} * n, "%zu blocks of %u heads x %u",
               blocks.size(), shape.n_kv_heads, n);
  const auto payload =
      std::span(region_).first(static_cast<size_t>(blocks.size() * full_.block_bytes));
  for (uint32_t i = 0; i < blocks.size(); ++i) {
    const uint32_t block = extent * kExtentBlocks + i % n;
    const auto bytes = payload.subspan(uint64_t{i} * full_.block_bytes, full_.block_bytes);
    const bool is_absent = blocks[i] == nullptr;
    STRATA_CHECK(is_absent == (blocks[i % n] == nullptr) && (!is_absent || shape.window > 0),
                 "layer %u block %u is absent", layer, block);
    if (is_absent) {
      head_.presence[uint64_t{layer} * head_.n_blocks() + block] = 0;
      std::ranges::fill(bytes, std::byte{0});
      continue;
    }
    std::memcpy(bytes.data(), blocks[i], bytes.size());
    clear_rows_from(head_.block_positions(block), layout_, bytes);
    tags_[full_.tag_idx(layer, i / n, block)] =
        block_tag(head_.identity(layer, i / n, block), bytes);
  }
  const auto padded =
      std::span(region_).first(static_cast<size_t>(round_up(payload.size(), kRegionAlignment)));
  std::ranges::fill(padded.subspan(payload.size()), std::byte{0});
  if (head_.has_region(layer, extent)) file_.append(padded);
  ++next_layer_;
  skip_layers_without_streams();
  if (next_extent_ == head_.n_extents())
    std::vector<std::byte>().swap(region_);  // what waits to be sealed needs none
}

void PackWriter::seal() {
  STRATA_CHECK(next_extent_ == head_.n_extents() && !is_sealed_, "extent %u of %u is missing",
               next_extent_, head_.n_extents());
  file_.append(encode_pack_end(head_, tags_));
  file_.sync();
  is_sealed_ = true;
}

std::string PackWriter::file_name() const {
  STRATA_CHECK(is_sealed_, "%s", "presence is known when all is written");
  return pack_file_name(head_);
}

}  // namespace strata::tiers

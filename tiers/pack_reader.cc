#include "tiers/pack_reader.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace strata::tiers {

bool is_of_file(const Error& error) {
  return error.code() == ErrorCode::kBadFile || error.code() == ErrorCode::kUnsupported;
}

namespace {

uint64_t tail_bytes_of(const DirectoryFile& file) { return std::min(file.bytes(), kPackTailBytes); }

}  // namespace

void ask_for_pack_head(const DirectoryFile& file) {
  file.ask_for(tail_bytes_of(file), file.bytes() - tail_bytes_of(file));
}

PackHead read_pack_head(const DirectoryFile& file, const std::string& name) {
  const uint64_t tail_bytes = tail_bytes_of(file);
  std::vector<std::byte> tail(static_cast<size_t>(tail_bytes));
  file.read(tail, file.bytes() - tail_bytes);
  PackHead head = parse_pack_head(tail, file.bytes(), file.path());
  if (pack_file_name(head) != name)
    throw Error(ErrorCode::kBadFile, "a saved context of another name, " + pack_file_name(head),
                file.path(), "Remove the file; its positions will be computed again.");
  return head;
}

PackReader::PackReader(DirectoryFile file, std::string name, PackHead head)
    : file_(std::move(file)), name_(std::move(name)), head_(std::move(head)), geometry_(head_) {}

std::shared_ptr<const PackReader> PackReader::open(const DurableDirectory& directory,
                                                   const std::string& name) {
  auto file = directory.open_file(name);
  if (!file) return nullptr;
  PackHead head = read_pack_head(*file, name);
  std::shared_ptr<PackReader> reader(new PackReader(std::move(*file), name, std::move(head)));
  std::vector<std::byte> table(static_cast<size_t>(reader->geometry_.tags_bytes));
  reader->file_.read(table, reader->geometry_.tags_offset);
  reader->tags_ = parse_pack_tags(reader->head_, reader->geometry_, table, reader->file_.path());
  return reader;
}

void PackReader::ask_for(const DurableDirectory& directory, const std::string& name,
                         const PackHead& head) {
  const auto file = directory.open_file(name);
  if (!file) return;
  ask_for_pack_head(*file);
  const PackGeometry geometry(head);
  file->ask_for(geometry.tags_bytes, geometry.tags_offset);
}

bool PackReader::is_block(uint32_t layer, uint32_t kv_head, uint32_t block,
                          std::span<const std::byte> bytes) const {
  STRATA_CHECK(layer < head_.n_layers() && block < head_.n_blocks() &&
                   kv_head < head_.run.shape.layers[layer].n_kv_heads &&
                   bytes.size() == geometry_.block_bytes,
               "layer %u, KV head %u, block %u, %zu bytes", layer, kv_head, block, bytes.size());
  return head_.has(layer, block) && block_tag(head_.identity(layer, kv_head, block), bytes) ==
                                        tags_[geometry_.tag_idx(layer, kv_head, block)];
}

std::optional<uint64_t> PackReader::find_bad_block(uint32_t extent, uint32_t layer, uint64_t from,
                                                   std::span<const std::byte> region) const {
  const uint32_t n = head_.extent_blocks(extent);
  for (uint64_t i = from; i < region.size() / geometry_.block_bytes; ++i) {
    const auto kv_head = static_cast<uint32_t>(i / n);
    const auto block = extent * kExtentBlocks + static_cast<uint32_t>(i % n);
    const auto bytes = region.subspan(i * geometry_.block_bytes, geometry_.block_bytes);
    if (head_.has(layer, block) && !is_block(layer, kv_head, block, bytes)) return i;
  }
  return std::nullopt;
}

void PackReader::read_region(uint32_t extent, uint32_t layer, std::span<std::byte> out) const {
  STRATA_CHECK(head_.has_region(layer, extent), "layer %u lacks extent %u", layer, extent);
  STRATA_CHECK(out.size() == region_payload_bytes(head_, geometry_, extent, layer), "%zu bytes",
               out.size());
  file_.read(out, geometry_.region_offset(extent, layer));
  check_region(extent, layer, out);
}

void PackReader::check_region(uint32_t extent, uint32_t layer,
                              std::span<const std::byte> region) const {
  const auto bad = find_bad_block(extent, layer, 0, region);
  if (!bad) return;
  const uint32_t n = head_.extent_blocks(extent);
  throw Error(ErrorCode::kBadFile,
              "a saved block is not what was saved: layer " + std::to_string(layer) + ", KV head " +
                  std::to_string(*bad / n) + ", positions from " +
                  std::to_string(head_.run.first_pos + extent * kExtentPositions +
                                 *bad % n * kBlockPositions),
              file_.path(),
              "Its positions are computed again; check the disk if this happens often.");
}

BadBlocks PackReader::count_bad_blocks(uint64_t n_max) const {
  BadBlocks bad;
  for (uint32_t extent = 0; extent < head_.n_extents(); ++extent) {
    for (uint32_t layer = 0; layer < head_.n_layers(); ++layer) {
      if (bad.n() >= n_max) return bad;
      if (!head_.has_region(layer, extent)) continue;
      std::vector<std::byte> region(
          static_cast<size_t>(region_payload_bytes(head_, geometry_, extent, layer)));
      try {
        file_.read(region, geometry_.region_offset(extent, layer));
      } catch (const Error&) {
        bad.n_unread += region.size() / geometry_.block_bytes;
        continue;
      }
      uint64_t from = 0;
      while (const auto wrong = find_bad_block(extent, layer, from, region)) {
        from = *wrong + 1;
        ++bad.n_wrong;
      }
    }
  }
  return bad;
}

}  // namespace strata::tiers

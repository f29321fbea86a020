// tiers/pack_reader.h - an open pack: its head, its blocks, and whether they are the right ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "tiers/durable_directory.h"
#include "tiers/pack_format.h"

namespace strata::tiers {

/// Whether a file's own bytes are at fault: damaged, or of another version. Any other error says
/// nothing about the file.
bool is_of_file(const Error& error);

/// Has the disk bring the head of an open file, for read_pack_head().
void ask_for_pack_head(const DirectoryFile& file);
/// Reads and checks the head of an open file. Errors: kIo, kBadFile, kUnsupported.
PackHead read_pack_head(const DirectoryFile& file, const std::string& name);

/// What is wrong with the blocks of a pack.
struct BadBlocks {
  uint64_t n_wrong = 0;   // are not what was saved
  uint64_t n_unread = 0;  // the disk does not give them, now
  uint64_t n() const { return n_wrong + n_unread; }
};

/// Immutable and thread-safe. Readable to its end, even when the file has been evicted since.
class PackReader {
 public:
  /// Nothing where there is no such pack. Reads head and tags, no block.
  /// Errors: kIo; kBadFile, kUnsupported: the pack is refused whole.
  static std::shared_ptr<const PackReader> open(const DurableDirectory& directory,
                                                const std::string& name);

  /// Has the disk bring what open() reads of a pack with this head, where it is there.
  static void ask_for(const DurableDirectory& directory, const std::string& name,
                      const PackHead& head);

  const std::string& name() const { return name_; }
  const std::string& path() const { return file_.path(); }
  const PackHead& head() const { return head_; }
  const PackGeometry& geometry() const { return geometry_; }
  uint64_t bytes() const { return file_.bytes(); }
  /// For an Io of the caller: regions lie at geometry().region_offset(extent, layer).
  int descriptor() const { return file_.descriptor(); }
  void touch() const { file_.touch(); }

  /// Are these block_bytes the block that was saved? An absent block is never.
  bool is_block(uint32_t layer, uint32_t kv_head, uint32_t block,
                std::span<const std::byte> bytes) const;

  /// Reads one layer of an extent, [n_kv_heads][extent_blocks] blocks, and checks each that is
  /// present.   Errors: kIo; kBadFile, naming the block, where one is not what was saved.
  void read_region(uint32_t extent, uint32_t layer, std::span<std::byte> out) const;

  /// Of a region that was read otherwise. Errors: kBadFile, as read_region().
  void check_region(uint32_t extent, uint32_t layer, std::span<const std::byte> region) const;

  /// Reads everything, or until n_max of them are found.
  BadBlocks count_bad_blocks(uint64_t n_max = UINT64_MAX) const;

 private:
  PackReader(DirectoryFile file, std::string name, PackHead head);
  /// The first of the region's present blocks that is wrong, from the index `from` on.
  std::optional<uint64_t> find_bad_block(uint32_t extent, uint32_t layer, uint64_t from,
                                         std::span<const std::byte> region) const;

  DirectoryFile file_;
  std::string name_;
  PackHead head_;
  PackGeometry geometry_;
  std::vector<Hash128> tags_;
};

}  // namespace strata::tiers

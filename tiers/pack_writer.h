// tiers/pack_writer.h - writes one pack, region after region.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tiers/durable_directory.h"
#include "tiers/pack_format.h"

namespace strata::tiers {

/// Holds one region (8 blocks of a layer's streams) and 16 bytes per block in memory. Destroyed
/// unpublished, it leaves nothing on the disk. After an error it can only be destroyed.
class PackWriter {
 public:
  /// Errors: kIo.
  PackWriter(std::shared_ptr<DurableDirectory> directory, PackRun run);

  const PackHead& head() const { return head_; }
  const PackGeometry& geometry() const { return full_; }  // with every block present

  /// Copies one layer of an extent, blocks [n_kv_heads][head().extent_blocks(extent)], computes
  /// their tags and writes them. Extents in order, in each the layers that have KV heads in order.
  /// Rows behind the run's end are written as zeros. A null block is absent, in all streams of the
  /// layer and only where the layer has a window.   Errors: kIo.
  void write(uint32_t extent, uint32_t layer, std::span<const std::byte* const> blocks);

  /// After the last region: writes tags and head and brings everything to the disk. Errors: kIo.
  void seal();
  bool is_sealed() const { return is_sealed_; }
  uint64_t bytes() const { return file_.bytes(); }
  std::string file_name() const;  // after seal()

  /// Gives the sealed pack its name. False where there is such a file already.   Errors: kIo.
  bool publish() { return file_.publish(file_name()); }
  /// UnpublishedFile::replace().
  void replace() { file_.replace(file_name()); }

 private:
  void skip_layers_without_streams();

  PackHead head_;
  PackGeometry full_;
  KvLayout layout_;
  UnpublishedFile file_;
  std::vector<std::byte> region_;
  std::vector<Hash128> tags_;
  uint32_t next_extent_ = 0;
  uint32_t next_layer_ = 0;
  bool is_sealed_ = false;
};

}  // namespace strata::tiers

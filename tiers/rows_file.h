// tiers/rows_file.h - index rows of one pack, being written and open for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tiers/durable_directory.h"
#include "tiers/pack_format.h"
#include "tiers/rows_format.h"

namespace strata::tiers {

/// Holds no rows in memory. Destroyed unpublished, it leaves nothing on the disk. After an error it
/// can only be destroyed.
class RowsWriter {
 public:
  /// Errors: kIo.
  RowsWriter(std::shared_ptr<DurableDirectory> directory, std::string pack, const RowsShape& shape,
             uint32_t first_segment);

  const std::string& pack() const { return pack_; }
  const RowsHead& head() const { return head_; }
  std::string file_name() const { return rows_file_name(pack_, head_.shape.kind); }
  uint64_t bytes() const { return file_.bytes(); }
  /// The next segment, shape.segment_bytes() of it. Errors: kIo.
  void write(std::span<const std::byte> segment);
  /// After the last segment: brings everything to the disk. Errors: kIo.
  void seal();
  /// Gives the sealed file its name. False where there is such a file already.   Errors: kIo.
  bool publish() { return file_.publish(file_name()); }

 private:
  std::string pack_;
  RowsHead head_;
  UnpublishedFile file_;
};

/// Immutable and thread-safe. Readable to its end, even when the file has been removed since.
class RowsReader {
 public:
  /// Nothing where the pack has no rows of this kind. Reads no rows.
  /// Errors: kIo; kBadFile, kUnsupported: the file is refused whole.
  static std::shared_ptr<const RowsReader> open(const DurableDirectory& directory,
                                                const std::string& pack, const PackHead& of_pack,
                                                const std::string& kind);
  /// The same, of a file that is open.
  static std::shared_ptr<const RowsReader> read(DirectoryFile file, const std::string& pack,
                                                const PackHead& of_pack, const std::string& kind);

  const std::string& name() const { return name_; }
  const RowsHead& head() const { return head_; }
  uint64_t bytes() const { return file_.bytes(); }
  /// Memory, aligned to pages, that reading a segment wants.
  static uint64_t memory_bytes(const RowsShape& shape) {
    return DirectoryFile::direct_bytes(shape.segment_bytes());
  }
  /// Reads a segment of the text, which is there, in one piece, and returns where in `memory` it
  /// is. Errors: kIo; kBadFile where it is not what was saved.
  std::span<const std::byte> read_segment(uint32_t segment, std::span<std::byte> memory) const;
  /// Reads everything. Errors: as read_segment(); kOutOfMemory.
  void check() const;

 private:
  RowsReader(DirectoryFile file, std::string name, RowsHead head)
      : file_(std::move(file)), name_(std::move(name)), head_(std::move(head)) {}

  DirectoryFile file_;
  std::string name_;
  RowsHead head_;
};

}  // namespace strata::tiers

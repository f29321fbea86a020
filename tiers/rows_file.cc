#include "tiers/rows_file.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/host_memory.h"

namespace strata::tiers {

RowsWriter::RowsWriter(std::shared_ptr<DurableDirectory> directory, std::string pack,
                       const RowsShape& shape, uint32_t first_segment)
    : pack_(std::move(pack)),
      head_{.shape = shape, .first_segment = first_segment, .hashes = {}},
      file_(UnpublishedFile::create(std::move(directory), UnpublishedFile::Place::kNeverReplaces)) {
}

void RowsWriter::write(std::span<const std::byte> segment) {
  STRATA_CHECK(segment.size() == head_.shape.segment_bytes(), "a segment of %zu bytes",
               segment.size());
  head_.hashes.push_back(hash_bytes(segment));
  file_.append(segment);
}

void RowsWriter::seal() {
  file_.append(encode_rows_end(head_, pack_));
  file_.sync();
}

std::shared_ptr<const RowsReader> RowsReader::open(const DurableDirectory& directory,
                                                   const std::string& pack, const PackHead& of_pack,
                                                   const std::string& kind) {
  auto file = directory.open_file(rows_file_name(pack, kind));
  return file ? read(std::move(*file), pack, of_pack, kind) : nullptr;
}

std::shared_ptr<const RowsReader> RowsReader::read(DirectoryFile file, const std::string& pack,
                                                   const PackHead& of_pack,
                                                   const std::string& kind) {
  std::vector<std::byte> tail(static_cast<size_t>(std::min(file.bytes(), kRowsEndBytesMax)));
  file.read(tail, file.bytes() - tail.size());
  RowsHead head = parse_rows_end(tail, file.bytes(), pack, of_pack.run.first_pos, of_pack.end_pos(),
                                 file.path());
  if (head.shape.kind != kind)
    throw Error(ErrorCode::kBadFile, "index rows of kind " + head.shape.kind, file.path(),
                "Remove the file; the rows will be made anew.");
  return std::shared_ptr<const RowsReader>(
      new RowsReader(std::move(file), rows_file_name(pack, kind), std::move(head)));
}

std::span<const std::byte> RowsReader::read_segment(uint32_t segment,
                                                    std::span<std::byte> memory) const {
  STRATA_CHECK(head_.has(segment), "segment %u", segment);
  const uint32_t i = segment - head_.first_segment;
  const uint64_t bytes = head_.shape.segment_bytes();
  const std::span<const std::byte> rows = file_.read_direct(memory, bytes, i * bytes);
  if (hash_bytes(rows) != head_.hashes[i])
    throw Error(ErrorCode::kBadFile,
                "index rows of positions from " +
                    std::to_string(uint64_t{segment} * head_.shape.segment_positions) +
                    " on are not what was saved",
                file_.path(), "They are made anew; check the disk if this happens often.");
  return rows;
}

void RowsReader::check() const {
  const HostMemory memory = HostMemory::reserve(memory_bytes(head_.shape));
  for (uint32_t i = 0; i < head_.n_segments(); ++i)
    read_segment(head_.first_segment + i, {memory.data(), memory.size()});
}

}  // namespace strata::tiers

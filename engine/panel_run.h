// engine/panel_run.h - panels of matrices whose rows stand side by side in a file and are read by
// one request.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/packed_matrix.h"
#include "engine/gguf/gguf_file.h"

namespace strata::engine {

/// File bytes of a read at most, unless one panel has more than half of it: large enough for a
/// disk's full rate, small enough that what is packed is still in a core's second-level cache.
inline constexpr uint64_t kReadBytes = uint64_t{1} << 20;
/// Bytes of other tensors (norms, biases) that are read rather than begin another request: the disk
/// moves so many in a few microseconds.
inline constexpr uint64_t kReadGapBytes = uint64_t{32} << 10;

/// Panels of one matrix.
struct PanelRun {
  const GgufTensor* tensor = nullptr;
  uint32_t panel_begin = 0;
  uint32_t panel_end = 0;
  uint64_t file_offset = 0;  // in the tensor's shard
  uint64_t file_bytes = 0;
  uint64_t packed_offset = 0;  // of the matrix, in the memory that a group of matrices is packed in

  uint32_t n_panels() const { return panel_end - panel_begin; }
};

/// The shape of a tensor's packed matrix; no bytes yet.
PackedMatrix packed_shape(const GgufTensor& tensor);

struct PanelRead {
  uint32_t shard = 0;
  uint64_t file_offset = 0;
  uint64_t file_bytes = 0;     // from the first run's first to the last one's last
  std::vector<PanelRun> runs;  // rising in offset

  uint32_t n_panels() const;
  uint64_t weight_bytes() const;  // of file_bytes, those of the runs
  /// The file's bytes of a run, of those of the read.
  std::span<const std::byte> rows_of(const PanelRun& run, std::span<const std::byte> read) const {
    return read.subspan(run.file_offset - file_offset, run.file_bytes);
  }
};

/// A tensor, and where its matrix goes in the memory that a group of matrices is packed in.
struct PackedTensor {
  const GgufTensor* tensor = nullptr;
  uint64_t packed_offset = 0;
};

/// The reads that bring these tensors, rising in shard and offset. Tensors that are neighbours in
/// the file are joined, and what is joined is cut into reads of about equal size.
std::vector<PanelRead> panel_reads(std::vector<PackedTensor> tensors);

/// Packs panels [begin, end) of a run; `rows` holds the file's bytes of the whole run, `memory` is
/// that of the group.
void pack_run(const PanelRun& run, uint32_t begin, uint32_t end, std::span<const std::byte> rows,
              std::byte* memory);

/// "PATH: tensor NAME, offset N": where a read begins, for errors.
std::string read_place(const GgufFile& file, const PanelRead& read);

}  // namespace strata::engine

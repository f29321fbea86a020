// engine/panel_run.h - panels of one matrix whose rows are read from the file at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/packed_matrix.h"
#include "engine/gguf/gguf_file.h"

namespace strata::engine {

/// File bytes of a run at most, unless one panel has more: large enough for a disk's full rate,
/// small enough that what is packed is still in a core's second-level cache.
inline constexpr uint64_t kRunBytes = uint64_t{1} << 20;

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

/// Appends the runs that make up a tensor's matrix.
void append_runs(const GgufTensor& tensor, uint64_t packed_offset, std::vector<PanelRun>& runs);

/// Packs panels [begin, end) of a run; `rows` holds the file's bytes of the whole run, `memory` is
/// that of the group.
void pack_run(const PanelRun& run, uint32_t begin, uint32_t end, std::span<const std::byte> rows,
              std::byte* memory);

/// "PATH: tensor NAME, offset N": where a run stands, for errors.
std::string run_place(const GgufFile& file, const PanelRun& run);

}  // namespace strata::engine

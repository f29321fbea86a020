#include "engine/panel_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/tensor_type.h"
#include "cpu_attn/pack.h"
#include "engine/gguf/gguf_head.h"

namespace strata::engine {

PackedMatrix packed_shape(const GgufTensor& tensor) {
  PackedMatrix matrix;
  matrix.type = tensor.type;
  matrix.n_in = static_cast<uint32_t>(tensor.shape[0]);
  matrix.n_out = static_cast<uint32_t>(tensor.n_rows());
  matrix.panel_bytes = cpu_attn::panel_bytes(tensor.type, matrix.n_in);
  return matrix;
}

void append_runs(const GgufTensor& tensor, uint64_t packed_offset, std::vector<PanelRun>& runs) {
  const PackedMatrix matrix = packed_shape(tensor);
  const uint64_t row_bytes = tensor_row_bytes(tensor.type, matrix.n_in);
  const auto panels_per_run =
      static_cast<uint32_t>(std::max<uint64_t>(1, kRunBytes / (row_bytes * kPanelRows)));
  for (uint32_t begin = 0; begin < matrix.n_panels(); begin += panels_per_run) {
    PanelRun run;
    run.tensor = &tensor;
    run.panel_begin = begin;
    run.panel_end = std::min(matrix.n_panels(), begin + panels_per_run);
    const uint64_t row_begin = uint64_t{begin} * kPanelRows;
    const uint64_t row_end = std::min<uint64_t>(uint64_t{run.panel_end} * kPanelRows, matrix.n_out);
    run.file_offset = tensor.file_offset + row_begin * row_bytes;
    run.file_bytes = (row_end - row_begin) * row_bytes;
    run.packed_offset = packed_offset;
    runs.push_back(run);
  }
}

void pack_run(const PanelRun& run, uint32_t begin, uint32_t end, std::span<const std::byte> rows,
              std::byte* memory) {
  STRATA_CHECK(run.panel_begin <= begin && begin <= end && end <= run.panel_end,
               "panels [%u, %u) of a run [%u, %u)", begin, end, run.panel_begin, run.panel_end);
  STRATA_CHECK(rows.size() == run.file_bytes, "%zu bytes of a run of %lu", rows.size(),
               static_cast<unsigned long>(run.file_bytes));
  const GgufTensor& tensor = *run.tensor;
  const auto n_in = static_cast<uint32_t>(tensor.shape[0]);
  const auto n_out = static_cast<uint32_t>(tensor.n_rows());
  const uint64_t row_bytes = tensor_row_bytes(tensor.type, n_in);
  const uint64_t panel_rows_bytes = row_bytes * kPanelRows;
  const uint64_t from = (begin - run.panel_begin) * panel_rows_bytes;
  const uint64_t to =
      std::min<uint64_t>((end - run.panel_begin) * panel_rows_bytes, run.file_bytes);
  cpu_attn::pack_panels(
      tensor.type, n_out, n_in, begin, end, rows.subspan(from, to - from),
      memory + run.packed_offset + begin * cpu_attn::panel_bytes(tensor.type, n_in));
}

std::string run_place(const GgufFile& file, const PanelRun& run) {
  return fmt::format("{}: tensor {}, offset {}", file.shard(run.tensor->shard).path,
                     printable(run.tensor->name), run.file_offset);
}

}  // namespace strata::engine

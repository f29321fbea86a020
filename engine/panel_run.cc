#include "engine/panel_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/tensor_type.h"
#include "cpu_attn/pack.h"
#include "engine/gguf/gguf_head.h"

namespace strata::engine {
namespace {

uint64_t end_of(const GgufTensor& tensor) { return tensor.file_offset + tensor.bytes; }

bool are_neighbours(const GgufTensor& first, const GgufTensor& second) {
  return first.shard == second.shard && second.file_offset >= end_of(first) &&
         second.file_offset - end_of(first) <= kReadGapBytes;
}

uint64_t panel_file_bytes(const GgufTensor& tensor) {
  return tensor_row_bytes(tensor.type, tensor.shape[0]) * kPanelRows;
}

/// Puts one more panel, the next in the file, at the end of the read.
void append_panel(const PackedTensor& of, uint32_t panel, PanelRead& read) {
  const GgufTensor& tensor = *of.tensor;
  const uint64_t begin = tensor.file_offset + panel * panel_file_bytes(tensor);
  const uint64_t end = std::min(begin + panel_file_bytes(tensor), end_of(tensor));
  if (read.runs.empty()) {
    read.shard = tensor.shard;
    read.file_offset = begin;
  }
  if (read.runs.empty() || read.runs.back().tensor != &tensor)
    read.runs.push_back({&tensor, panel, panel, begin, 0, of.packed_offset});
  PanelRun& run = read.runs.back();
  run.panel_end = panel + 1;
  run.file_bytes = end - run.file_offset;
  read.file_bytes = end - read.file_offset;
}

/// The reads of tensors that are all neighbours. A read is full where it has its share of them, so
/// that none has more than a panel above it.
void append_reads(std::span<const PackedTensor> tensors, std::vector<PanelRead>& reads) {
  uint64_t panel_bytes_max = 0;
  for (const PackedTensor& of : tensors)
    panel_bytes_max = std::max(panel_bytes_max, panel_file_bytes(*of.tensor));
  const uint64_t bytes = end_of(*tensors.back().tensor) - tensors.front().tensor->file_offset;
  const uint64_t room = kReadBytes - std::min(panel_bytes_max, kReadBytes / 2);
  const uint64_t share = div_up(bytes, div_up(bytes, room));
  PanelRead read;
  for (const PackedTensor& of : tensors) {
    const uint32_t n_panels = packed_shape(*of.tensor).n_panels();
    for (uint32_t panel = 0; panel < n_panels; ++panel) {
      append_panel(of, panel, read);
      if (read.file_bytes < share) continue;
      reads.push_back(std::move(read));
      read = {};
    }
  }
  if (!read.runs.empty()) reads.push_back(std::move(read));
}

}  // namespace

PackedMatrix packed_shape(const GgufTensor& tensor) {
  PackedMatrix matrix;
  matrix.type = tensor.type;
  matrix.n_in = static_cast<uint32_t>(tensor.shape[0]);
  matrix.n_out = static_cast<uint32_t>(tensor.n_rows());
  matrix.panel_bytes = cpu_attn::panel_bytes(tensor.type, matrix.n_in);
  return matrix;
}

uint32_t PanelRead::n_panels() const {
  uint32_t n = 0;
  for (const PanelRun& run : runs) n += run.n_panels();
  return n;
}

uint64_t PanelRead::weight_bytes() const {
  uint64_t bytes = 0;
  for (const PanelRun& run : runs) bytes += run.file_bytes;
  return bytes;
}

std::vector<PanelRead> panel_reads(std::vector<PackedTensor> tensors) {
  std::ranges::sort(tensors, {}, [](const PackedTensor& of) {
    return std::pair(of.tensor->shard, of.tensor->file_offset);
  });
  std::vector<PanelRead> reads;
  for (auto first = tensors.begin(); first != tensors.end();) {
    auto last = first + 1;
    while (last != tensors.end() && are_neighbours(*last[-1].tensor, *last->tensor)) ++last;
    append_reads({first, last}, reads);
    first = last;
  }
  return reads;
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

std::string read_place(const GgufFile& file, const PanelRead& read) {
  return fmt::format("{}: tensor {}, offset {}", file.shard(read.shard).path,
                     printable(read.runs.front().tensor->name), read.file_offset);
}

}  // namespace strata::engine

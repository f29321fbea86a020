#include "tools/cli/linear_trial.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <random>

#include "base/check.h"
#include "base/half.h"
#include "cpu_attn/kernels.h"
#include "cpu_attn/linear.h"
#include "cpu_attn/pack.h"
#include "cpu_attn/pack_panel.h"

namespace strata::cli {
namespace {

constexpr uint32_t kCheckedRows = 3;

/// Of a layer with four query heads to a KV head and a gated feed-forward.
constexpr uint32_t kWidth = 1024, kKvWidth = 256, kFfWidth = 2816;
constexpr struct {
  uint32_t n_out, n_in;
} kLayerShapes[] = {{kWidth, kWidth},   {kKvWidth, kWidth}, {kKvWidth, kWidth}, {kWidth, kWidth},
                    {kFfWidth, kWidth}, {kFfWidth, kWidth}, {kWidth, kFfWidth}};
constexpr uint32_t kLeastRows = 4;

/// Random rows of a type with finite scales: random bytes, each f16 of a header kept small.
std::vector<std::byte> draw_rows(const TensorTypeInfo& info, uint64_t bytes) {
  std::mt19937 random(2);
  std::vector<std::byte> rows(bytes);
  for (auto& byte : rows)
    byte = static_cast<std::byte>(random() & 0x3b);  // exponents stay finite in F32, F16 and BF16
  for (uint64_t at = 0; at + info.block_bytes <= bytes; at += info.block_bytes) {
    const bool at_end = info.type == TensorType::kQ2_K || info.type == TensorType::kQ3_K ||
                        info.type == TensorType::kQ6_K;
    if (info.block_elements == 1) continue;
    const uint16_t scale = f32_to_f16(0.01f);
    std::memcpy(rows.data() + at + (at_end ? info.block_bytes - 2 : 0), &scale, 2);
  }
  return rows;
}

}  // namespace

LinearTrial::LinearTrial(const KernelTable& kernels, TensorType type, const LinearTrialSizes& sizes)
    : kernels_(kernels),
      sizes_(sizes),
      w_{nullptr, type, sizes.n_out, sizes.n_in, cpu_attn::panel_bytes(type, sizes.n_in)},
      n_copies_(std::max<uint64_t>(1, sizes.memory_bytes / w_.total_bytes())),
      memory_(HostMemory::reserve(n_copies_ * w_.total_bytes())),
      file_(draw_rows(tensor_type_info(type), sizes.n_out * tensor_row_bytes(type, sizes.n_in))),
      x_(uint64_t{sizes.n_rows} * sizes.n_in),
      out_(uint64_t{sizes.n_rows} * sizes.n_out),
      scales_(x_.size() / kActGroup + 1),
      q_(x_.size()),
      neg_sums_(x_.size() / kActHalfGroup + 1) {
  STRATA_CHECK(sizes.n_rows >= kLeastRows, "%u rows", sizes.n_rows);
  pack_panels(0, 0, w_.n_panels());
  for (uint64_t i = 1; i < n_copies_; ++i)
    std::memcpy(memory_.data() + i * w_.total_bytes(), memory_.data(), w_.total_bytes());
  w_.bytes = memory_.data();
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (auto& value : x_) value = normal(random);
  if (sizes.n_in % kActGroup == 0)
    kernels.quantize_rows(x_.data(), sizes.n_rows, sizes.n_in, args().quant);
}

void LinearTrial::pack_copy(ThreadPool& pool, uint64_t copy) {
  pool.for_each(w_.n_panels(), grain(pool, 1), [&](uint64_t begin, uint64_t end, uint32_t) {
    pack_panels(copy, static_cast<uint32_t>(begin), static_cast<uint32_t>(end));
  });
}

void LinearTrial::pack_all() {
  for (uint64_t copy = 0; copy < n_copies_; ++copy) pack_panels(copy, 0, w_.n_panels());
}

void LinearTrial::pack_all_by_lanes() {
  const uint64_t row_bytes = tensor_row_bytes(w_.type, w_.n_in);
  const auto* rows = reinterpret_cast<const uint8_t*>(file_.data());
  auto* panel = reinterpret_cast<uint8_t*>(memory_.data());
  for (uint64_t copy = 0; copy < n_copies_; ++copy)
    for (uint32_t row = 0; row < w_.n_out; row += kPanelRows, panel += w_.panel_bytes)
      cpu_attn::pack_panel_by_lanes(w_.type, rows + row * row_bytes, row_bytes,
                                    std::min(kPanelRows, w_.n_out - row), w_.n_in, panel);
}

void LinearTrial::copy_all() {
  for (uint64_t copy = 0; copy < n_copies_; ++copy)
    std::memcpy(memory_.data() + copy * w_.total_bytes(), file_.data(), file_.size());
}

void LinearTrial::pack_panels(uint64_t copy, uint32_t begin, uint32_t end) {
  const uint64_t row_bytes = tensor_row_bytes(w_.type, w_.n_in);
  const uint64_t from = uint64_t{begin} * kPanelRows * row_bytes;
  const uint64_t to = std::min<uint64_t>(uint64_t{end} * kPanelRows * row_bytes, file_.size());
  cpu_attn::pack_panels(w_.type, w_.n_out, w_.n_in, begin, end,
                        std::span(file_).subspan(from, to - from),
                        memory_.data() + copy * w_.total_bytes() + begin * w_.panel_bytes);
}

/// As in the walk.
uint32_t LinearTrial::grain(const ThreadPool& pool, uint32_t n_rows) const {
  return cpu_attn::panels_per_piece(w_.n_panels(), pool.size(), n_rows, kernels_.has_tiles);
}

LinearArgs LinearTrial::args() {
  return {w_,          x_.data(),    {q_.data(), scales_.data(), neg_sums_.data()},
          out_.data(), sizes_.n_out, sizes_.n_rows,
          0,           w_.n_panels()};
}

bool LinearTrial::is_right() {
  LinearArgs own = args();
  own.n_rows = kCheckedRows;
  kernels_.linear(own);
  std::vector<float> wanted(uint64_t{kCheckedRows} * sizes_.n_out);
  LinearArgs reference = own;
  reference.out = wanted.data();
  cpu_attn::available_kernels().front()->linear(reference);
  return std::memcmp(out_.data(), wanted.data(), wanted.size() * sizeof(float)) == 0;
}

/// As in the walk, but that nothing is fetched for what comes next.
void LinearTrial::run(ThreadPool& pool, const LinearArgs& args) {
  const auto multiply = [&](uint64_t begin, uint64_t end, uint32_t) {
    LinearArgs piece = args;
    piece.panel_begin = static_cast<uint32_t>(begin);
    piece.panel_end = static_cast<uint32_t>(end);
    kernels_.linear(piece);
  };
  const uint32_t n_panels = args.w.n_panels();
  if (args.n_rows > cpu_attn::kFewRows)
    return pool.for_each(n_panels, grain(pool, args.n_rows), multiply);
  begins_.resize(pool.size() + 1);  // the first run alone allocates
  for (uint32_t worker = 0; worker <= pool.size(); ++worker)
    begins_[worker] = static_cast<uint32_t>(uint64_t{n_panels} * worker / pool.size());
  pool.for_each_own(begins_, multiply);
}

void LinearTrial::decode_copy(ThreadPool& pool, uint64_t copy, uint32_t n_rows) {
  LinearArgs of = args();
  of.n_rows = n_rows;
  of.w.bytes = memory_.data() + copy * w_.total_bytes();
  run(pool, of);
}

void LinearTrial::decode(ThreadPool& pool, uint32_t n_rows) {
  for (uint64_t i = 0; i < n_copies_; ++i) decode_copy(pool, i, n_rows);
}

void LinearTrial::prefill(ThreadPool& pool) { run(pool, args()); }

LayerTrial::LayerTrial(const KernelTable& kernels, TensorType type, uint64_t memory_bytes) {
  uint64_t one_layer = 0;
  for (const auto& [n_out, n_in] : kLayerShapes)
    one_layer +=
        PackedMatrix{nullptr, type, n_out, n_in, cpu_attn::panel_bytes(type, n_in)}.total_bytes();
  n_layers_ = std::max<uint64_t>(1, memory_bytes / one_layer);
  matrices_.reserve(std::size(kLayerShapes));
  for (const auto& [n_out, n_in] : kLayerShapes) {
    const PackedMatrix one{nullptr, type, n_out, n_in, cpu_attn::panel_bytes(type, n_in)};
    matrices_.emplace_back(kernels, type,
                           LinearTrialSizes{.n_out = n_out,
                                            .n_in = n_in,
                                            .n_rows = kLeastRows,
                                            .memory_bytes = n_layers_ * one.total_bytes()});
  }
}

uint64_t LayerTrial::layer_bytes() const {
  uint64_t bytes = 0;
  for (const LinearTrial& matrix : matrices_) bytes += matrix.matrix().total_bytes();
  return bytes;
}

void LayerTrial::decode_layer(ThreadPool& pool, uint64_t layer) {
  for (LinearTrial& matrix : matrices_) matrix.decode_copy(pool, layer);
}

}  // namespace strata::cli

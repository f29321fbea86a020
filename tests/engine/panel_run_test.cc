// Reads of panels: every panel of every tensor is in one, and they are few and of one size.
#include "engine/panel_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "base/checked_math.h"

namespace strata::engine {
namespace {

GgufTensor tensor_at(uint64_t offset, uint64_t n_in, uint64_t n_out, uint32_t shard = 0) {
  GgufTensor tensor;
  tensor.type = TensorType::kQ8_0;  // 34 bytes of 32 values
  tensor.shape = {n_in, n_out, 1, 1};
  tensor.bytes = n_in / 32 * 34 * n_out;
  tensor.shard = shard;
  tensor.file_offset = offset;
  return tensor;
}

/// Expects each tensor's panels once, each run where they stand, and a read to be what holds its
/// runs.
void expect_whole(const std::vector<GgufTensor>& tensors, const std::vector<PanelRead>& reads) {
  std::vector<uint32_t> next(tensors.size());
  for (const PanelRead& read : reads) {
    ASSERT_FALSE(read.runs.empty());
    EXPECT_EQ(read.file_offset, read.runs.front().file_offset);
    uint64_t end = read.file_offset;
    for (const PanelRun& run : read.runs) {
      const auto at = static_cast<size_t>(run.tensor - tensors.data());
      EXPECT_EQ(run.packed_offset, at);
      EXPECT_EQ(run.tensor->shard, read.shard);
      EXPECT_EQ(run.panel_begin, next[at]);
      next[at] = run.panel_end;
      const uint64_t row_bytes = run.tensor->shape[0] / 32 * 34;
      EXPECT_EQ(run.file_offset,
                run.tensor->file_offset + run.panel_begin * kPanelRows * row_bytes);
      const uint64_t rows = std::min<uint64_t>(run.panel_end * kPanelRows, run.tensor->shape[1]) -
                            run.panel_begin * kPanelRows;
      EXPECT_EQ(run.file_bytes, rows * row_bytes);
      EXPECT_GE(run.file_offset, end);
      EXPECT_LE(run.file_offset - end, kReadGapBytes);
      end = run.file_offset + run.file_bytes;
    }
    EXPECT_EQ(read.file_offset + read.file_bytes, end);
  }
  for (size_t i = 0; i < tensors.size(); ++i)
    EXPECT_EQ(next[i], div_up(tensors[i].shape[1], kPanelRows)) << "tensor " << i;
}

std::vector<PanelRead> reads_of(const std::vector<GgufTensor>& tensors) {
  std::vector<PackedTensor> packed;
  for (size_t i = tensors.size(); i-- > 0;) packed.push_back({&tensors[i], i});  // in any order
  return panel_reads(packed);
}

TEST(PanelReads, NeighboursAreJoinedAndCutIntoEqualShares) {
  // Seven matrices with a norm between some: 3.6 MiB, as of a small model's layer.
  std::vector<GgufTensor> tensors;
  uint64_t offset = 1000;
  using Shape = std::pair<uint64_t, uint64_t>;
  const Shape shapes[] = {{576, 576},  {576, 192},  {576, 192}, {576, 576},
                          {576, 1536}, {576, 1536}, {1536, 576}};
  for (const auto& [n_in, n_out] : shapes) {
    tensors.push_back(tensor_at(offset, n_in, n_out));
    offset += tensors.back().bytes + (n_out == 576 ? 2304 : 0);
  }
  const std::vector<PanelRead> reads = reads_of(tensors);
  expect_whole(tensors, reads);
  ASSERT_EQ(reads.size(), 4u);
  for (const PanelRead& read : reads) EXPECT_LE(read.file_bytes, kReadBytes);
  EXPECT_GE(reads.back().file_bytes, reads.front().file_bytes * 3 / 4);
}

TEST(PanelReads, TensorsFarApartOrOfOtherShardsAreNotJoined) {
  std::vector<GgufTensor> tensors = {tensor_at(0, 64, 160), tensor_at(0, 64, 160, 1)};
  tensors.push_back(tensor_at(tensors[0].bytes + kReadGapBytes, 64, 160));
  tensors.push_back(
      tensor_at(tensors[2].file_offset + tensors[2].bytes + kReadGapBytes + 1, 64, 1));
  const std::vector<PanelRead> reads = reads_of(tensors);
  expect_whole(tensors, reads);
  ASSERT_EQ(reads.size(), 3u);
  EXPECT_EQ(reads[0].runs.size(), 2u);
  EXPECT_EQ(reads[0].weight_bytes(), 2 * tensors[0].bytes);
  EXPECT_EQ(reads[2].shard, 1u);
}

TEST(PanelReads, APanelAboveTheLimitIsReadAlone) {
  const std::vector<GgufTensor> tensors = {tensor_at(0, 128 << 10, 40)};  // 2.1 MiB a panel
  const std::vector<PanelRead> reads = reads_of(tensors);
  expect_whole(tensors, reads);
  EXPECT_EQ(reads.size(), 3u);
}

TEST(PanelReads, BringEveryPanelOnceWhateverTheShapes) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 300; ++i) {
    std::vector<GgufTensor> tensors;
    uint64_t offset = random() % 10'000;
    for (auto n = 1 + random() % 9; n > 0; --n) {
      const uint64_t n_in = 32 * (1 + random() % (random() % 8 == 0 ? 2000 : 100));
      tensors.push_back(tensor_at(offset, n_in, 1 + random() % 900, random() % 16 == 0 ? 1 : 0));
      offset += tensors.back().bytes + random() % (2 * kReadGapBytes);
    }
    const std::vector<PanelRead> reads = reads_of(tensors);
    expect_whole(tensors, reads);
    uint64_t panel_bytes_max = 0;
    for (const GgufTensor& tensor : tensors)
      panel_bytes_max = std::max(panel_bytes_max, tensor.shape[0] / 32 * 34 * kPanelRows);
    for (const PanelRead& read : reads)
      EXPECT_LE(read.file_bytes,
                std::max(kReadBytes, kReadBytes / 2 + panel_bytes_max) + kReadGapBytes);
  }
}

}  // namespace
}  // namespace strata::engine

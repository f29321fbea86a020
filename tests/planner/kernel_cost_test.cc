// Bytes, operations and ranges of the device's operations, against counting by hand; and a layer's
// kernels on a virtual device with real tables.
#include "planner/virtual/kernel_cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "planner/virtual/first_fit_arena.h"
#include "tests/planner/virtual_machine.h"

namespace strata::planner {
namespace {

using testing::kMiB;
using testing::VirtualMachine;

/// Buffers at addresses of their own; nothing is read there.
template <class T>
T* buffer(uint64_t number) {
  return reinterpret_cast<T*>((uint64_t{1} << 40) + number * (uint64_t{1} << 32));
}

QuantRows quant(uint64_t number) {
  return {buffer<int8_t>(number), buffer<float>(number + 1), buffer<int32_t>(number + 2)};
}

PackedMatrix matrix(uint64_t number, TensorType type, uint32_t n_out, uint32_t n_in) {
  return {.bytes = buffer<std::byte>(number),
          .type = type,
          .n_out = n_out,
          .n_in = n_in,
          .panel_bytes = kPanelRows * tensor_row_bytes(type, n_in)};
}

bool writes(const KernelCost& cost, const void* buffer_begin) {
  for (const TouchedRange& of : cost.writes)
    if (of.range.begin == reinterpret_cast<uint64_t>(buffer_begin)) return true;
  return false;
}

TEST(KernelCost, ANormReadsWhatItIsGivenAndWritesTheResidualOnlyWhereItAdds) {
  DeviceNormArgs args{.residual = buffer<float>(0),
                      .projected = nullptr,
                      .bias = nullptr,
                      .post_norm = nullptr,
                      .weight = buffer<float>(1),
                      .normed = buffer<float>(2),
                      .quant = {},
                      .n_rows = 3,
                      .n = 64,
                      .eps = 0};
  KernelCost cost = kernel_cost(args);
  EXPECT_EQ(cost.bytes(), (3 * 64 + 64 + 3 * 64) * 4u);
  EXPECT_FALSE(writes(cost, args.residual));
  args.projected = buffer<float>(3);
  args.quant = quant(4);
  cost = kernel_cost(args);
  EXPECT_TRUE(writes(cost, args.residual));
  // Two more rows of f32 moved each way, and int8, a scale per 32, a sum per 16.
  EXPECT_EQ(cost.bytes(),
            (3 * 64 + 64 + 3 * 64) * 4u + 2 * 3 * 64 * 4 + 3 * (64 + 64 / 32 * 4 + 64 / 16 * 4));
}

TEST(KernelCost, AProductOfFewRowsReadsItsWeightsOnceAndInInt8WhereTheyAreQuantised) {
  DeviceLinearArgs args{};
  args.w[0] = matrix(0, TensorType::kQ4_K, 48, 256);
  args.w[1] = matrix(1, TensorType::kQ4_K, 32, 256);
  args.out[0] = buffer<float>(2);
  args.out[1] = buffer<float>(3);
  args.n_matrices = 2;
  args.x = buffer<float>(4);
  args.quant = quant(5);
  args.n_rows = 2;
  const KernelCost cost = kernel_cost(args);
  EXPECT_EQ(cost.unit, FlopUnit::kInt8);
  EXPECT_EQ(cost.flop, 2u * 2 * 256 * (48 + 32));
  EXPECT_EQ(cost.bytes(),
            (48 + 32) * 144u + 2 * (256 + 256 / 32 * 4 + 256 / 16 * 4) + 2 * (48 + 32) * 4);
  args.w[1].type = TensorType::kF16;
  EXPECT_EQ(kernel_cost(args).unit, FlopUnit::kF32);
}

TEST(KernelCost, AProductOfManyRowsPassesThroughF16) {
  DeviceLinearArgs args{};
  args.w[0] = matrix(0, TensorType::kF16, 32, 64);
  args.out[0] = buffer<float>(2);
  args.n_matrices = 1;
  args.x = buffer<float>(4);
  args.n_rows = kDeviceFewRows + 1;
  args.scratch = buffer<std::byte>(5);
  const KernelCost cost = kernel_cost(args);
  EXPECT_EQ(cost.unit, FlopUnit::kF16Tensor);
  EXPECT_EQ(cost.bytes(), 32u * 64 * 2 + 9 * 64 * 4 + 9 * 32 * 4 + 2 * (9 * 64 + 32 * 64) * 2);
  EXPECT_TRUE(writes(cost, args.scratch));
}

TEST(KernelCost, AnEmbeddingMovesItsRowsAndTouchesTheMatrix) {
  const DeviceEmbedArgs args{.matrix = matrix(0, TensorType::kQ4_K, 1000, 256),
                             .tokens = buffer<int32_t>(1),
                             .out = buffer<float>(2),
                             .n_rows = 3,
                             .scale = 1};
  const KernelCost cost = kernel_cost(args);
  EXPECT_EQ(cost.bytes(), 3u * (4 + 144 + 256 * 4));
  EXPECT_EQ(cost.reads[1].range.bytes, args.matrix.total_bytes());
}

/// A table of blocks at addresses of their own, and positions.
struct Table {
  Table(uint32_t n_kv_heads, uint32_t n_blocks, uint32_t first_position, uint32_t n_rows)
      : layout(KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64)) {
    for (uint32_t i = 0; i < n_kv_heads * n_blocks; ++i)
      blocks.push_back(buffer<std::byte>(20) + i * 2 * layout.block_bytes);
    for (uint32_t i = 0; i < n_rows; ++i) positions.push_back(first_position + i);
  }
  KvLayout layout;
  std::vector<std::byte*> blocks;
  std::vector<uint32_t> positions;
};

TEST(KernelCost, AttentionReadsTheBlocksThatItsRowsAttendAndNoOther) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int run = 0; run < 300; ++run) {
    const auto n_rows = static_cast<uint32_t>(1 + random() % 70);
    const auto first = static_cast<uint32_t>(random() % 300);
    const auto window = static_cast<uint32_t>(random() % 2 * (1 + random() % 200));
    const auto n_blocks = static_cast<uint32_t>(1 + random() % 12);
    const Table table(2, n_blocks, first, n_rows);
    DeviceAttendArgs args{};
    args.q = buffer<float>(0);
    args.positions = table.positions.data();
    args.blocks = table.blocks.data();
    args.block_stride = n_blocks;
    args.n_blocks = n_blocks;
    args.layout = table.layout;
    args.n_rows = n_rows;
    args.n_kv_heads = 2;
    args.group = 3;
    args.window = window;
    args.n_splits = 4;
    args.o = buffer<float>(1);
    args.m = buffer<float>(2);
    args.l = buffer<float>(3);
    std::set<uint64_t> wanted;
    uint64_t attended = 0;
    for (const uint32_t pos : table.positions)
      for (uint32_t key = 0; key <= pos; ++key) {
        if (window != 0 && key + window <= pos) continue;
        ++attended;
        if (key / kBlockPositions >= n_blocks) continue;
        for (uint32_t head = 0; head < 2; ++head)
          wanted.insert(
              reinterpret_cast<uint64_t>(table.blocks[head * n_blocks + key / kBlockPositions]));
      }
    const KernelCost cost = kernel_cost(args);
    EXPECT_EQ(cost.flop, 4 * attended * 2 * 3 * 64);
    uint64_t n_found = 0;
    for (const TouchedRange& read : cost.reads) n_found += wanted.contains(read.range.begin);
    EXPECT_EQ(n_found, wanted.size());
    const uint64_t q_bytes = uint64_t{n_rows} * 6 * 64 * 4;
    const uint64_t table_bytes = wanted.size() * 8;
    EXPECT_EQ(cost.bytes(), q_bytes + n_rows * 4 + table_bytes +
                                wanted.size() * table.layout.block_bytes +
                                4 * uint64_t{n_rows} * 6 * (64 + 2) * 4);
  }
}

/// KV heads with tables of their own: each reads as far as its own positions say.
TEST(KernelCost, AttentionOfHeadsAtTheirOwnPositions) {
  Table table(2, 6, 0, 0);
  table.positions = {32 * 5 + 3, 32 * 5 + 4, 40, 41};  // six blocks and two
  DeviceAttendArgs args{};
  args.positions = table.positions.data();
  args.position_stride = 2;
  args.blocks = table.blocks.data();
  args.block_stride = args.n_blocks = 6;
  args.layout = table.layout;
  args.n_rows = args.n_kv_heads = 2;
  args.group = 3;
  const KernelCost cost = kernel_cost(args);
  EXPECT_EQ(cost.flop, 4u * (164 + 165 + 41 + 42) * 3 * 64);
  EXPECT_EQ(cost.bytes(), 4u * 4 + 8 * 8 + 8 * table.layout.block_bytes);
  const auto first = tables_of(args, 0), second = tables_of(args, 1);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].bytes, 4 * sizeof(uint32_t));
  ASSERT_EQ(second.size(), 2u);
  EXPECT_EQ(second[0].bytes, 6u * 8);
  EXPECT_EQ(second[1].bytes, 2u * 8);
}

TEST(KernelCost, NeighbouringBlocksAreOneRangeButNotAcrossAGranule) {
  const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 128);  // 16 KiB
  std::byte* base = buffer<std::byte>(1);
  std::vector<std::byte*> blocks;
  for (uint64_t i = 0; i < 256; ++i) blocks.push_back(base + i * layout.block_bytes);
  const uint32_t position = 256 * 32 - 1;
  DeviceAttendArgs args{};
  args.positions = &position;
  args.blocks = blocks.data();
  args.block_stride = args.n_blocks = 256;
  args.layout = layout;
  args.n_rows = args.n_kv_heads = args.group = 1;
  const KernelCost cost = kernel_cost(args);
  ASSERT_EQ(cost.reads.size(), 4u);  // positions, the table, two granules of blocks
  EXPECT_EQ(cost.reads[2].range.bytes, FirstFitArena::kGranule);
  EXPECT_EQ(cost.reads[3].range.bytes, FirstFitArena::kGranule);
}

TEST(KernelCost, RotateWritesItsRowsAndKeepsTheOthersOfTheirBlocks) {
  const Table table(2, 4, 40, 30);  // positions 40..69: blocks 1 and 2
  DeviceRotateArgs args{};
  args.q = buffer<float>(0);
  args.k = buffer<float>(1);
  args.v = buffer<float>(2);
  args.positions = table.positions.data();
  args.blocks = table.blocks.data();
  args.block_stride = 4;
  args.layout = table.layout;
  args.q_out = buffer<float>(3);
  args.n_rows = 30;
  args.n_kv_heads = 2;
  args.group = 2;
  const KernelCost cost = kernel_cost(args);
  uint64_t written = 0;
  std::set<uint64_t> blocks;
  for (const TouchedRange& write : cost.writes) {
    if (write.range.begin == reinterpret_cast<uint64_t>(args.q_out)) continue;
    written += write.moved_bytes;
    blocks.insert(write.range.begin);
    EXPECT_EQ(write.range.bytes, table.layout.block_bytes);
  }
  EXPECT_EQ(written, 2u * 30 * kv_position_bytes(table.layout));
  const auto at = [&](size_t i) { return reinterpret_cast<uint64_t>(table.blocks[i]); };
  EXPECT_EQ(blocks, (std::set<uint64_t>{at(1), at(2), at(5), at(6)}));
}

TEST(KernelCost, AMirrorGetsTheSameRowsAndKeepsItsOthers) {
  const Table table(1, 4, 70, 2);
  const Table homes(1, 4, 0, 1);
  DeviceRotateArgs args{};
  args.positions = table.positions.data();
  args.blocks = table.blocks.data();
  args.mirror = homes.blocks.data();
  args.block_stride = 4;
  args.layout = table.layout;
  args.n_rows = 2;
  args.n_kv_heads = args.group = 1;
  const KernelCost cost = kernel_cost(args);
  for (const auto* blocks : {&table.blocks, &homes.blocks}) {
    const auto wanted = reinterpret_cast<uint64_t>((*blocks)[2]);
    const auto touches = [&](const TouchedRange& of) { return of.range.begin == wanted; };
    EXPECT_TRUE(std::ranges::any_of(cost.reads, touches));
    EXPECT_TRUE(std::ranges::any_of(cost.writes, touches));
  }
}

/// Positions of a table that begins with its first_block-th block, near the end of its memory: no
/// entry beyond what the rows need is read.
TEST(KernelCost, TablesEndWhereTheRowsDo) {
  const Table table(2, 8, 100, 5);  // blocks 3, entries 1 of a table from block 2 on
  DeviceRotateArgs rotate{};
  rotate.positions = table.positions.data();
  rotate.blocks = table.blocks.data();
  rotate.block_stride = 8;
  rotate.first_block = 2;
  rotate.n_rows = 5;
  rotate.n_kv_heads = 2;
  ASSERT_EQ(tables_of(rotate, 0).size(), 1u);
  const auto entries = tables_of(rotate, 1);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[1].begin, reinterpret_cast<uint64_t>(table.blocks.data() + 8 + 1));
  EXPECT_EQ(entries[1].bytes, sizeof(std::byte*));
  EXPECT_TRUE(tables_of(rotate, 2).empty());
  DeviceAttendArgs attend{};
  attend.positions = table.positions.data();
  attend.blocks = table.blocks.data();
  attend.block_stride = 8;
  attend.first_block = 2;
  attend.n_blocks = 6;  // more than the text has
  attend.n_rows = 5;
  attend.n_kv_heads = 1;
  attend.window = 20;
  const auto attended = tables_of(attend, 1);
  ASSERT_EQ(attended.size(), 1u);
  EXPECT_EQ(attended[0].begin, reinterpret_cast<uint64_t>(table.blocks.data()));  // block 2
  EXPECT_EQ(attended[0].bytes, 2 * sizeof(std::byte*));                           // and 3
}

TEST(KernelCost, ListsOfBlocksAndWordsAreMovedOnce) {
  std::byte* from[] = {buffer<std::byte>(1), buffer<std::byte>(2)};
  std::byte* to[] = {buffer<std::byte>(3), buffer<std::byte>(4)};
  const DeviceCopyBlocksArgs blocks{.from = from, .to = to, .n_blocks = 2, .block_bytes = 512};
  EXPECT_EQ(kernel_cost(blocks).bytes(), 2u * 2 * 512);
  const uint32_t index[] = {7, 3};
  const uint64_t value[] = {1, 2};
  const DeviceSetWordsArgs words{
      .words = buffer<uint64_t>(1), .index = index, .value = value, .n = 2};
  const KernelCost cost = kernel_cost(words);
  ASSERT_EQ(cost.writes.size(), 2u);
  EXPECT_EQ(cost.writes[0].range.begin, reinterpret_cast<uint64_t>(words.words + 7));
  EXPECT_EQ(cost.bytes(), 2u * (8 + 8));
}

TEST(KernelCost, AScanReadsTheTilesOfItsListsOnceAndWritesEachQueriesScores) {
  const std::byte* tiles[] = {buffer<std::byte>(1), buffer<std::byte>(2), nullptr,
                              buffer<std::byte>(3), buffer<std::byte>(4), nullptr};
  const DeviceScanArgs args{.q = buffer<float>(5),
                            .tiles = tiles,
                            .tile_stride = 3,
                            .n_tiles = 2,
                            .head_dim = 64,
                            .n_kv_heads = 2,
                            .n_queries = 3,
                            .block_scores = buffer<float>(6),
                            .score_stride = 20};
  const KernelCost cost = kernel_cost(args);
  EXPECT_EQ(cost.unit, FlopUnit::kF16Tensor);
  // Tiles: codes of 2 groups, factors, centres, steps.
  EXPECT_EQ(cost.bytes(),
            6u * 64 * 4 + 4 * sizeof(void*) + 4 * (6144 + 256 + 512 + 64) + 6 * 16 * sizeof(float));
  ASSERT_EQ(cost.writes.size(), 6u);
  for (uint64_t query = 0; query < 6; ++query) {
    const auto begin = reinterpret_cast<uint64_t>(args.block_scores + query * 20);
    EXPECT_EQ(cost.writes[query].range.begin, begin);
    EXPECT_EQ(cost.writes[query].range.bytes, 16 * sizeof(float));
  }
  const auto lists = tables_of(args, 0);
  ASSERT_EQ(lists.size(), 2u);
  EXPECT_EQ(lists[1].begin, reinterpret_cast<uint64_t>(tiles + 3));
  EXPECT_EQ(lists[1].bytes, 2 * sizeof(void*));
  EXPECT_TRUE(tables_of(args, 1).empty());
}

TEST(KernelCost, AScanMultipliesWholeTilesOfQueriesAndDimensionsInEachPass) {
  const std::byte* tile = buffer<std::byte>(1);
  const auto flop = [&](uint32_t head_dim, uint32_t n_queries) {
    return kernel_cost(DeviceScanArgs{.q = buffer<float>(0),
                                      .tiles = &tile,
                                      .tile_stride = 1,
                                      .n_tiles = 1,
                                      .head_dim = head_dim,
                                      .n_kv_heads = 1,
                                      .n_queries = n_queries,
                                      .block_scores = buffer<float>(2),
                                      .score_stride = 8})
        .flop;
  };
  // 32 keys and a centre of 8 blocks, with eight queries.
  const uint64_t product = uint64_t{2} * (8 * 33) * 128 * 8;
  EXPECT_EQ(flop(128, 1), product);
  EXPECT_EQ(flop(128, 8), product);
  EXPECT_EQ(flop(128, 9), 2 * product);
  EXPECT_EQ(flop(128, 16), 2 * product);
  EXPECT_EQ(flop(128, 17), 4 * product);
  EXPECT_EQ(flop(128, 128), 16 * product);
  EXPECT_EQ(flop(72, 1), product);
  EXPECT_EQ(flop(136, 1), 2 * product);
  // With four: the other columns are another key's.
  EXPECT_EQ(flop(64, 4), product / 2);
  EXPECT_EQ(flop(8, 1), product / 2);
  EXPECT_EQ(flop(64, 5), product);
  EXPECT_EQ(flop(64, 17), 3 * product);
}

TEST(KernelCost, AScanOfNothingReadsNoList) {
  const std::byte* tile = buffer<std::byte>(1);
  for (const auto& [n_tiles, n_queries] : {std::pair{0u, 4u}, {1u, 0u}}) {
    const DeviceScanArgs args{.q = buffer<float>(0),
                              .tiles = &tile,
                              .tile_stride = 1,
                              .n_tiles = n_tiles,
                              .head_dim = 128,
                              .n_kv_heads = 1,
                              .n_queries = n_queries,
                              .block_scores = buffer<float>(2),
                              .score_stride = 8};
    const KernelCost cost = kernel_cost(args);
    EXPECT_TRUE(cost.reads.empty() && cost.writes.empty());
    EXPECT_EQ(cost.flop, 0u);
    EXPECT_TRUE(tables_of(args, 0).empty());
  }
}

TEST(KernelCost, TheOtherOperationsMoveWhatTheyAreGiven) {
  const DeviceMergeArgs merge{.o = buffer<float>(0),
                              .m = buffer<float>(1),
                              .l = buffer<float>(2),
                              .out = buffer<float>(3),
                              .quant = {},
                              .n_splits = 5,
                              .n_rows = 2,
                              .n_kv_heads = 3,
                              .group = 4,
                              .head_dim = 64};
  EXPECT_EQ(kernel_cost(merge).bytes(), 24u * 4 * (5 * (64 + 2) + 64));
  const DeviceActivateArgs activate{.gate = buffer<float>(0),
                                    .up = buffer<float>(1),
                                    .out = buffer<float>(0),
                                    .quant = quant(2),
                                    .n_rows = 2,
                                    .n = 64,
                                    .kind = DeviceActivation::kSiluMul};
  EXPECT_EQ(kernel_cost(activate).bytes(), 2u * (3 * 64 * 4 + 64 + 2 * 4 + 4 * 4));
  const DeviceArgmaxArgs argmax{.x = buffer<float>(0),
                                .n_rows = 2,
                                .n = 100,
                                .value = buffer<float>(1),
                                .index = buffer<int32_t>(2)};
  EXPECT_EQ(kernel_cost(argmax).bytes(), 2u * (400 + 8));
  const DeviceQuantizeArgs quantize{.x = buffer<float>(0), .out = quant(1), .n_rows = 1, .n = 32};
  EXPECT_EQ(kernel_cost(quantize).bytes(), 32u * 4 + 32 + 4 + 8);
}

/// Attention over a table on the device, half of whose blocks lie in pinned memory, after a copy of
/// the table: awaited or not.
TEST(KernelCost, ATableIsReadWhenTheKernelStartsAndItsPinnedBlocksCrossTheLink) {
  for (const bool awaits : {true, false}) {
    VirtualMachine machine;
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 128);
    const uint32_t n_blocks = 512;
    std::byte* near = machine.memory(n_blocks / 2 * layout.block_bytes);
    std::byte* far = machine.pinned(n_blocks / 2 * layout.block_bytes);
    std::byte* staging = machine.pinned(kMiB);
    auto** host_table = reinterpret_cast<std::byte**>(staging);
    for (uint32_t i = 0; i < n_blocks; ++i)
      host_table[i] = (i % 2 == 0 ? near : far) + i / 2 * layout.block_bytes;
    auto* host_position = reinterpret_cast<uint32_t*>(staging + kMiB / 2);
    *host_position = n_blocks * kBlockPositions - 1;
    std::byte* tables = machine.memory(kMiB);
    auto* floats = reinterpret_cast<float*>(machine.memory(kMiB));
    DeviceStream* copies = machine.stream();
    DeviceStream* kernels = machine.stream();
    DeviceEvent* arrived = machine.event();
    machine.copy(copies, tables, staging, kMiB);
    machine.record(copies, arrived);
    if (awaits) machine.await(kernels, arrived);
    DeviceAttendArgs args{};
    args.q = floats;
    args.positions = reinterpret_cast<uint32_t*>(tables + kMiB / 2);
    args.blocks = reinterpret_cast<std::byte**>(tables);
    args.block_stride = args.n_blocks = n_blocks;
    args.layout = layout;
    args.n_rows = args.n_kv_heads = args.n_splits = 1;
    args.group = 4;
    args.split_blocks = n_blocks;
    args.o = floats + 1024;
    args.m = floats + 2048;
    args.l = floats + 2052;
    machine.wait(awaits ? copies : machine.stream());
    const double begin_ms = machine.now_ms();
    machine.table().kernels.attend(kernels, args);
    machine.table().wait_stream(kernels);
    if (awaits) {
      EXPECT_EQ(machine.hazards(), "");
      const double far_bytes = n_blocks / 2.0 * layout.block_bytes;
      EXPECT_NEAR(machine.now_ms() - begin_ms, far_bytes / 25e9 * 1e3 + 0.008, 0.002);
    } else {
      ASSERT_FALSE(machine.virtual_device().hazards().empty());
      EXPECT_EQ(machine.virtual_device().hazards()[0].error, VirtualError::kRace);
    }
  }
}

TEST(KernelCost, ADeviceWithoutBytesHasNoTables) {
  VirtualMachine machine({.has_bytes = false});
  DeviceRotateArgs args{};
  args.blocks = reinterpret_cast<std::byte**>(machine.memory(kMiB));
  args.block_stride = args.n_kv_heads = args.n_rows = 1;
  args.positions = reinterpret_cast<uint32_t*>(machine.memory(kMiB));
  machine.table().kernels.rotate(machine.stream(), args);
  ASSERT_FALSE(machine.virtual_device().hazards().empty());
  EXPECT_EQ(machine.virtual_device().hazards()[0].error, VirtualError::kNoBytes);
}

}  // namespace
}  // namespace strata::planner

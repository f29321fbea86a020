// Traces of attention: what is written is what the walk held, and is read again; a damaged file is
// refused.
#include "tools/eval/attention_trace.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "base/error.h"
#include "tests/tools/eval_fixture.h"

namespace strata::eval {
namespace {

using engine::testing::LoadedMember;
using testing::TestRunner;

constexpr uint32_t kPositions = 288, kSteps = 40;

class Traces : public ::testing::Test {
 protected:
  Traces() : member_("llama3"), runner_(member_.model, kPositions - kSteps, kSteps) {}
  AttentionTrace record(std::vector<uint64_t> layers) {
    return record_trace(*runner_, member_.text(kPositions, 3), kSteps, layers);
  }
  static std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  engine::testing::TestFolder folder_;
  LoadedMember member_;
  TestRunner runner_;
};

TEST_F(Traces, HoldTheBlocksAndQueriesOfTheirLayers) {
  const AttentionTrace trace = record({2, 0});
  const ModelShape& shape = member_.model.shape();
  EXPECT_EQ(trace.n_streams(), 2 * shape.layers[0].n_kv_heads);
  EXPECT_EQ(trace.n_blocks(), kPositions / kBlockPositions);
  // The first token's K of the first layer is the same whatever follows: another text has it, too.
  const AttentionTrace again = record({0});
  EXPECT_EQ(trace.blocks[shape.layers[0].n_kv_heads], again.blocks[0]);
  EXPECT_EQ(trace.queries[shape.layers[0].n_kv_heads], again.queries[0]);
  EXPECT_NE(trace.blocks[0], again.blocks[0]);
  EXPECT_EQ(trace.queries[0].size(), uint64_t{kSteps} * trace.group * trace.head_dim);
  EXPECT_EQ(trace.query(0, kSteps - 1).size(), uint64_t{trace.group} * trace.head_dim);
}

TEST_F(Traces, AreReadAsTheyWereWritten) {
  const AttentionTrace trace = record({1});
  const auto path = folder_.path("t.bin");
  write_trace(trace, path);
  const AttentionTrace back = read_trace(path);
  EXPECT_EQ(back.layers, trace.layers);
  EXPECT_EQ(back.blocks, trace.blocks);
  EXPECT_EQ(back.queries, trace.queries);
  EXPECT_EQ(back.n_positions, kPositions);
  EXPECT_EQ(back.group, trace.group);
}

TEST_F(Traces, DamagedFilesAreRefused) {
  const auto path = folder_.path("t.bin");
  write_trace(record({1}), path);
  const std::string whole = bytes_of(path);
  const auto refused = [&](std::string bytes) {
    const auto bad = folder_.write("bad.bin", bytes);
    try {
      read_trace(bad);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kBadFile && error.where() == bad;
    }
    return false;
  };
  for (const size_t size : {size_t{0}, size_t{7}, size_t{20}, size_t{40}, whole.size() - 1})
    EXPECT_TRUE(refused(whole.substr(0, size))) << size;
  EXPECT_TRUE(refused(whole + "x"));
  for (size_t byte = 0; byte < 36; byte += 4) {  // every field of the header
    std::string changed = whole;
    changed[byte] = static_cast<char>(0xff);
    changed[byte + 2] = static_cast<char>(0xff);
    EXPECT_TRUE(refused(changed)) << byte;
  }
  EXPECT_THROW(read_trace(folder_.path("absent.bin")), Error);
}

TEST_F(Traces, WhatCannotBeRecordedIsRefused) {
  EXPECT_THROW(record({}), Error);
  EXPECT_THROW(record({99}), Error);
  EXPECT_THROW(
      record_trace(*runner_, member_.text(kPositions - 1, 3), kSteps, std::vector<uint64_t>{0}),
      Error);
}

}  // namespace
}  // namespace strata::eval

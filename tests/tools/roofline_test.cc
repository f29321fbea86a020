// bench --roofline: which ceiling a stage is near, and what is said of it.
#include "tools/cli/roofline.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cpu_attn/kernels.h"

namespace strata::cli {
namespace {

using enum Arithmetic;

/// 10 GB/s of memory, 100 GFLOP/s in f32, 1,000 Gop/s in int8; a token of one second.
BenchResult result_of(const BenchStage& stage) {
  BenchResult result{.test = {.n_gen = 1},
                     .start = {},
                     .samples_s = {1.0},
                     .memory_gbytes_per_s = 10,
                     .stages = {stage},
                     .peak = {.f32_gflop_per_s = 100, .int8_gop_per_s = 1000},
                     .attribution = {},
                     .selected = {},
                     .index = {}};
  return result;
}

std::string said_of(const BenchStage& stage, const BenchSubject& subject = {}) {
  return would_help(subject, result_of(stage), stage);
}

TEST(Roofline, AStageIsBoundByTheCeilingItIsNearer) {
  const auto bound = [](uint64_t bytes, uint64_t flop, Arithmetic arithmetic) {
    const BenchStage stage{OpKind::kQkv, 1.0, bytes, flop, arithmetic};
    return roof_of(stage, result_of(stage)).bound;
  };
  EXPECT_EQ(bound(8'000'000'000, 60'000'000'000, kF32), StageBound::kMemory);
  EXPECT_EQ(bound(8'000'000'000, 90'000'000'000, kF32), StageBound::kCompute);
  EXPECT_EQ(bound(8'000'000'000, 90'000'000'000, kInt8), StageBound::kMemory);  // 9 % of int8
  EXPECT_EQ(bound(1'000'000'000, 700'000'000'000, kInt8), StageBound::kCompute);
  EXPECT_EQ(bound(1'000'000'000, 300'000'000'000, kInt8Pair), StageBound::kCompute);  // of 500
  EXPECT_EQ(bound(4'000'000'000, 40'000'000'000, kF32), StageBound::kNeither);
  EXPECT_EQ(bound(0, 0, kF32), StageBound::kUncounted);
}

TEST(Roofline, SaysWhatWouldHaveToChange) {
  const BenchStage attend{OpKind::kAttend, 1.0, 8'000'000'000, 10'000'000'000, kF32};
  EXPECT_EQ(said_of(attend),
            "memory-bound at 80 % of DRAM: fewer bytes (K and V in q8_0 (-ctk, -ctv), or a part of "
            "the context (--attn)), or faster memory");
  BenchSubject selected;
  selected.k_codec = KvCodec::kQ8_0;
  selected.attn_method = "pq";
  EXPECT_EQ(said_of(attend, selected),
            "memory-bound at 80 % of DRAM: fewer bytes (a smaller --kv-budget), or faster memory");
  EXPECT_EQ(said_of({OpKind::kFfnDown, 1.0, 1, 610'000'000'000, kInt8}),
            "compute-bound at 61 % of the int8 peak: more or faster cores, or a kernel nearer the "
            "peak");
  EXPECT_EQ(said_of({OpKind::kAttend, 1.0, 1, 450'000'000'000, kInt8Pair}),
            "compute-bound at 90 % of the int8-pair peak: more or faster cores");
  EXPECT_NE(said_of({OpKind::kLogits, 1.0, 1'000'000'000, 1, kInt8})
                .find("near no ceiling, 10 % of DRAM and 0 % of the int8 peak"),
            std::string::npos);
  EXPECT_NE(said_of({OpKind::kAttnNorm, 1.0, 0, 0, kF32}).find("too little to be counted"),
            std::string::npos);
}

TEST(Roofline, ASetOfUnknownPeakIsJudgedByMemoryAlone) {
  BenchResult result = result_of({OpKind::kQkv, 1.0, 8'000'000'000, 90'000'000'000, kF32});
  result.peak = {};
  EXPECT_EQ(roof_of(result.stages[0], result).bound, StageBound::kMemory);
  EXPECT_FALSE(ceilings_json(result).contains("f32_gflop_per_s"));
  EXPECT_NE(roofline_table("tg1", {}, result).find("|      - |"), std::string::npos);
}

/// K or V in f16 is multiplied in f32, which is slower.
TEST(Roofline, AttentionOverBytesTakesTwoProductsForOne) {
  const auto q8 = KvCodec::kQ8_0, f16 = KvCodec::kF16;
  EXPECT_EQ(attend_arithmetic(q8, q8), kInt8Pair);
  for (const auto& [k, v] : {std::pair(f16, f16), std::pair(f16, q8), std::pair(q8, f16)})
    EXPECT_EQ(attend_arithmetic(k, v), kF32);
  const BenchStage attend{OpKind::kAttend, 1.0, 1, 250'000'000'000, kInt8Pair};
  BenchResult result = result_of(attend);
  EXPECT_DOUBLE_EQ(roof_of(attend, result).share_of_peak, 0.5);
  const std::string table = roofline_table("tg1", {}, result);
  EXPECT_NE(table.find("int8-pair (two products of bytes for one) half"), std::string::npos);
  result.stages[0].arithmetic = kF32;
  EXPECT_EQ(roofline_table("tg1", {}, result).find("int8-pair"), std::string::npos);
}

TEST(Roofline, WhatADiskBringsStandsBesideWhatItGives) {
  BenchResult result = result_of({OpKind::kQkv, 1.0, 1, 1, kInt8});
  result.weight_read_bytes = 900'000'000;
  result.nvme_read_bytes = 100'000'000;
  EXPECT_NE(roofline_table("tg1", {}, result)
                .find("weights: 900.0 MB a token from the disk at 0.90 "
                      "GB/s\n"),
            std::string::npos);
  result.disk_read_gbytes_per_s = 1;
  const std::string table = roofline_table("tg1", {}, result);
  EXPECT_NE(table.find("90 % of the 1.00 GB/s that it gives: disk-bound: more of it in memory"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("10 % of the 1.00 GB/s that it gives: the disk is not the limit"),
            std::string::npos);
}

TEST(Roofline, MakingKvAnewIsJudgedByTheRatesOfTheRun) {
  BenchResult result = result_of({OpKind::kQkv, 1.0, 1, 60'000'000'000, kInt8});
  BenchSubject subject;
  const auto line = [&] {
    const std::string table = roofline_table("tg1", subject, result);
    return table.substr(std::min(table.size(), table.find("K and V from hidden states")));
  };
  EXPECT_EQ(line(), "");  // of no model
  subject.recompute = {.d_model = 64, .n_kv_heads = 2, .head_dim = 8, .kv_bytes = 64};
  EXPECT_NE(line().find("at 10.00 GB/s of memory, making them 4.1 ns at 1000 GFLOP/s of the int8 "
                        "peak: best is to make none"),
            std::string::npos)
      << line();
  result.test = {.n_prompt = 1};
  EXPECT_NE(line().find("at 60 GFLOP/s of qkv"), std::string::npos) << line();
  result.stages[0].bytes = 9'000'000'000;  // of a second and 10 GB: few rows
  EXPECT_NE(line().find("at 1000 GFLOP/s of the int8 peak"), std::string::npos) << line();
  result.nvme_read_bytes = 100;
  EXPECT_NE(line().find("a rate is not known"), std::string::npos) << line();
  result.disk_read_gbytes_per_s = 1.5;
  EXPECT_NE(line().find("at 1.50 GB/s of the disk"), std::string::npos) << line();
}

/// 0 only where no ceiling is known: no time is compared with a figure.
TEST(Roofline, PeaksAreMeasuredOfEverySetButTheScalarOne) {
  ThreadPool pool(2);
  for (const KernelTable* table : cpu_attn::available_kernels()) {
    const ComputePeak peak = measure_compute_peak(pool, *table);
    EXPECT_EQ(peak.f32_gflop_per_s > 0, table->isa != CpuIsa::kScalar) << table->name;
    EXPECT_EQ(peak.int8_gop_per_s > 0, table->isa != CpuIsa::kScalar) << table->name;
  }
}

}  // namespace
}  // namespace strata::cli

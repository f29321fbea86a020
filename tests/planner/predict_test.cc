// Predictions: against sums that can be made on paper, against each other, and as a table. All are
// of assumed figures: a change of a profile changes the table.
#include "planner/virtual/predict.h"

#include <gtest/gtest.h>

#include <string>

namespace strata::planner {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint32_t k128K = 131072 - 8;  // room for the tokens that are decoded

struct Widths {
  uint32_t n_layers, d_model, n_heads, n_kv_heads, d_ff;
};
constexpr Widths k8B = {32, 4096, 32, 8, 14336};
constexpr Widths k70B = {80, 8192, 64, 8, 28672};

/// A model of such widths whose weights take `weight_bytes`, the same for every parameter.
PredictedModel model_of(const Widths& widths, double weight_bytes) {
  constexpr double kHeadDim = 128, kVocab = 128256;
  const double d = widths.d_model;
  const double qkv = d * kHeadDim * (widths.n_heads + 2.0 * widths.n_kv_heads);
  const double output = kHeadDim * widths.n_heads * d;
  const double ff = d * widths.d_ff;
  const double per_parameter =
      weight_bytes / (widths.n_layers * (qkv + output + 3 * ff) + d * kVocab);
  const auto bytes = [&](double parameters) {
    return static_cast<uint64_t>(parameters * per_parameter);
  };
  PredictedModel model;
  model.shape = {.architecture = "llama",
                 .n_layers = widths.n_layers,
                 .d_model = widths.d_model,
                 .head_dim = static_cast<uint32_t>(kHeadDim),
                 .vocab_size = static_cast<uint32_t>(kVocab),
                 .n_ctx_train = 131072,
                 .layers = {}};
  for (uint32_t i = 0; i < widths.n_layers; ++i) {
    model.shape.layers.push_back(
        {.n_heads = widths.n_heads, .n_kv_heads = widths.n_kv_heads, .d_ff = widths.d_ff});
    model.pieces.layers.push_back({.qkv = bytes(qkv),
                                   .attn_output = bytes(output),
                                   .ffn_gate_up = bytes(2 * ff),
                                   .ffn_down = bytes(ff)});
  }
  model.pieces.embedding_row = bytes(d);
  model.pieces.output_head = bytes(d * kVocab);
  model.layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, static_cast<uint32_t>(kHeadDim));
  return model;
}

const PredictedModel& small_8b() {
  static const PredictedModel model = model_of(k8B, 4.8e9);
  return model;
}
const PredictedModel& large_70b() {
  static const PredictedModel model = model_of(k70B, 39e9);
  return model;
}

Placement placed(KvPlace kv, double hit_share = 0.8, uint32_t n_streamed = 0) {
  return {.kv = kv,
          .n_streamed_layers = n_streamed,
          .hit_share = hit_share,
          .pinned_bytes_max = 400 * kGiB};
}

double decode_ms(const char* profile, const PredictedModel& model, const Placement& placement,
                 uint32_t n_positions = k128K) {
  const Prediction prediction =
      predict_decode(device_profile(profile), model, placement, n_positions);
  EXPECT_TRUE(prediction.fits) << prediction.why_not;
  return prediction.ms;
}

constexpr double kKvBytes8B = 131072.0 * 131072;  // 128 KiB a position

TEST(Predict, ATokenWithAllInHbmTakesItsBytesAndItsLaunches) {
  const DeviceProfile& profile = device_profile("rtx4090");
  const Prediction of = predict_decode(profile, small_8b(), placed(KvPlace::kHbm), k128K);
  ASSERT_TRUE(of.fits);
  // 32 layers of 10 kernels, and 4 of the ends; other bytes are far below a percent.
  const double launches_ms = (32 * 10 + 4) * profile.launch_us.value / 1e3;
  const double bytes_ms = (4.8e9 + kKvBytes8B) / profile.hbm_rate() * 1e3;
  EXPECT_NEAR(of.ms, bytes_ms + launches_ms, 0.02 * of.ms);
  EXPECT_EQ(of.busiest.part, Part::kGpu);
  EXPECT_GT(of.busiest.share, 0.98);
}

TEST(Predict, AllWeightsStreamedTakeTheirBytesOverTheLink) {
  const double ms =
      decode_ms("rtx4090", large_70b(), placed(KvPlace::kSelectedDram, 1.0, 80), 4096);
  const double layers_bytes = 39e9 - static_cast<double>(large_70b().pieces.output_head);
  EXPECT_NEAR(ms, layers_bytes / 25e9 * 1e3, 0.01 * ms);
}

TEST(Predict, StreamedKAndVTakeTheirBytesOverTheLink) {
  const Prediction of =
      predict_decode(device_profile("rtx4090"), small_8b(), placed(KvPlace::kDramStreamed), k128K);
  EXPECT_NEAR(of.ms, kKvBytes8B / 25e9 * 1e3, 0.01 * of.ms);
  EXPECT_EQ(of.busiest.part, Part::kLinkIn);
}

TEST(Predict, AttentionOnTheCpuTakesItsBytesOverTheCpusRateBesideTheGpusShare) {
  const DeviceProfile& profile = device_profile("rtx4090");
  const Prediction of = predict_decode(profile, small_8b(), placed(KvPlace::kDramOnCpu), k128K);
  const double gpu_ms = 4.8e9 / profile.hbm_rate() * 1e3;
  const double cpu_ms = kKvBytes8B / profile.cpu_attend_bytes_per_s.value * 1e3;
  EXPECT_NEAR(of.ms, cpu_ms + gpu_ms, 0.02 * of.ms);  // one waits for the other
  EXPECT_EQ(of.busiest.part, Part::kCpu);
}

TEST(Predict, WeightsThatAreStreamedSlowTheCpuDownWhereDramIsShort) {
  // Alone the CPU reads at 60 GB/s of 70; beside a copy of 25 it gets 45.
  const PredictedModel& model = small_8b();
  const double alone = decode_ms("rtx4090", model, placed(KvPlace::kDramOnCpu));
  const double beside = decode_ms("rtx4090", model, placed(KvPlace::kDramOnCpu, 0, 32));
  // 4.2 GB more through DRAM, which is what both wait for while the link works.
  EXPECT_GT(beside, alone + 15);
  EXPECT_LT(beside, alone + 4.3e9 / 25e9 * 1e3);
}

TEST(Predict, APromptTakesItsOperationsOverTheTensorCores) {
  const DeviceProfile& profile = device_profile("rtx4090");
  const uint32_t n = 16384;
  const Prediction of = predict_prefill(profile, small_8b(), placed(KvPlace::kHbm), n);
  ASSERT_TRUE(of.fits);
  const double per_layer = 4096.0 * 128 * 48 + 4096.0 * 4096 + 3 * 4096.0 * 14336;
  const double flop = 2 * per_layer * 32 * n + 4 * (n / 2.0 * n) * 4096 * 32;
  const double ms = flop / profile.f16_tensor_rate() * 1e3;
  EXPECT_GT(of.ms, ms);  // rows, norms and activations come on top
  EXPECT_LT(of.ms, 1.2 * ms);
}

TEST(Predict, APromptsChunksThatStandInDramCostLittleBesideItsOperations) {
  const DeviceProfile& profile = device_profile("rtx4090");
  for (const uint32_t n : {5000U, 4096U + 1}) {  // the last chunk is ragged, or one row
    const double near = predict_prefill(profile, small_8b(), placed(KvPlace::kHbm), n).ms;
    const double far = predict_prefill(profile, small_8b(), placed(KvPlace::kDramOnCpu), n).ms;
    EXPECT_GE(far, near);
    EXPECT_LT(far, 1.05 * near);
  }
}

TEST(Predict, AWindowedLayerReadsItsWindow) {
  PredictedModel model = small_8b();
  for (uint32_t i = 0; i < 32; ++i)
    if (i % 2 == 0)
      model.shape.layers[i] = {.kind = LayerKind::kWindow,
                               .n_heads = 32,
                               .n_kv_heads = 8,
                               .d_ff = 14336,
                               .window = 1024};
  const DeviceProfile& profile = device_profile("rtx4090");
  const double full = decode_ms("rtx4090", small_8b(), placed(KvPlace::kHbm));
  const double half = decode_ms("rtx4090", model, placed(KvPlace::kHbm));
  EXPECT_NEAR(full - half, kKvBytes8B / 2 * (1 - 1024.0 / 131072) / profile.hbm_rate() * 1e3,
              0.02 * full);
  // And keeps no more than it.
  const auto hbm_bytes = [&](const PredictedModel& of) {
    return predict_decode(profile, of, placed(KvPlace::kHbm), k128K).hbm_bytes;
  };
  EXPECT_LT(hbm_bytes(model), hbm_bytes(small_8b()) - 8 * kGiB + kGiB / 2);
  EXPECT_TRUE(predict_prefill(profile, model, placed(KvPlace::kDramInPlace), 8192).fits);
}

TEST(Predict, AModelOfAFewKilobytesRunsEveryWay) {
  PredictedModel model;
  model.shape = {.architecture = "llama",
                 .n_layers = 3,
                 .d_model = 32,
                 .head_dim = 8,
                 .vocab_size = 17,
                 .n_ctx_train = 64,
                 .layers = {}};
  for (uint32_t i = 0; i < 3; ++i) {
    model.shape.layers.push_back({.n_heads = 4, .n_kv_heads = 2, .d_ff = 48});
    model.pieces.layers.push_back(
        {.qkv = 64 * 128, .attn_output = 32 * 128, .ffn_gate_up = 96 * 128, .ffn_down = 32 * 192});
  }
  model.pieces.embedding_row = 128;
  model.pieces.output_head = 17 * 128;
  model.layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 8);
  for (const bool is_quantised : {false, true}) {
    model.is_quantised = is_quantised;
    for (const KvPlace kv : {KvPlace::kHbm, KvPlace::kDramOnCpu, KvPlace::kDramInPlace,
                             KvPlace::kDramStreamed, KvPlace::kSelectedDram})
      for (const uint32_t n_streamed : {0U, 1U, 2U, 3U})
        for (const uint32_t n_positions : {1U, 31U, 64U, 333U}) {
          Placement placement = placed(kv, 0.5, n_streamed);
          placement.selected_positions = 64;
          placement.prefill_rows = 64;
          const DeviceProfile& profile = device_profile("laptop8");
          EXPECT_GT(predict_decode(profile, model, placement, n_positions).ms, 0);
          EXPECT_GT(predict_prefill(profile, model, placement, n_positions).ms, 0);
        }
  }
}

TEST(Predict, WhatDoesNotFitSaysWhat) {
  const auto why_not = [](const char* profile, const PredictedModel& model, Placement placement) {
    const Prediction of = predict_decode(device_profile(profile), model, placement, k128K);
    EXPECT_FALSE(of.fits);
    return of.why_not;
  };
  EXPECT_EQ(why_not("rtx3060", small_8b(), placed(KvPlace::kHbm)), "HBM does not hold K and V");
  EXPECT_EQ(why_not("rtx4090", large_70b(), placed(KvPlace::kDramOnCpu)),
            "HBM does not hold the weights");
  Placement little = placed(KvPlace::kDramOnCpu);
  little.pinned_bytes_max = 10 * kGiB;
  EXPECT_EQ(why_not("rtx4090", small_8b(), little), "DRAM does not hold K and V");
}

TEST(Predict, TheFewestStreamedLayersFitAndOneFewerDoesNot) {
  const DeviceProfile& profile = device_profile("rtx4090");
  Placement placement = placed(KvPlace::kSelectedDram);
  const uint32_t n = fewest_streamed_layers(profile, large_70b(), placement, 8192);
  EXPECT_GT(n, 30U);
  EXPECT_LT(n, 60U);
  placement.n_streamed_layers = n;
  EXPECT_TRUE(predict_prefill(profile, large_70b(), placement, 8192).fits);
  placement.n_streamed_layers = n - 1;
  EXPECT_FALSE(predict_prefill(profile, large_70b(), placement, 8192).fits);
  EXPECT_EQ(fewest_streamed_layers(profile, small_8b(), placed(KvPlace::kHbm), 8192), 0U);
  EXPECT_EQ(
      fewest_streamed_layers(device_profile("rtx3060"), small_8b(), placed(KvPlace::kHbm), k128K),
      33U);
}

TEST(Predict, TheSameQuestionHasTheSameEvents) {
  const auto ask = [](KvPlace kv, double hit_share) {
    return predict_decode(device_profile("rtx4090"), small_8b(), placed(kv, hit_share, 16), 20000);
  };
  for (const KvPlace kv : {KvPlace::kDramOnCpu, KvPlace::kDramStreamed, KvPlace::kSelectedNvme}) {
    const Prediction one = ask(kv, 0.8);
    EXPECT_EQ(one.event_hash, ask(kv, 0.8).event_hash);
    EXPECT_GT(one.n_events, 1000U);
  }
  EXPECT_NE(ask(KvPlace::kSelectedDram, 0.8).event_hash,
            ask(KvPlace::kSelectedDram, 0.7).event_hash);
}

/// Tokens per second of an 8B model of 4.8 GB and a 70B of 39 GB behind 128 k tokens (the disk:
/// 1 M) with 2,048 positions selected. Nothing here was measured; a row says what the profile
/// implies.
struct Scenario {
  const char* profile;
  const PredictedModel& model;
  Placement placement;
  uint32_t n_positions;
  double tokens_per_s;
};

TEST(Predict, TableOfScenarios) {
  const PredictedModel& a = small_8b();
  const PredictedModel& b = large_70b();
  const Placement streamed = placed(KvPlace::kDramStreamed);
  const Placement on_cpu = placed(KvPlace::kDramOnCpu);
  const Placement hits = placed(KvPlace::kSelectedDram, 0.8);
  const Placement no_hits = placed(KvPlace::kSelectedDram, 0.0);
  const Placement disk = placed(KvPlace::kSelectedNvme, 0.8);
  const auto part = [](uint32_t n_near) {  // of 80 layers in HBM
    return placed(KvPlace::kSelectedDram, 0.8, 80 - n_near);
  };
  const uint32_t million = 1 << 20;
  const Scenario scenarios[] = {
      {"rtx4090", a, placed(KvPlace::kHbm), k128K, 38.0},
      {"rtx4090", a, streamed, k128K, 1.454},
      {"rtx4090", a, placed(KvPlace::kDramInPlace), k128K, 1.440},
      {"rtx4090", a, on_cpu, k128K, 3.406},
      {"rtx4090", a, hits, k128K, 108.8},
      {"rtx4090", a, no_hits, k128K, 56.3},
      {"rtx4090", a, disk, million, 50.5},
      {"rtx4090", b, part(40), k128K, 1.292},
      {"rtx4090", b, part(16), k128K, 0.810},
      {"rtx4090", b, part(8), k128K, 0.720},
      {"rtx3060", a, streamed, k128K, 1.395},
      {"rtx3060", a, on_cpu, k128K, 1.914},
      {"rtx3060", a, hits, k128K, 52.1},
      {"rtx3060", a, no_hits, k128K, 35.6},
      {"rtx3060", a, disk, million, 26.1},
      {"rtx3060", b, part(16), k128K, 0.777},
      {"rtx3060", b, part(8), k128K, 0.691},
      {"laptop8", a, streamed, k128K, 0.698},
      {"laptop8", a, on_cpu, k128K, 2.466},
      {"laptop8", a, hits, k128K, 35.8},
      {"laptop8", a, no_hits, k128K, 21.9},
      {"laptop8", a, disk, million, 21.2},
      {"laptop8", b, part(8), k128K, 0.346},
  };
  for (const Scenario& of : scenarios) {
    const double ms = decode_ms(of.profile, of.model, of.placement, of.n_positions);
    EXPECT_NEAR(1e3 / ms, of.tokens_per_s, 0.01 * of.tokens_per_s)
        << of.profile << " " << of.model.shape.n_layers << " layers, "
        << kv_place_name(of.placement.kv) << " " << of.placement.hit_share << " "
        << of.placement.n_streamed_layers;
  }
  for (const char* profile : {"rtx3060", "laptop8"})
    EXPECT_FALSE(predict_decode(device_profile(profile), a, placed(KvPlace::kHbm), k128K).fits);
  EXPECT_FALSE(predict_decode(device_profile("rtx3060"), b, part(40), k128K).fits);
  EXPECT_FALSE(predict_decode(device_profile("laptop8"), b, part(16), k128K).fits);
}

}  // namespace
}  // namespace strata::planner

// Whole steps of small models: a prompt's chunk, decoded tokens, a few rows at once; judged against
// a forward pass in double precision, and bit for bit between ways to run the same steps.
//
// Tolerance. Of a row of size s (root mean square), f16 operands of attention and of products of
// many rows err by 2^-11 s. Where rows or KV blocks are int8, a value errs by step / sqrt(12),
// step = max / 127, max at 5 s where a row is a product of two (gate and up): s / 88. A logit is
// reached through 5 roundings in turn of each layer and the last one, of random signs, by products
// that keep a row's size; 4 for the largest of 100 values: 4 sqrt(5 n_layers + 1) times that much.
// So the F16 cases judge the order of operations, the others what int8 and codecs add to it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/host_memory.h"
#include "gpu_attn/decode_step.h"
#include "gpu_attn/streamed_weights.h"
#include "tests/gpu_attn/deferred_table.h"
#include "tests/gpu_attn/part_by_host.h"
#include "tests/gpu_attn/step_model.h"
#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {
namespace {

using gpu_attn::DeviceKvTable;
using gpu_attn::DeviceModel;
using gpu_attn::DeviceStep;
using gpu_attn::DeviceStepInputs;
using gpu_attn::StreamedLayer;
using gpu_attn::StreamedWeights;

constexpr uint32_t kSeed = 20250802;
constexpr uint32_t kMaxRows = 32;
constexpr uint32_t kMaxLogitRows = 4;
constexpr uint32_t kBlocks = 16;  // of a table, more than the text fills: two splits

/// The steps of a text: rows, and those of them whose logits are compared.
struct StepRows {
  uint32_t n_rows;
  std::vector<uint32_t> logit_rows;
};

const std::vector<StepRows>& text_steps() {
  static const std::vector<StepRows> steps = {{27, {0, 3, 4, 26}}, {1, {0}}, {1, {0}},
                                              {4, {1, 3}},         {1, {0}}, {1, {0}}};
  return steps;
}

std::vector<int32_t> text_tokens() {
  std::mt19937 random(kSeed);
  std::uniform_int_distribution<int32_t> any(0, StepModel::kVocab - 1);
  uint32_t n = 0;
  for (const StepRows& step : text_steps()) n += step.n_rows;
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = any(random);
  return tokens;
}

/// How the same steps are run.
struct StepRun {
  std::string name = "resident";
  std::vector<uint32_t> streamed = {};  // layers
  PieceSet pieces = kWholeLayer;        // of those, what passes
  bool has_graph = false;               // steps of one row are captured once
  bool has_embedding = true;            // on the device; else its rows are sent
  uint32_t n_device_blocks = kBlocks;   // of full layers; the host attends the others, of few rows
};

/// A model's weights in the device's memory, and pinned ones where they are streamed.
class PlacedModel {
 public:
  PlacedModel(UnderTest& on, const StepModel& model, const StepRun& run)
      : on_(on), shape_(model.shape) {
    const auto place = [&](const cpu_attn::DrawnMatrix& matrix, bool is_resident) {
      PackedMatrix packed = matrix.packed;
      packed.bytes =
          is_resident ? on.upload(std::span(matrix.packed.bytes, packed.total_bytes())) : nullptr;
      return packed;
    };
    const auto vector = [&](const std::vector<float>& values) -> const float* {
      return values.empty() ? nullptr : on.upload(values);
    };
    for (uint32_t layer = 0; layer < model.layers.size(); ++layer) {
      const StepLayer& of = model.layers[layer];
      const bool is_resident = std::ranges::find(run.streamed, layer) == run.streamed.end();
      gpu_attn::DeviceLayerWeights weights;
      for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i)
        weights.*gpu_attn::kLayerMatrixMembers[i] =
            place(of.matrices[i], is_resident || !run.pieces.has(gpu_attn::matrix_piece(i)));
      weights.attn_norm = vector(of.attn_norm);
      weights.ffn_norm = vector(of.ffn_norm);
      weights.q_bias = vector(of.q_bias);
      weights.k_bias = vector(of.k_bias);
      weights.v_bias = vector(of.v_bias);
      weights.output_bias = vector(of.output_bias);
      weights.q_norm = vector(of.q_norm);
      weights.k_norm = vector(of.k_norm);
      weights.post_attn_norm = vector(of.post_attn_norm);
      weights.post_ffn_norm = vector(of.post_ffn_norm);
      shape_.layers.push_back(weights);
    }
    shape_.embedding = place(model.embedding, run.has_embedding);
    shape_.output = place(model.output, true);
    shape_.output_norm = vector(model.output_norm);
    if (run.streamed.empty())
      source_ = std::make_unique<gpu_attn::ResidentWeights>(shape_.layers);
    else
      stream_layers(model, run);
  }
  ~PlacedModel() {
    if (streamed_ != nullptr) streamed_->wait();
    source_.reset();
    if (pinned_.size() > 0) on_.table().unpin(on_.device(), pinned_.data());
  }

  const DeviceModel& shape() const { return shape_; }
  gpu_attn::LayerWeightsSource& source() { return *source_; }

 private:
  void stream_layers(const StepModel& model, const StepRun& run) {
    std::vector<StreamedLayer> layers;
    uint64_t bytes = 0;
    for (const uint32_t layer : run.streamed) {
      StreamedLayer of{
          .layer = layer, .host = nullptr, .bytes = 0, .offsets = {}, .pieces = run.pieces};
      for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i) {
        if (!of.pieces.has(gpu_attn::matrix_piece(i))) continue;
        of.offsets[i] = of.bytes;
        of.bytes += model.layers[layer].matrices[i].packed.total_bytes();  // a multiple of 64
      }
      bytes += of.bytes;
      layers.push_back(of);
    }
    pinned_ = HostMemory::reserve(bytes);
    void* mapped = nullptr;
    on_.check(on_.table().pin(on_.device(), pinned_.data(), pinned_.size(), &mapped));
    std::byte* at = pinned_.data();
    for (StreamedLayer& of : layers) {
      of.host = at;
      for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i) {
        if (!of.pieces.has(gpu_attn::matrix_piece(i))) continue;
        const PackedMatrix& packed = model.layers[of.layer].matrices[i].packed;
        std::memcpy(at + of.offsets[i], packed.bytes, packed.total_bytes());
      }
      at += of.bytes;
    }
    auto* slots = on_.make<std::byte>(gpu_attn::kStreamSlots * gpu_attn::stream_slot_bytes(layers));
    on_.check(on_.table().wait_stream(on_.stream()));
    std::unique_ptr<StreamedWeights> made;
    on_.check(
        StreamedWeights::create(on_.table(), on_.device(), shape_.layers, layers, slots, &made));
    streamed_ = made.get();
    source_ = std::move(made);
  }

  UnderTest& on_;
  DeviceModel shape_;
  HostMemory pinned_;
  StreamedWeights* streamed_ = nullptr;
  std::unique_ptr<gpu_attn::LayerWeightsSource> source_;
};

/// KV blocks and tables of every layer; where the blocks lie is left in `places`.
std::vector<DeviceKvTable> make_tables(UnderTest& on, const DeviceModel& model,
                                       std::vector<std::vector<std::byte*>>& places) {
  std::vector<DeviceKvTable> tables;
  for (const LayerShape& shape : model.shapes) {
    const uint64_t n = uint64_t{shape.n_kv_heads} * kBlocks;
    auto* memory = on.make<std::byte>(n * model.kv_layout.block_bytes);
    std::vector<std::byte*> blocks;
    for (uint64_t i = 0; i < n; ++i) blocks.push_back(memory + i * model.kv_layout.block_bytes);
    tables.push_back({.blocks = on.upload(blocks),
                      .mirror = nullptr,
                      .stride = kBlocks,
                      .first_block = 0,
                      .n_blocks = kBlocks});
    places.push_back(std::move(blocks));
  }
  return tables;
}

/// Runs the text's steps; what they gave is kept.
class StepRunner {
 public:
  StepRunner(UnderTest& on, const StepModel& model, const StepRun& run)
      : on_(on),
        model_(model),
        run_(run),
        placed_(on, model, run),
        tables_(make_tables(on, placed_.shape(), places_)),
        host_(on, placed_.shape(), places_, kBlocks, run.n_device_blocks),
        inputs_(HostMemory::reserve(DeviceStepInputs::max_bytes(placed_.shape(), kMaxRows))),
        step_(on.table(), placed_.shape(), placed_.source(), kSizes,
              on.make<std::byte>(DeviceStep::memory_bytes(placed_.shape(), kSizes))) {
    void* mapped = nullptr;
    on_.check(on_.table().pin(on_.device(), inputs_.data(), inputs_.size(), &mapped));
  }
  ~StepRunner() {
    on_.table().wait_stream(on_.stream());
    on_.table().destroy_graph(graph_);
    on_.table().unpin(on_.device(), inputs_.data());
  }

  void run(const std::vector<int32_t>& tokens) {
    uint32_t position = 0;
    for (const StepRows& step : text_steps()) {
      write_inputs({tokens.data() + position, step.n_rows}, position);
      host_.begin(position);
      if (run_.has_graph && step.n_rows == 1)
        run_graph(step);
      else
        on_.check(queue(step));
      position += step.n_rows;
      const auto n = static_cast<uint32_t>(step.logit_rows.size());
      const auto rows = on_.download(step_.logits(), uint64_t{n} * StepModel::kVocab);
      const auto best = on_.download(step_.best_tokens(), n);
      logits.insert(logits.end(), rows.begin(), rows.end());
      best_tokens.insert(best_tokens.end(), best.begin(), best.end());
    }
  }

  uint32_t n_host_parts() const { return host_.n_parts(); }

  std::vector<float> logits;  // [compared rows, vocab]
  std::vector<int32_t> best_tokens;

 private:
  static constexpr gpu_attn::DeviceStepSizes kSizes = {.max_rows = kMaxRows,
                                                       .max_logit_rows = kMaxLogitRows,
                                                       .max_blocks = kBlocks,
                                                       .n_multiprocessors = 16};

  void write_inputs(std::span<const int32_t> tokens, uint32_t first_position) {
    const auto n = static_cast<uint32_t>(tokens.size());
    const DeviceModel& shape = placed_.shape();
    const DeviceStepInputs inputs(shape, n, inputs_.data());
    for (uint32_t row = 0; row < n; ++row) {
      inputs.positions()[row] = first_position + row;
      inputs.tokens()[row] = tokens[row];
      for (uint32_t set = 0; set < shape.n_rot.size(); ++set)
        std::ranges::copy(model_.angles(set, first_position + row),
                          inputs.cos_sin(set) + uint64_t{row} * shape.n_rot[set]);
      if (run_.has_embedding) continue;
      for (uint32_t i = 0; i < StepModel::kDModel; ++i)
        inputs.residual()[row * StepModel::kDModel + i] =
            model_.embedding.elements[static_cast<uint64_t>(tokens[row]) * StepModel::kDModel + i]
                .value() *
            shape.embedding_scale;
    }
  }

  int queue(const StepRows& step) {
    const bool shares = run_.n_device_blocks < kBlocks && step.n_rows <= kDeviceFewRows;
    return step_.queue(on_.stream(), {.n_rows = step.n_rows,
                                      .logit_rows = step.logit_rows,
                                      .wants_best = true,
                                      .kv = tables_,
                                      .inputs = inputs_.data(),
                                      .host = shares ? &host_ : nullptr});
  }

  void run_graph(const StepRows& step) {
    on_.check(placed_.source().settle(on_.stream()));
    if (graph_ == nullptr) {
      on_.check(on_.table().begin_capture(on_.stream()));
      on_.check(queue(step));
      on_.check(placed_.source().settle(on_.stream()));
      on_.check(on_.table().end_capture(on_.stream(), &graph_));
    }
    on_.check(on_.table().launch_graph(on_.stream(), graph_));
  }

  UnderTest& on_;
  const StepModel& model_;
  StepRun run_;
  PlacedModel placed_;
  std::vector<std::vector<std::byte*>> places_;  // of blocks
  std::vector<DeviceKvTable> tables_;
  PartByHost host_;
  HostMemory inputs_;
  DeviceStep step_;
  DeviceGraph* graph_ = nullptr;
};

StepModel draw_model(const StepModelOptions& options) { return StepModel::draw(options, kSeed); }

void expect_reference(CaseReport& report, const StepModel& model, const std::vector<float>& logits,
                      const std::vector<int32_t>& best) {
  StepReference reference(model);
  const auto tokens = text_tokens();
  const StepModelOptions& of = model.options;
  const bool has_codes = of.weights != TensorType::kF16 || of.kv_codec == KvCodec::kQ8_0;
  const double noise = has_codes ? 1.0 / 88 : 0x1p-11;
  const double share = 4 * std::sqrt(5.0 * of.n_layers + 1) * noise;
  uint32_t position = 0;
  uint64_t at = 0;
  for (const StepRows& step : text_steps())
    for (uint32_t row = 0; row < step.n_rows; ++row, ++position) {
      const auto wanted = reference.next(tokens[position]);
      if (std::ranges::find(step.logit_rows, row) == step.logit_rows.end()) continue;
      double squares = 0;
      for (const double value : wanted) squares += value * value;
      const double size = std::sqrt(squares / static_cast<double>(wanted.size()));
      const std::span<const float> got(logits.data() + at * StepModel::kVocab, StepModel::kVocab);
      report.expect_near(got, wanted, share * size, "position " + std::to_string(position));
      report.expect(std::ranges::max_element(got) - got.begin() == best[at], "the likeliest token");
      ++at;
    }
}

GpuCase reference_case(const StepModelOptions& options) {
  return {"step/" + options.name + "/seed " + std::to_string(kSeed),
          [options](UnderTest& on, CaseReport& report) {
            const StepModel model = draw_model(options);
            StepRunner runner(on, model, {});
            runner.run(text_tokens());
            expect_reference(report, model, runner.logits, runner.best_tokens);
          }};
}

/// A text of 35 positions: the host has all of it, or the last three.
GpuCase shared_case(uint32_t n_device_blocks) {
  return {"step/the host attends behind block " + std::to_string(n_device_blocks),
          [=](UnderTest& on, CaseReport& report) {
            const StepModel model = draw_model(
                {.name = "F16", .weights = TensorType::kF16, .n_layers = 3, .window = 9});
            StepRunner runner(on, model, {.n_device_blocks = n_device_blocks});
            runner.run(text_tokens());
            expect_reference(report, model, runner.logits, runner.best_tokens);
            report.expect(runner.n_host_parts() > 0, "the host had no part");
          }};
}

void expect_same(CaseReport& report, const StepRunner& one, const std::vector<float>& logits,
                 const std::string& name) {
  report.expect_equal(std::as_bytes(std::span(one.logits)), std::as_bytes(std::span(logits)), name);
}

/// The same bits whether weights stay or are streamed, replayed or not, rows embedded here or
/// there.
GpuCase equal_case(const StepModelOptions& options) {
  return {
      "step/equal runs/" + options.name, [options](UnderTest& on, CaseReport& report) {
        const StepModel model = draw_model(options);
        StepRunner resident(on, model, {});
        resident.run(text_tokens());
        expect_reference(report, model, resident.logits, resident.best_tokens);
        for (const StepRun& run : std::initializer_list<StepRun>{
                 {.name = "embedded by the host", .has_embedding = false},
                 {.name = "a graph", .has_graph = true},
                 {.name = "all streamed", .streamed = {0, 1, 2, 3, 4}},
                 {.name = "four streamed", .streamed = {0, 2, 3, 4}},
                 {.name = "one streamed", .streamed = {3}},
                 {.name = "FFNs streamed", .streamed = {0, 1, 2, 3, 4}, .pieces = {.ffn = true}},
                 {.name = "attention streamed in a graph",
                 .streamed = {0, 2, 4},
                 .pieces = {.attention = true},
                 .has_graph = true},
                 {.name = "streamed in a graph", .streamed = {0, 1, 2, 3, 4}, .has_graph = true},
                 {.name = "four streamed in a graph",
                 .streamed = {1, 2, 3, 4},
                 .has_graph = true}}) {
          StepRunner runner(on, model, run);
          runner.run(text_tokens());
          expect_same(report, runner, resident.logits, run.name);
        }
      }};
}

/// Streamed weights where copies come as early, and as late, as events let them.
GpuCase deferred_case(DeferredOrder order, const StepModelOptions& options) {
  const std::string name = order == DeferredOrder::kOthersFirst ? "early" : "late";
  return {
      "step/streamed, copies come " + name, [=](UnderTest& on, CaseReport& report) {
        const StepModel model = draw_model(options);
        StepRunner resident(on, model, {});
        resident.run(text_tokens());
        const DeferredTable deferred(on.table(), order);
        UnderTest later(deferred.table(), on.device());
        for (const auto& streamed : {std::vector<uint32_t>{0, 1, 2, 3, 4}, {0, 2, 3, 4}, {0, 4}}) {
          StepRunner runner(later, model, {.name = name, .streamed = streamed});
          runner.run(text_tokens());
          expect_same(report, runner, resident.logits,
                      std::to_string(streamed.size()) + " streamed");
        }
      }};
}

/// A layer's copy is queued when its slot is free, not when the layer is asked for; where a step
/// was given up, the next one copies what its first layers find missing.
GpuCase ahead_case() {
  return {"step/streamed, copies are queued ahead", [](UnderTest& on, CaseReport& report) {
            constexpr uint32_t kLayers = 5;
            constexpr uint64_t kBytes = 512;
            HostMemory host = HostMemory::reserve(kLayers * kBytes);
            std::vector<StreamedLayer> layers;
            for (uint32_t layer = 0; layer < kLayers; ++layer)
              layers.push_back({.layer = layer,
                                .host = host.data() + layer * kBytes,
                                .bytes = kBytes,
                                .offsets = {0, 64, 128, 192, 256, 320, 384}});
            std::unique_ptr<StreamedWeights> weights;
            on.check(StreamedWeights::create(
                on.table(), on.device(), std::vector<gpu_attn::DeviceLayerWeights>(kLayers), layers,
                on.make<std::byte>(gpu_attn::kStreamSlots * kBytes), &weights));
            const auto expect_copies = [&](uint64_t n, const std::string& when) {
              report.expect(weights->queued_bytes() == n * kBytes,
                            std::to_string(weights->queued_bytes() / kBytes) + " copies " + when);
            };
            const auto take = [&](uint32_t layer) {
              const gpu_attn::DeviceLayerWeights* of = nullptr;
              on.check(weights->take(on.stream(), layer, &of));
            };
            expect_copies(2, "at first");
            for (uint32_t layer = 0; layer < kLayers; ++layer) {
              take(layer);
              expect_copies(2 + layer, "when layer " + std::to_string(layer) + " is taken");
              on.check(weights->release(on.stream(), layer));
              expect_copies(3 + layer, "when layer " + std::to_string(layer) + " is released");
            }
            take(0);
            take(1);
            on.check(weights->release(on.stream(), 0));  // the step is given up here
            expect_copies(8, "before the next step");
            take(0);
            expect_copies(9, "when the next step begins");
            take(1);
            expect_copies(9, "when it goes on");
            // A step of another round begins with its own copies, and is alone with them.
            const uint32_t some = weights->add_round({layers[1], layers[3]});
            const uint32_t none = weights->add_round({});
            on.check(weights->begin(on.stream(), some));
            expect_copies(11, "when another round begins");
            on.check(weights->begin(on.stream(), some));
            for (const uint32_t layer : {0u, 1u, 3u}) {
              take(layer);
              on.check(weights->release(on.stream(), layer));
            }
            expect_copies(11, "when that round has all it needs");
            on.check(weights->begin(on.stream(), 0));
            expect_copies(13, "when the first round is back");
            on.check(weights->begin(on.stream(), none));
            for (uint32_t layer = 0; layer < kLayers; ++layer) take(layer);
            on.check(weights->begin(on.stream(), 0));
            expect_copies(13, "after a round of nothing");
            on.check(weights->wait());
          }};
}

}  // namespace

std::vector<GpuCase> step_cases() {
  std::vector<GpuCase> cases;
  for (const StepModelOptions& options : std::initializer_list<StepModelOptions>{
           {.name = "F16, KV f16", .weights = TensorType::kF16},
           {.name = "F16, KV f16, everything there is",
           .weights = TensorType::kF16,
           .n_layers = 3,
           .pairing = RopePairing::kAdjacent,
           .activation = DeviceActivation::kGeluMul,
           .has_biases = true,
           .has_qk_norm = true,
           .has_post_norms = true,
           .window = 9,
           .has_bare_layer = true,
           .embedding_scale = 8},
           {.name = "F16, heads wider than prefill takes",
           .weights = TensorType::kF16,
           .head_dim = 320,
           .window = 30},
           {.name = "Q4_0, KV f16", .weights = TensorType::kQ4_0, .head_dim = 64},
           {.name = "Q8_0, KV q8_0", .kv_codec = KvCodec::kQ8_0, .window = 20},
           {.name = "Q4_0, KV q8_0, everything there is",
           .weights = TensorType::kQ4_0,
           .kv_codec = KvCodec::kQ8_0,
           .n_layers = 3,
           .head_dim = 64,
           .pairing = RopePairing::kAdjacent,
           .activation = DeviceActivation::kGeluMul,
           .has_biases = true,
           .has_qk_norm = true,
           .has_post_norms = true,
           .window = 9,
           .has_bare_layer = true,
           .embedding_scale = 8}})
    cases.push_back(reference_case(options));
  cases.push_back(equal_case({.name = "Q8_0", .n_layers = 5}));
  const StepModelOptions five{.name = "Q4_0", .weights = TensorType::kQ4_0, .n_layers = 5};
  cases.push_back(deferred_case(DeferredOrder::kOthersFirst, five));
  cases.push_back(deferred_case(DeferredOrder::kOthersLast, five));
  cases.push_back(ahead_case());
  for (const uint32_t n_device_blocks : {0u, 1u}) cases.push_back(shared_case(n_device_blocks));
  return cases;
}

}  // namespace strata::gpu_test

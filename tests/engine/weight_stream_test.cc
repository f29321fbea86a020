// Weights that come from the file in every step: the same bits as weights that stay, one layer
// ahead, and one clear error where they do not come.
#include "engine/weight_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <thread>

#include "base/error.h"
#include "engine/engine.h"
#include "tests/engine/scripted_io.h"
#include "tests/engine/thrown_error.h"
#include "tests/engine/tiny_engine.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine {
namespace {

using testing::draw_weights;
using testing::expect_error;
using testing::IoScript;
using testing::Logits;
using testing::make_scripted;
using testing::make_small_model;
using testing::ModelFile;
using testing::random_tokens;
using testing::TemporaryModel;
using testing::ZooWalk;

constexpr uint32_t kStreamSeed = 20261125;

WeightPlan streaming(const GgufFile& file, std::vector<PieceSet> streamed) {
  return weight_plan_of(weight_sizes(file, read_model_spec(file)), std::move(streamed));
}

std::vector<uint32_t> bits_of(const Logits& logits) {
  std::vector<uint32_t> bits;
  for (const auto& row : logits)
    for (const float value : row) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

/// A prompt in two chunks and three decoded tokens.
std::vector<uint32_t> walked_bits(const Model& model, uint32_t n_threads) {
  const auto tokens = random_tokens(36, model.shape().vocab_size, kStreamSeed);
  ZooWalk walk(
      model,
      {.kernels = cpu_attn::available_kernels().back(), .n_threads = n_threads, .chunk_rows = 17});
  Sequence sequence = walk.sequence();
  Logits logits = walk.feed(sequence, std::span(tokens).first(33));
  for (uint32_t i = 33; i < 36; ++i)
    logits.push_back(walk.feed(sequence, std::span(tokens).subspan(i, 1)).front());
  return bits_of(logits);
}

/// Law L1: where weights lay changes no bit.
TEST(WeightStream, GivesTheBitsOfResidentWeightsOnEveryModelOfTheZoo) {
  std::mt19937 random(kStreamSeed);
  SCOPED_TRACE("seed " + std::to_string(kStreamSeed));
  uint32_t n_in_part = 0;
  for (const auto& member : makers::zoo()) {
    SCOPED_TRACE(member.model.name);
    const ModelFile written(member.model);
    const GgufFile file = written.open();
    const std::vector<uint32_t> wanted = walked_bits(testing::load_model(file), 1);
    for (const uint32_t n_threads : {1u, 2u}) {
      std::vector<PieceSet> streamed(read_model_spec(file).shape.n_layers);
      for (PieceSet& pieces : streamed) pieces = {random() % 3 != 0, random() % 3 != 0};
      streamed[random() % streamed.size()].add(kEachPiece[random() % 2]);
      WeightOptions options;
      options.plan = streaming(file, streamed);
      n_in_part += options.plan->n_in_part();
      options.load = n_threads == 1 ? LoadMode::kDirect : LoadMode::kMapped;
      ThreadPool pool(1);
      const Model model = Model::load(file, read_model_spec(file), pool, {}, options);
      EXPECT_EQ(walked_bits(model, n_threads), wanted) << n_threads << " threads";
      EXPECT_GT(model.read_counts().read_bytes, 0u);
      EXPECT_EQ(model.load_report().used, options.load);
    }
  }
  EXPECT_GE(n_in_part, makers::zoo().size());
}

TEST(WeightStream, OfALayerOnlyThePieceThatIsStreamedIsRead) {
  const TemporaryModel written(make_small_model({.n_layers = 6, .d_ff = 6144}));
  const GgufFile file = GgufFile::open(written.path());
  const WeightSizes sizes = weight_sizes(file, read_model_spec(file));
  ThreadPool pool(1);
  for (const LayerPiece piece : kEachPiece) {
    SCOPED_TRACE(layer_piece_name(piece));
    const LayerSize& part = sizes.pieces[0][static_cast<size_t>(piece)];
    PieceSet one;
    one.add(piece);
    WeightOptions options;
    options.plan = streaming(file, std::vector<PieceSet>(6, one));
    const WeightPlan& plan = *options.plan;
    EXPECT_EQ(plan.slot_bytes, part.packed_bytes);
    EXPECT_EQ(plan.resident_bytes,
              sizes.always_bytes + 6 * (sizes.layers[0].packed_bytes - part.packed_bytes));
    const Model model = Model::load(file, read_model_spec(file), pool, {}, options);
    const LayerWeights& stays = model.layer(2);
    const LayerLease lease = model.take_layer(2, pool);
    for (const LayerMatrix& matrix : kLayerMatrices) {
      const std::byte* at = ((*lease).*matrix.member).bytes;
      EXPECT_EQ(at == (stays.*matrix.member).bytes, matrix.piece != piece) << matrix.tensor;
    }
    // Two layers and the reads of a third, each with less than two units of alignment beside it.
    const uint64_t n_reads = 3 * part.n_reads;
    EXPECT_LE(model.read_counts().read_bytes, 3 * part.file_bytes + n_reads * 2 * kReadAlignment);
    EXPECT_GE(model.read_counts().read_bytes, part.file_bytes);
  }
}

constexpr uint32_t kLayerReads = 4;  // that bring a layer of a StreamedModel

/// Six layers of which all are streamed, by a scripted disk.
struct StreamedModel {
  explicit StreamedModel(std::chrono::milliseconds deadline = kReadDeadline, uint32_t depth = 1000)
      : written(small()), file(GgufFile::open(written.path())), pool(2) {
    script->depth = depth;
    WeightOptions options;
    options.plan = streaming(file, std::vector<PieceSet>(6, kWholeLayer));
    EXPECT_EQ(options.plan->n_buffers, 3 * kLayerReads);
    options.make_io = make_scripted(script);
    options.deadline = deadline;
    model = std::make_unique<Model>(Model::load(file, read_model_spec(file), pool, {}, options));
    const KernelTable* kernels = cpu_attn::available_kernels().back();
    walk = std::make_unique<ZooWalk>(*model, testing::WalkSetting{.kernels = kernels});
    resident = std::make_unique<Model>(Model::load(file, read_model_spec(file), pool));
    ZooWalk other(*resident, {.kernels = kernels});
    wanted = bits_of(other.feed_all(tokens));
  }
  static testing::SmallModel small() {
    testing::SmallModel small = make_small_model({.n_layers = 6, .d_ff = 6144});  // 2.3 MiB a layer
    draw_weights(small, 3);
    return small;
  }
  std::vector<uint32_t> walked() { return bits_of(walk->feed_all(tokens)); }

  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5};
  std::shared_ptr<IoScript> script = std::make_shared<IoScript>();
  TemporaryModel written;
  GgufFile file;
  ThreadPool pool;
  std::unique_ptr<Model> model, resident;
  std::unique_ptr<ZooWalk> walk;
  std::vector<uint32_t> wanted;
};

void expect_weights_of(const StreamedModel& of, const LayerLease& lease, uint32_t layer) {
  for (const LayerMatrix& matrix : kLayerMatrices) {
    const PackedMatrix& found = (*lease).*matrix.member;
    const PackedMatrix& wanted = of.resident->layer(layer).*matrix.member;
    EXPECT_TRUE(std::equal(found.bytes, found.bytes + found.total_bytes(), wanted.bytes))
        << "layer " << layer << ", " << matrix.tensor;
  }
}

TEST(WeightStream, TwoLayersAreReadWhileOneIsLeased) {
  StreamedModel of;
  const uint64_t n_before = of.script->n_ended;  // the loader's
  LayerLease first = of.model->take_layer(0, of.pool);
  for (int i = 0; i < 100; ++i) of.model->read_ahead(of.pool);
  EXPECT_EQ(of.script->n_ended - n_before, 3 * kLayerReads);  // and no more
  const uint64_t n_submitted = of.script->n_submitted;
  of.script->holds = true;
  LayerLease second = of.model->take_layer(1, of.pool);  // waits for nothing
  EXPECT_EQ(of.model->read_counts().n_stalls, 1u);       // layer 0
  first.release();
  of.model->read_ahead(of.pool);
  EXPECT_EQ(of.script->n_submitted, n_submitted + kLayerReads);  // layer 3, while 1 is leased
  of.script->holds = false;
}

/// To compare: the disk and the CPU take turns.
TEST(WeightStream, WithoutReadingAheadALayerIsReadWhenItIsTaken) {
  StreamedModel of;
  of.walk->walk().set_reads_ahead(false);
  uint64_t n_wanted = of.script->n_submitted;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    const LayerLease lease = of.model->take_layer(layer, of.pool);
    n_wanted += kLayerReads;
    for (int i = 0; i < 10; ++i) of.model->read_ahead(of.pool);
    EXPECT_EQ(of.script->n_submitted, n_wanted) << layer;
    EXPECT_EQ(of.model->read_counts().n_stalls, layer + 1);
    expect_weights_of(of, lease, layer);
  }
  EXPECT_EQ(of.walked(), of.wanted);
  EXPECT_EQ(of.script->n_submitted, n_wanted + 6 * kLayerReads);  // a step of all layers
  of.walk->walk().set_reads_ahead(true);
  EXPECT_EQ(of.walked(), of.wanted);
  EXPECT_GT(of.script->n_submitted, n_wanted + 12 * kLayerReads);  // and what the next step wants
}

/// There is memory for two: what has come of a third layer waits in its buffers.
TEST(WeightStream, WhatArrivesWithoutMemoryIsPackedWhenALeaseEnds) {
  StreamedModel of;
  LayerLease leased = of.model->take_layer(0, of.pool);
  for (int i = 0; i < 100; ++i) of.model->read_ahead(of.pool);  // 1 is packed, 2 has come
  of.script->holds = true;  // nothing that is asked for now does
  const std::byte* memory = (*leased).ffn_down.bytes;
  leased.release();
  leased = of.model->take_layer(1, of.pool);
  LayerLease third = of.model->take_layer(2, of.pool);
  EXPECT_EQ((*third).ffn_down.bytes, memory);
  EXPECT_EQ(of.model->read_counts().n_stalls, 2u);  // 0, and 2, which was there but not packed
  expect_weights_of(of, leased, 1);
  expect_weights_of(of, third, 2);
  of.script->holds = false;
}

TEST(WeightStream, WhatWaitsForMemoryGivesItsBuffersBackWhereNobodyWantsIt) {
  StreamedModel of;
  for (uint32_t i = 0; i < 20; ++i) {
    LayerLease lease = of.model->take_layer(0, of.pool);
    for (int call = 0; call < 100; ++call) of.model->read_ahead(of.pool);  // 2 waits
    lease.release();
    lease = of.model->take_layer(4, of.pool);
    expect_weights_of(of, lease, 4);
    EXPECT_GE(of.model->read_counts().n_abandoned, (i + 1) * kLayerReads);
  }
}

TEST(WeightStream, AReadThatFailsWhileItsLayerHasNoMemoryEndsItsStep) {
  StreamedModel of;
  LayerLease lease = of.model->take_layer(0, of.pool);
  for (int call = 0; call < 100; ++call) of.model->read_ahead(of.pool);
  lease.release();
  of.script->fail_in = 0;  // the first of layer 3, for which there is no memory yet
  lease = of.model->take_layer(1, of.pool);
  for (int call = 0; call < 100; ++call) of.model->read_ahead(of.pool);
  EXPECT_LT(of.script->fail_in, 0);
  lease.release();
  of.model->take_layer(2, of.pool).release();
  expect_error([&] { of.model->take_layer(3, of.pool).release(); }, ErrorCode::kIo,
               "bytes of weights: device error", ": tensor blk.3.");
  EXPECT_EQ(of.walked(), of.wanted);
}

TEST(WeightStream, ALayerBehindThoseThatHaveTheMemoryIsReadAnew) {
  StreamedModel of;
  of.model->take_layer(0, of.pool).release();
  for (int call = 0; call < 100; ++call) of.model->read_ahead(of.pool);  // 1 and 2 are packed
  LayerLease lease = of.model->take_layer(3, of.pool);                   // which has come
  expect_weights_of(of, lease, 3);
  for (int call = 0; call < 100; ++call) of.model->read_ahead(of.pool);  // 4 is packed, 5 has come
  const LayerLease other = of.model->take_layer(5, of.pool);
  expect_weights_of(of, lease, 3);
  expect_weights_of(of, other, 5);
}

TEST(WeightStream, HalfOfTheBuffersAreInFlightAtMost) {
  StreamedModel of;
  const uint64_t n_before = of.script->n_submitted;
  of.script->holds = true;
  for (int call = 0; call < 10; ++call) of.model->read_ahead(of.pool);
  EXPECT_EQ(of.script->n_submitted - n_before, (3 * kLayerReads + 1) / 2);
  of.script->holds = false;
  for (int call = 0; call < 10; ++call) of.model->read_ahead(of.pool);
  EXPECT_EQ(of.script->n_submitted - n_before, 3 * kLayerReads);
}

/// A device holds two layers and a piece of a third: its steps read the others.
TEST(WeightStream, ARoundReadsItsOwnPieces) {
  StreamedModel of;
  std::vector<PieceSet> held(6);
  held[0] = held[3] = kWholeLayer;
  held[2] = {.attention = true};
  const uint32_t round = of.model->add_round(held);
  EXPECT_EQ(of.model->add_round(std::vector<PieceSet>(6)), 0u);  // reads all
  for (int turn = 0; turn < 3; ++turn) {
    of.model->begin_round(round);
    for (const uint32_t layer : {1u, 2u, 4u, 5u, 1u}) {
      const LayerLease lease = of.model->take_layer(layer, of.pool);
      for (const LayerMatrix& matrix : kLayerMatrices) {
        const PackedMatrix& found = (*lease).*matrix.member;
        const PackedMatrix& wanted = of.resident->layer(layer).*matrix.member;
        if (layer == 2 && matrix.piece == LayerPiece::kAttention)
          EXPECT_EQ(found.bytes, nullptr);
        else
          EXPECT_TRUE(std::equal(found.bytes, found.bytes + found.total_bytes(), wanted.bytes));
      }
      for (int call = 0; call < 10; ++call) of.model->read_ahead(of.pool);
    }
    EXPECT_EQ((*of.model->take_layer(3, of.pool)).q.bytes, nullptr);  // not its own
    EXPECT_EQ(of.walked(), of.wanted);                                // by another round
  }
  EXPECT_GT(of.model->read_counts().n_abandoned, 0u);
}

TEST(WeightStream, ARoundOfOneLayerReadsItOnceAheadOfEachStep) {
  StreamedModel of;
  std::vector<PieceSet> held(6, kWholeLayer);
  held[4] = kNoPiece;
  of.model->begin_round(of.model->add_round(held));
  uint64_t n_wanted = of.script->n_submitted;
  for (int step = 0; step < 3; ++step) {
    n_wanted += kLayerReads;
    for (int call = 0; call < 10; ++call) of.model->read_ahead(of.pool);
    EXPECT_EQ(of.script->n_submitted, n_wanted);
    const LayerLease lease = of.model->take_layer(4, of.pool);
    expect_weights_of(of, lease, 4);
    for (int call = 0; call < 10; ++call) of.model->read_ahead(of.pool);
    EXPECT_EQ(of.script->n_submitted, n_wanted);  // none while it is leased
  }
}

TEST(WeightStream, SaysWhatIsThereAndWhetherMoreIsOnItsWay) {
  StreamedModel of;
  EXPECT_FALSE(of.model->is_layer_there(0));
  of.script->holds = true;
  EXPECT_TRUE(of.model->read_ahead(of.pool));
  EXPECT_FALSE(of.model->is_layer_there(0));
  of.script->holds = false;
  for (int call = 0; call < 100; ++call) of.model->read_ahead(of.pool);
  EXPECT_FALSE(of.model->read_ahead(of.pool));
  EXPECT_TRUE(of.model->is_layer_there(0) && of.model->is_layer_there(1));
  EXPECT_FALSE(of.model->is_layer_there(2));  // waits for memory
  LayerLease lease = of.model->take_layer(0, of.pool);
  EXPECT_EQ(of.model->read_counts().n_stalls, 0u);
  EXPECT_FALSE(of.model->is_layer_there(0));
}

TEST(WeightStream, PiecesAreReadOnceForWhoKeepsThem) {
  StreamedModel of;
  for (const PieceSet pieces : {PieceSet{.attention = true}, PieceSet{.ffn = true}, kWholeLayer}) {
    HostMemory memory = HostMemory::reserve(of.model->weight_plan().slot_bytes);
    of.model->read_layer(2, pieces, memory.data(), of.pool);
    uint64_t at = 0;
    for (const LayerMatrix& matrix : kLayerMatrices) {
      if (!pieces.has(matrix.piece)) continue;
      const PackedMatrix& wanted = of.resident->layer(2).*matrix.member;
      EXPECT_TRUE(std::equal(wanted.bytes, wanted.bytes + wanted.total_bytes(), memory.data() + at))
          << matrix.tensor;
      at += wanted.total_bytes();
    }
  }
  EXPECT_EQ(of.walked(), of.wanted);
}

TEST(WeightStream, ALeaseKeepsItsWeightsWhileOthersAreRead) {
  StreamedModel of;
  const LayerLease lease = of.model->take_layer(0, of.pool);
  const PackedMatrix& down = (*lease).ffn_down;
  const std::vector<std::byte> before(down.bytes, down.bytes + down.total_bytes());
  for (uint32_t layer = 1; layer < 6; ++layer) {
    LayerLease other = of.model->take_layer(layer, of.pool);
    EXPECT_NE((*other).ffn_down.bytes, down.bytes);
    other.release();
    of.model->read_ahead(of.pool);
  }
  EXPECT_TRUE(std::equal(before.begin(), before.end(), down.bytes));
}

TEST(WeightStream, LayersMayBeTakenInAnyOrder) {
  StreamedModel of;
  std::mt19937 random(kStreamSeed);
  SCOPED_TRACE("seed " + std::to_string(kStreamSeed));
  for (int i = 0; i < 100; ++i) {
    const auto layer = static_cast<uint32_t>(random() % 6);
    const LayerLease lease = of.model->take_layer(layer, of.pool);
    expect_weights_of(of, lease, layer);
    for (auto n = random() % 4; n > 0; --n) of.model->read_ahead(of.pool);
  }
  EXPECT_GT(of.model->read_counts().n_abandoned, 0u);
}

TEST(WeightStream, AQueueOfOneGivesTheSameBits) {
  StreamedModel of(kReadDeadline, 1);
  EXPECT_EQ(of.walked(), of.wanted);
}

TEST(WeightStream, AFailedReadEndsTheStepAndTheNextOneIsWhole) {
  for (const int64_t fail_in : {0, 2, 4, 10, 17}) {
    SCOPED_TRACE(fail_in);
    StreamedModel of;
    Sequence sequence = of.walk->sequence();
    of.script->fail_in = fail_in;
    const StepRow row{&sequence, 1, true};
    expect_error(
        [&] {
          return of.walk->step({&row, 1});
        },
        ErrorCode::kIo, "bytes of weights: device error", of.written.path() + ": tensor blk.");
    EXPECT_EQ(sequence.n_pos(), 0u);
    EXPECT_EQ(of.walked(), of.wanted);
  }
}

/// As where a server's thread has walked, and the main one takes everything down.
TEST(WeightStream, ItMayEndOnAnotherThreadThanTheOneThatReads) {
  const TemporaryModel written(StreamedModel::small());
  const GgufFile file = GgufFile::open(written.path());
  ThreadPool pool(1);
  WeightOptions options;
  options.plan = streaming(file, std::vector<PieceSet>(6, kWholeLayer));
  auto model = std::make_unique<Model>(Model::load(file, read_model_spec(file), pool, {}, options));
  std::thread([&] {
    ThreadPool own(1);
    model->take_layer(0, own).release();
    model->read_ahead(own);
  }).join();
  model.reset();
}

TEST(WeightStream, AHungReadEndsTheStepAfterTheDeadline) {
  StreamedModel of(std::chrono::milliseconds(200));
  EXPECT_EQ(of.walked(), of.wanted);
  of.script->hangs = true;
  for (int i = 0; i < 2; ++i)
    expect_error([&] { return of.walk->feed_all(of.tokens); }, ErrorCode::kIo,
                 "the disk has not answered a read of weights for 0.2 s", ", offset ");
}

TEST(WeightStream, AWaitForAHungDiskIsStoppedAndTheNextStepIsWhole) {
  StreamedModel of;
  of.script->hangs = true;
  const std::atomic<bool> cancel = true;
  try {
    of.model->take_layer(3, of.pool, &cancel).release();
    ADD_FAILURE() << "was not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  of.script->hangs = false;
  EXPECT_EQ(of.walked(), of.wanted);
}

TEST(WeightStream, AFileCutShortWhileItRunsEndsTheStep) {
  StreamedModel of;
  EXPECT_EQ(of.walked(), of.wanted);
  std::filesystem::resize_file(of.written.path(), of.file.tensors()[3].file_offset);
  // What was read ahead is whole, but no longer the file's.
  expect_error([&] { return of.walk->feed_all(of.tokens); }, ErrorCode::kIo, "", of.written.path());
  expect_error([&] { return of.walk->feed_all(of.tokens); }, ErrorCode::kIo,
               "cut short after it was opened", "offset ");
}

TEST(WeightStream, AFileWrittenToWhileItRunsEndsTheStep) {
  StreamedModel of;
  EXPECT_EQ(of.walked(), of.wanted);
  const auto modified = std::filesystem::last_write_time(of.written.path());
  std::fstream(of.written.path(), std::ios::in | std::ios::out | std::ios::binary)
      .seekp(static_cast<std::streamoff>(of.file.tensors()[5].file_offset))
      .write("changed!", 8);
  // A clock of coarse ticks may give the time of the file's making again.
  std::filesystem::last_write_time(of.written.path(), modified + std::chrono::seconds(1));
  expect_error([&] { return of.walk->feed_all(of.tokens); }, ErrorCode::kIo,
               "written to after it was opened", of.written.path());
}

TEST(WeightStream, AnEngineStreamsWithinItsBudget) {
  testing::SmallModel small = make_small_model({.n_layers = 12, .d_ff = 4096});
  draw_weights(small, 8);
  const TemporaryModel written(small);
  EngineOptions options;
  options.model_path = written.path();
  options.n_threads = 2;
  const auto logits_of = [](Engine& engine) {
    Sequence sequence = engine.cache().make_sequence();
    const StepRow row{&sequence, 3, true};
    engine.walk().step({&row, 1});
    const auto logits = engine.walk().logits(0);
    return std::vector<float>(logits.begin(), logits.end());
  };
  Engine all = Engine::open(options);
  all.load({});
  const uint64_t all_bytes = all.model().weight_bytes();
  options.weights_dram_bytes = all_bytes * 3 / 4;
  Engine some = Engine::open(options);
  EXPECT_GT(some.weight_plan().n_streamed(), 0u);
  EXPECT_LT(some.weight_plan().n_streamed(), 12u);
  some.load({});
  EXPECT_LE(some.model().weight_bytes(), options.weights_dram_bytes);
  EXPECT_EQ(logits_of(some), logits_of(all));
  options.weights_dram_bytes = 1000;
  expect_error([&] { return Engine::open(options); }, ErrorCode::kDoesNotFit,
               "--weights-dram allows 1000 B", "--weights-dram");
}

}  // namespace
}  // namespace strata::engine

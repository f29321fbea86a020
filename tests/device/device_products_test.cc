// Products on both sides of the link, by the emulator: few rows by the CPU where weights lie that
// the device does not hold, against the double-precision reference; and that nothing but the plan
// says whose a product is.
#include "engine/device_products.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/device/device_run.h"
#include "tests/engine/zoo_distance.h"

namespace strata::engine {
namespace {

using testing::DeviceRun;
using testing::LoadedMember;
using testing::Logits;
using testing::WalkSetting;

constexpr uint32_t kProductsSeed = 20261129;

WalkSetting products_setting(uint32_t chunk_rows = kDeviceFewRows, uint32_t n_threads = 1) {
  WalkSetting of{.kernels = cpu_attn::available_kernels().back(),
                 .n_threads = n_threads,
                 .chunk_rows = chunk_rows,
                 .n_ctx = 128};
  of.n_sequences = 3;
  return of;
}

using ChangePlan = std::function<void(const DeviceNeeds&, DevicePlan&)>;

/// Nothing stays but what must, and of the layers so large a share is the CPU's.
ChangePlan all_pass(double share) {
  return [share](const DeviceNeeds& needs, DevicePlan& plan) {
    plan = device_plan_of(needs, std::vector<PieceSet>(needs.layer_bytes.size(), kNoPiece));
    plan.on_cpu = share_products(plan.resident, share);
  };
}

/// Each piece stays, passes or is the CPU's, drawn at random; a piece of the first layer is.
ChangePlan drawn(uint32_t seed) {
  return [seed](const DeviceNeeds& needs, DevicePlan& plan) {
    std::mt19937 random(seed);
    std::vector<PieceSet> resident, on_cpu;
    for (size_t layer = 0; layer < needs.layer_bytes.size(); ++layer) {
      PieceSet stays, multiplied;
      for (const LayerPiece piece : kEachPiece) {
        const uint64_t where = layer == 0 && piece == LayerPiece::kFfn ? 2 : random() % 3;
        if (where == 0) stays.add(piece);
        if (where == 2) multiplied.add(piece);
      }
      resident.push_back(stays);
      on_cpu.push_back(multiplied);
    }
    const uint64_t kv_bytes = plan.kv_bytes;
    plan = device_plan_of(needs, std::move(resident));
    plan.kv_bytes = kv_bytes;
    plan.on_cpu = std::move(on_cpu);
  };
}

DeviceRun products_run(const auto& member, const WalkSetting& of, const ChangePlan& change,
                       const DeviceTable& table = gpu_emu::emulated_device()) {
  return DeviceRun(member, of, 0, table, 0, change);
}

uint64_t bytes_on_cpu(const DeviceRun& run) {
  uint64_t bytes = 0;
  for (size_t layer = 0; layer < run.plan().on_cpu.size(); ++layer)
    bytes += run.needs().bytes_of(layer, run.plan().on_cpu[layer]);
  return bytes;
}

TEST(DeviceProducts, ASharesLayersAreSpreadOverThoseThatPass) {
  const PieceSet attention{.attention = true}, ffn{.ffn = true};
  const std::vector<PieceSet> resident = {kNoPiece, kWholeLayer, attention, kNoPiece, kNoPiece};
  EXPECT_EQ(share_products(resident, 0), std::vector<PieceSet>());
  EXPECT_EQ(share_products(resident, 0.1), std::vector<PieceSet>());
  EXPECT_EQ(share_products(resident, 0.5),
            (std::vector<PieceSet>{kNoPiece, kNoPiece, ffn, kNoPiece, kWholeLayer}));
  EXPECT_EQ(share_products(resident, 1),
            (std::vector<PieceSet>{kWholeLayer, kNoPiece, ffn, kWholeLayer, kWholeLayer}));
  EXPECT_EQ(share_products({kWholeLayer, kWholeLayer}, 1), std::vector<PieceSet>());
}

/// Of rows in eights nothing passes; a prompt's chunk would, so its first two layers wait there.
TEST(DeviceProducts, TheCpuMayMultiplyByAllOfEveryMemberOfTheZoo) {
  for (const auto& of : makers::zoo()) {
    SCOPED_TRACE(of.model.name);
    const LoadedMember member(of.model.name);
    const auto tokens = testing::random_tokens(44, of.model.vocab_size, kProductsSeed);
    DeviceRun run = products_run(member, products_setting(), all_pass(1));
    EXPECT_EQ(run.plan().n_on_cpu(), member.model.shape().n_layers);
    const uint64_t streamed = run.device().streamed_bytes();
    testing::expect_near(run.walk().feed_all(tokens), testing::reference_of(member.file, tokens));
    EXPECT_EQ(run.device().streamed_bytes(), streamed);
    EXPECT_EQ(run.device().cpu_weight_bytes(), 6 * bytes_on_cpu(run));  // steps
  }
}

/// Who holds a piece may be drawn; threads change no bit, and what does not stay and is not the
/// CPU's passes.
TEST(DeviceProducts, AnyPieceMayBeAnyonesWithOneThreadAndThree) {
  for (const auto& of : makers::zoo()) {
    SCOPED_TRACE(of.model.name);
    const LoadedMember member(of.model.name);
    const auto tokens = testing::random_tokens(40, of.model.vocab_size, kProductsSeed);
    const uint32_t seed = kProductsSeed + of.model.n_layers;
    DeviceRun run = products_run(member, products_setting(), drawn(seed));
    const Logits logits = run.walk().feed_all(tokens);
    testing::expect_near(logits, testing::reference_of(member.file, tokens));
    EXPECT_GT(bytes_on_cpu(run), 0u);
    EXPECT_EQ(run.device().cpu_weight_bytes(), 5 * bytes_on_cpu(run));
    DeviceRun threads = products_run(member, products_setting(kDeviceFewRows, 3), drawn(seed));
    EXPECT_TRUE(testing::is_same(threads.walk().feed_all(tokens), logits));
  }
}

/// A prompt's chunks are the device's, by weights that pass, and so is every other thing that is
/// walked between: the bits of a text are those it has alone.
TEST(DeviceProducts, ChunksPassAndWhatRanBeforeChangesNoBit) {
  const testing::LoadedModel member(testing::wide_llama(5));
  const auto text = member.text(70, kProductsSeed);
  const auto other = member.text(50, kProductsSeed + 1);
  const auto answered = [&](DeviceRun& run, std::span<const int32_t> of) {
    Sequence sequence = run.walk().sequence();
    Logits all;
    const auto chunk = [&](size_t first, size_t n) {
      std::vector<StepRow> rows;
      for (const int32_t token : of.subspan(first, n))
        rows.push_back({&sequence, token, rows.size() + 1 == n});
      all.push_back(run.walk().step(rows).front());
    };
    chunk(0, 30);
    for (size_t i = 30; i < 35; ++i) chunk(i, 1);
    chunk(35, 12);
    for (size_t i = 47; i < of.size(); ++i) chunk(i, 1);
    return all;
  };
  for (const double share : {0.4, 1.0}) {
    SCOPED_TRACE(share);
    DeviceRun alone = products_run(member, products_setting(40), all_pass(share));
    const Logits expected = answered(alone, text);
    EXPECT_EQ(alone.device().cpu_weight_bytes(), (5 + 70 - 47) * bytes_on_cpu(alone));
    DeviceRun busy = products_run(member, products_setting(40), all_pass(share));
    answered(busy, other);
    EXPECT_TRUE(testing::is_same(answered(busy, text), expected));
    // A chunk's bits are those of a device without a CPU beside it.
    DeviceRun device = products_run(member, products_setting(40), all_pass(0));
    const Logits without = answered(device, text);
    EXPECT_EQ(device.device().cpu_weight_bytes(), 0u);
    EXPECT_TRUE(testing::is_same(std::span(without).first(1), std::span(expected).first(1)));
    EXPECT_GT(device.device().streamed_bytes(), alone.device().streamed_bytes());
  }
}

/// The flag comes up while the first layer attends.
TEST(DeviceProducts, AStepThatIsStoppedLeavesTheSequenceAsItWas) {
  static std::atomic<bool> is_stopped;
  const LoadedMember member("llama3");
  const auto text = member.text(41, kProductsSeed);
  DeviceTable stopping = gpu_emu::emulated_device();
  stopping.kernels.attend = [](DeviceStream* stream, const DeviceAttendArgs& args) {
    is_stopped = true;
    return gpu_emu::emulated_device().kernels.attend(stream, args);
  };
  const auto last_of = [&](DeviceRun& run, bool stops) {
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(40));
    const std::vector<StepRow> rows{{&sequence, text[40], true}};
    if (stops) {
      is_stopped = false;
      run.walk().walk().set_cancel(&is_stopped);
      EXPECT_THROW(run.walk().step(rows), Error);
      run.walk().walk().set_cancel(nullptr);
      EXPECT_EQ(sequence.n_pos(), 40u);
    }
    return run.walk().step(rows);
  };
  DeviceRun calm = products_run(member, products_setting(), drawn(kProductsSeed));
  DeviceRun run = products_run(member, products_setting(), drawn(kProductsSeed), stopping);
  EXPECT_TRUE(testing::is_same(last_of(run, true), last_of(calm, false)));
}

/// Once, where rows are sent, are waited for, or their products are read; what is asked of the
/// device afterwards would work.
TEST(DeviceProducts, ADeviceThatIsLostMeanwhileIsNamed) {
  enum class Fails { kNothing, kSending, kWaiting, kReading };
  static Fails fails;
  static std::span<const std::byte> pinned;  // last: a step's
  static const auto fails_once = [](Fails what, const void* memory) {
    const auto* at = static_cast<const std::byte*>(memory);
    const bool is_in_host = at >= pinned.data() && at < pinned.data() + pinned.size();
    if (fails != what || !(what == Fails::kWaiting || is_in_host)) return false;
    fails = Fails::kNothing;
    return true;
  };
  const LoadedMember member("llama3");
  const auto text = member.text(20, kProductsSeed);
  DeviceTable losing = gpu_emu::emulated_device();
  losing.pin = [](Device* device, void* memory, uint64_t bytes, void** mapped) {
    pinned = {static_cast<const std::byte*>(memory), bytes};
    return gpu_emu::emulated_device().pin(device, memory, bytes, mapped);
  };
  losing.copy = [](DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
    return fails_once(Fails::kSending, to)
               ? 719
               : gpu_emu::emulated_device().copy(stream, to, from, bytes);
  };
  losing.wait_event = [](DeviceEvent* event) {
    return fails_once(Fails::kWaiting, nullptr) ? 719
                                                : gpu_emu::emulated_device().wait_event(event);
  };
  losing.kernels.rotate = [](DeviceStream* stream, const DeviceRotateArgs& args) {
    return fails_once(Fails::kReading, args.q)
               ? 719
               : gpu_emu::emulated_device().kernels.rotate(stream, args);
  };
  for (const Fails what : {Fails::kSending, Fails::kWaiting, Fails::kReading}) {
    SCOPED_TRACE(static_cast<int>(what));
    fails = Fails::kNothing;
    DeviceRun run = products_run(member, products_setting(), all_pass(1), losing);
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(16));
    fails = what;
    const std::vector<StepRow> rows{{&sequence, text[16], true}};
    for (int n = 0; n < 2; ++n) {
      try {
        run.walk().step(rows);
        ADD_FAILURE() << "no error";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kDeviceLost) << error.what();
        EXPECT_NE(std::string(error.what()).find("error 719"), std::string::npos) << error.what();
      }
      EXPECT_EQ(fails, Fails::kNothing);
      EXPECT_EQ(sequence.n_pos(), 16u);
    }
  }
}

}  // namespace
}  // namespace strata::engine

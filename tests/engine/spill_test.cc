// KV that spills to a disk: the same bits as with everything in DRAM (law L1), and what a disk
// that lies, fails or hangs does to a run.
#include <gtest/gtest.h>

#include <bit>
#include <random>

#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine {
namespace {

using testing::load_model;
using testing::Logits;
using testing::ModelFile;
using testing::random_tokens;
using testing::WalkSetting;
using testing::ZooWalk;
using tiers::SimulatedDisk;

constexpr uint32_t kSeed = 20261125;
constexpr uint32_t kFrames = 48;

struct LoadedMember {
  explicit LoadedMember(const std::string& name)
      : member(makers::zoo_member(name)),
        written(member.model),
        file(written.open()),
        model(load_model(file)) {}
  const makers::ZooMember& member;
  ModelFile written;
  GgufFile file;
  Model model;
};

uint64_t place_bytes(const ModelShape& shape, const WalkSetting& setting) {
  uint64_t n_kv_heads = 0;
  for (const LayerShape& layer : shape.layers)
    n_kv_heads = std::max<uint64_t>(n_kv_heads, layer.n_kv_heads);
  const auto layout = KvLayout::make(setting.k_codec, setting.v_codec, shape.head_dim);
  const uint64_t bytes = n_kv_heads * tiers::kExtentBlocks * layout.block_bytes;
  return (bytes + tiers::kPlaceAlignment - 1) / tiers::kPlaceAlignment * tiers::kPlaceAlignment;
}

/// Bit for bit.
bool is_same(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return false;
  for (size_t row = 0; row < a.size(); ++row)
    for (size_t i = 0; i < a[row].size(); ++i)
      if (std::bit_cast<uint32_t>(a[row][i]) != std::bit_cast<uint32_t>(b[row][i])) return false;
  return true;
}

/// A DRAM budget that holds n_positions of every full layer, beside all of the windowed ones.
WalkSetting small_dram(const LoadedMember& of, WalkSetting setting, uint64_t n_positions) {
  setting.kv_dram_bytes = kv_bytes_for_context(of.model.shape(), setting.k_codec, setting.v_codec,
                                               n_positions, setting.chunk_rows);
  return setting;
}

WalkSetting drawn_setting(std::mt19937_64& random) {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 1 + static_cast<uint32_t>(random() % 2);
  setting.chunk_rows = std::array{1u, 32u, 64u, 200u, 512u}[random() % 5];
  setting.n_ctx = 2048;
  return setting;
}

TEST(Spill, PlacementChangesNoBit) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const auto& listed : makers::zoo()) {
    SCOPED_TRACE(listed.model.name);
    const LoadedMember member(listed.model.name);
    WalkSetting setting = drawn_setting(random);
    setting.chunk_rows = std::max(setting.chunk_rows, 32u);
    const auto text = random_tokens(1500 + static_cast<uint32_t>(random() % 400),
                                    listed.model.vocab_size, static_cast<uint32_t>(random()));
    ZooWalk whole(member.model, setting);
    const Logits expected = whole.feed_all(text);
    WalkSetting spilling = drawn_setting(random);
    spilling.chunk_rows = std::max(spilling.chunk_rows, 32u);
    spilling = small_dram(member, spilling, spilling.chunk_rows + 600 + random() % 512);
    auto spill = tiers::testing::make_simulated_spill(
        {.seed = random(), .latency_spread = std::chrono::microseconds(200)},
        place_bytes(member.model.shape(), spilling), 4096, kFrames);
    ZooWalk away(member.model, spilling, std::move(spill.spill));
    EXPECT_TRUE(is_same(away.feed_all(text), expected));
    EXPECT_GT(away.cache().store().counts().extents_read, 0u);
  }
}

}  // namespace
}  // namespace strata::engine

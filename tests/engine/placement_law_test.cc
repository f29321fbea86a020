// Law L1 as a whole: wherever weights, K and V lie, whoever reads them and whatever their disks do,
// every logit of prompts and answers has the bits of a run with everything in DRAM.
#include <gtest/gtest.h>

#include <random>
#include <span>

#include "base/error.h"
#include "tests/engine/drawn_placement.h"
#include "tests/sanitizer.h"
#include "tests/tiers/long_run.h"
#include "tiers/uring_io.h"

namespace strata::engine {
namespace {

using testing::BackEnd;
using testing::DrawnPlacement;
using testing::PlacedText;
using testing::PlacedWalk;

constexpr uint32_t kPlacementsOfAText = 8;
constexpr uint32_t kAnswerMax = 5;
constexpr uint64_t kMeetsAll = 200;  // placements among which is all that can be drawn
// The least DRAM holds 1,280 positions of steps of up to 256 rows: longer texts are read back.
constexpr uint32_t kReadMin = 1190;
constexpr uint32_t kKindRead = 2200;

std::vector<BackEnd> back_ends_here() {
  std::vector<BackEnd> all = {BackEnd::kSimulated, BackEnd::kThreads};
  try {
    tiers::open_uring_io(1);
    all.push_back(BackEnd::kUring);
  } catch (const Error&) {
    std::printf("no io_uring here: threads and the simulator alone\n");
  }
  return all;
}

/// Reads of a layer's streamed pieces, summed over the layers: those of one step.
uint64_t reads_of_a_step(const GgufFile& file, std::span<const PieceSet> streamed) {
  const WeightSizes sizes = weight_sizes(file, read_model_spec(file));
  uint64_t n = 0;
  for (size_t layer = 0; layer < streamed.size(); ++layer)
    if (streamed[layer].is_any()) n += sizes.streamed_size(layer, streamed[layer]).n_reads;
  return n;
}

void draw_streamed(const PlacedText& text, std::span<const BackEnd> ends, std::mt19937_64& random,
                   DrawnPlacement& out) {
  if (random() % 4 == 0) return;  // all stay
  const bool is_all = random() % 4 == 0;
  out.streamed.resize(text.member().model.shape().n_layers);
  for (PieceSet& pieces : out.streamed) {
    const uint64_t draw = random();
    pieces = {is_all || draw % 2 == 0, is_all || draw / 2 % 2 == 0};
  }
  out.streamed[random() % out.streamed.size()].add(kEachPiece[random() % kLayerPieces]);
  out.weight_io = ends[random() % ends.size()];
  out.load = random() % 2 == 0 ? LoadMode::kMapped : LoadMode::kDirect;
  if (out.weight_io != BackEnd::kSimulated) return;
  out.load = LoadMode::kMapped;  // whose reads no disk of the test makes
  const auto n_reads = static_cast<double>(reads_of_a_step(text.member().file, out.streamed));
  if (random() % 2 == 0) out.weight_errors = 0.2 / n_reads;  // of five steps one fails
}

/// Number i of a run. Its back ends are drawn in turn, so that few placements have them all.
DrawnPlacement drawn_placement(uint64_t i, const PlacedText& text, uint32_t n_read,
                               uint32_t n_tokens, std::span<const BackEnd> ends,
                               std::mt19937_64& random) {
  DrawnPlacement out{.seed = random(),
                     .n_threads = 1 + static_cast<uint32_t>(random() % 2),
                     .chunk_rows = 16u << random() % 5,
                     .n_ctx = n_tokens + static_cast<uint32_t>(random() % 2 * 200)};
  draw_streamed(text, ends, random, out);
  const uint64_t kind = i % (ends.size() + 1);
  out.kv_io = ends[kind % ends.size()];
  out.is_kv_disk_faulty = i / (ends.size() + 1) % 2 == 0;
  if (kind < ends.size())
    out.dram_share = random() % 2 == 0 ? 0 : static_cast<double>(random() % 1001) / 1000;
  if (kind == ends.size() || random() % 2 == 0)
    out.n_saved = 256 + static_cast<uint32_t>(random() % (n_read - 256));
  // A step that computes lost rows again runs as many steps as the text may have chunks, and is
  // repeated whole: at the share drawn above, all its tries may fail (seed 3133409879 of 3,000).
  if (out.is_kv_disk_faulty) out.weight_errors *= static_cast<double>(out.chunk_rows) / n_tokens;
  return out;
}

struct LawCounts {
  uint64_t n_logits = 0, n_restored = 0, n_in_part = 0;
  uint64_t weight_bytes = 0, failed_steps = 0;
  uint64_t extents_read = 0, kv_faults = 0, lost_extents = 0;
};

/// A prompt in chunks and an answer token by token; every logit is compared.
void expect_same_bits(const PlacedText& text, const DrawnPlacement& placement, uint32_t n_read,
                      uint32_t n_tokens, LawCounts& counts) {
  SCOPED_TRACE(placement_text(placement));
  PlacedWalk walk(text, placement);
  if (placement.n_saved > 0) counts.n_restored += walk.restore(placement.n_saved);
  while (walk.n_pos() < n_tokens) {
    const uint32_t pos = walk.n_pos();
    const uint32_t n = pos < n_read ? std::min(placement.chunk_rows, n_read - pos) : 1;
    const auto differs = testing::first_difference(walk.step(n), text.logits().subspan(pos, n));
    ASSERT_FALSE(differs) << "position " << pos << ", " << *differs;
    counts.n_logits += n * text.logits()[0].size();
  }
  if (placement.streams()) counts.weight_bytes += walk.model().read_counts().read_bytes;
  counts.n_in_part += walk.model().weight_plan().n_in_part();
  counts.failed_steps += walk.n_failed_steps();
  counts.extents_read += walk.store().extents_read;
  counts.kv_faults += walk.n_kv_faults();
  counts.lost_extents += walk.store().lost_extents;
}

TEST(PlacementLaw, NoPlacementChangesABit) {
  const uint64_t seed = tiers::repeats("STRATA_PLACEMENT_SEED", std::random_device{}());
  std::printf("seed %lu\n", static_cast<unsigned long>(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::vector<BackEnd> ends = back_ends_here();
  const uint64_t n_placements =
      tiers::repeats("STRATA_PLACEMENTS", sanitizer::rounds(24, kPlacementsOfAText));
  std::vector<const makers::ZooMember*> members;
  LawCounts counts;
  for (uint64_t i = 0; i < n_placements;) {
    if (members.empty()) members = testing::walked_members(random);
    const PlacedText text(*members.back(), random);
    members.pop_back();
    SCOPED_TRACE(text.name());
    for (const uint64_t end = std::min(n_placements, i + kPlacementsOfAText); i < end; ++i) {
      const uint32_t n_read = kReadMin + static_cast<uint32_t>(random() % kReadMin);
      const uint32_t n_tokens = n_read + 1 + static_cast<uint32_t>(random() % kAnswerMax);
      const DrawnPlacement placement = drawn_placement(i, text, n_read, n_tokens, ends, random);
      try {
        expect_same_bits(text, placement, n_read, n_tokens, counts);
      } catch (const Error& error) {  // which would leave without a trace
        FAIL() << placement_text(placement) << ": " << error.what();
      }
      if (HasFatalFailure()) return;
    }
  }
  std::printf(
      "%lu placements, %lu logits: %lu positions restored; %lu MiB of weights read in steps, %lu "
      "layers in part, %lu steps repeated; %lu extents read, %lu faults of their disks, %lu "
      "extents lost\n",
      static_cast<unsigned long>(n_placements), static_cast<unsigned long>(counts.n_logits),
      static_cast<unsigned long>(counts.n_restored),
      static_cast<unsigned long>(counts.weight_bytes >> 20),
      static_cast<unsigned long>(counts.n_in_part), static_cast<unsigned long>(counts.failed_steps),
      static_cast<unsigned long>(counts.extents_read), static_cast<unsigned long>(counts.kv_faults),
      static_cast<unsigned long>(counts.lost_extents));
  EXPECT_GT(counts.n_restored + counts.weight_bytes + counts.extents_read, 0u);
  if (n_placements < kMeetsAll) return;
  for (const uint64_t count : {counts.n_restored, counts.weight_bytes, counts.n_in_part,
                               counts.failed_steps, counts.extents_read, counts.lost_extents})
    EXPECT_GT(count, 0u);
}

/// One kind of placement and nothing else; what must have happened then.
struct KindAlone {
  const char* name;
  DrawnPlacement placement;
  uint64_t LawCounts::*count;
};

std::vector<KindAlone> kinds_alone(const PlacedText& text) {
  const size_t n_layers = text.member().model.shape().n_layers;
  const std::vector<PieceSet> whole(n_layers, kWholeLayer);
  std::vector<PieceSet> in_part(n_layers, kNoPiece);
  in_part.front() = {.attention = true};
  in_part.back() = {.ffn = true};
  const DrawnPlacement plain{.seed = 20261129, .chunk_rows = 32, .n_ctx = PlacedText::kTokensMax};
  DrawnPlacement restored = plain, streamed = plain, apart = plain, failing = plain;
  DrawnPlacement spilled = plain;
  restored.n_saved = 1100;
  streamed.streamed = whole;
  apart.streamed = in_part;
  failing.streamed = whole;
  failing.weight_io = BackEnd::kSimulated;
  failing.weight_errors = 0.2 / static_cast<double>(reads_of_a_step(text.member().file, whole));
  spilled.dram_share = 0;
  DrawnPlacement lost = spilled;
  lost.kv_io = BackEnd::kSimulated;
  lost.is_kv_disk_faulty = true;
  lost.n_ctx = 2 * PlacedText::kTokensMax;  // room beside the places that are given up
  lost.kv_bit_flips = 0.1;                  // an extent is lost where both of its reads are wrong
  return {{"restored", restored, &LawCounts::n_restored},
          {"weights from the file", streamed, &LawCounts::weight_bytes},
          {"pieces of layers apart", apart, &LawCounts::n_in_part},
          {"reads of weights that fail", failing, &LawCounts::failed_steps},
          {"spilled", spilled, &LawCounts::extents_read},
          {"spilled and lost", lost, &LawCounts::lost_extents}};
}

/// The same in every run; what is drawn above has all kinds only in a long one.
TEST(PlacementLaw, EachKindAloneHappensAndChangesNoBit) {
  std::mt19937_64 random(20261128);
  const PlacedText text(makers::zoo_member("llama3"), random);
  for (const KindAlone& kind : kinds_alone(text)) {
    SCOPED_TRACE(kind.name);
    LawCounts counts;
    expect_same_bits(text, kind.placement, kKindRead, kKindRead + 2, counts);
    if (HasFatalFailure()) return;
    EXPECT_GT(counts.*kind.count, 0u);
    EXPECT_EQ(counts.n_restored > 0, kind.placement.n_saved > 0);
    EXPECT_EQ(counts.weight_bytes > 0, kind.placement.streams());
    EXPECT_EQ(counts.failed_steps > 0, kind.placement.weight_errors > 0);
    EXPECT_EQ(counts.lost_extents > 0, kind.placement.is_kv_disk_faulty);
  }
}

}  // namespace
}  // namespace strata::engine

// What the device's own kernel says of blocks, by the emulator, as choices are made by it: others
// than by the host's search of the same rows, but only among blocks that weigh nearly the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "index/choose.h"
#include "tests/cpu_attn/rotated_scan.h"
#include "tests/device/search_run.h"

namespace strata::engine {
namespace {

using testing::DeviceRun;
using testing::kSearchRead;
using testing::kSearchSeed;
using testing::kSearchTokens;
using testing::LoadedMember;
using testing::scan_as_host;
using testing::search_setting;

/// Of a block's weight for a query, nat: the host's exp, and what floats round.
constexpr double kScoresApart = cpu_attn::kWeightTolerance + 1e-3;
/// Of a block that one of the two takes in place of the other's, to the least that the host takes:
/// a weight and the sum that it is a share of, of either block.
constexpr double kSwappedApart = 4 * kScoresApart;

/// What becomes of the scores of a step's layers.
struct Judged {
  uint64_t n_scores = 0;
  double scores_apart = 0;                // at most
  uint64_t n_chosen = 0, n_left_out = 0;  // blocks
  uint64_t n_swapped = 0;                 // that the device chooses and the host does not
  double swapped_apart = 0;               // nat, at most
};

struct Judge {
  uint32_t group_heads = 0;  // query heads per KV head
  uint32_t held_pos = 0;     // before the step
  Judged sums;
};
Judge choice_judge;  // of the device at hand

/// A query's weights of blocks [0, n) as shares of their sum, added up over queries.
std::vector<double> pooled_weights(const DeviceScanArgs& args, const float* scores, uint32_t n) {
  std::vector<double> sum(n, 0);
  for (uint32_t query = 0; query < args.n_queries; ++query) {
    const float* of = scores + query * args.score_stride;
    double all = 0;
    for (uint32_t i = 0; i < n; ++i) all += std::exp(double{of[i]});
    for (uint32_t i = 0; i < n; ++i) sum[i] += std::exp(double{of[i]}) / all;
  }
  return sum;
}

void judge_choice(const DeviceScanArgs& args, const float* of_card, const float* of_host) {
  Judged& sums = choice_judge.sums;
  const uint32_t n_blocks = choice_judge.held_pos / kBlockPositions;
  for (uint32_t query = 0; query < args.n_queries; ++query)
    for (uint32_t i = 0; i < n_blocks; ++i, ++sums.n_scores)
      sums.scores_apart =
          std::max(sums.scores_apart, std::abs(double{of_card[query * args.score_stride + i]} -
                                               double{of_host[query * args.score_stride + i]}));
  const auto chosen = [&](const float* scores) {
    index::Chooser chooser(*cpu_attn::available_kernels().back(), search_setting().rule);
    return chooser
        .choose({.log_weights = {scores, args.n_queries * args.score_stride},
                 .weight_stride = args.score_stride,
                 .n_queries = args.n_queries,
                 .n_blocks = n_blocks,
                 .n_positions = choice_judge.held_pos + args.n_queries / choice_judge.group_heads})
        .blocks;
  };
  const std::vector<uint32_t> by_card = chosen(of_card), by_host = chosen(of_host);
  const std::vector<double> weights = pooled_weights(args, of_host, n_blocks);
  double least = std::numeric_limits<double>::infinity();
  for (const uint32_t block : by_host)  // but for the sink and the window
    if (block > 0 && block + 1 < n_blocks) least = std::min(least, weights[block]);
  for (const uint32_t block : by_card) {
    if (std::ranges::binary_search(by_host, block)) continue;
    ++sums.n_swapped;
    sums.swapped_apart = std::max(sums.swapped_apart, std::log(least / weights[block]));
  }
  EXPECT_EQ(by_card.size(), by_host.size());
  sums.n_chosen += by_card.size();
  sums.n_left_out += n_blocks - by_card.size();
}

/// The emulated device, whose scores are judged; `raised` nat are added to those of odd blocks.
template <int raised>
DeviceTable judging_device() {
  DeviceTable table = gpu_emu::emulated_device();
  table.kernels.scan_codes = [](DeviceStream* stream, const DeviceScanArgs& args) {
    const int number = gpu_emu::emulated_device().kernels.scan_codes(stream, args);
    const uint64_t head_floats = args.n_queries * args.score_stride;
    std::vector<float> of_host(args.n_kv_heads * head_floats);
    DeviceScanArgs as_host = args;
    as_host.block_scores = of_host.data();
    scan_as_host(as_host);
    for (uint64_t i = 1; i < of_host.size(); i += 2)
      args.block_scores[i] += static_cast<float>(raised);
    for (uint64_t head = 0; head < args.n_kv_heads; ++head)
      judge_choice(args, args.block_scores + head * head_floats,
                   of_host.data() + head * head_floats);
    return number;
  };
  return table;
}

/// Of a question and of an answer, token by token.
Judged judged(const char* name, const DeviceTable& device) {
  const LoadedMember member(name);
  const LayerShape& of = member.model.shape().layers.front();
  choice_judge = {.group_heads = of.n_heads / of.n_kv_heads, .held_pos = 0, .sums = {}};
  const auto text = member.text(kSearchTokens, kSearchSeed);
  DeviceRun run(member, search_setting(), 0, device);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kSearchRead));
  while (sequence.n_pos() < text.size()) {
    choice_judge.held_pos = sequence.n_pos();
    const uint32_t n = sequence.n_pos() == kSearchRead ? kDeviceFewRows : 1;
    run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos(), n), 0,
                    Attention::kSelected);
  }
  EXPECT_EQ(run.walk().walk().selection_counts().attended_blocks, choice_judge.sums.n_chosen);
  return choice_judge.sums;
}

TEST(DeviceChoices, DifferFromTheHostsWhereBlocksWeighTheSame) {
  for (const char* name : {"llama3", "qwen3"}) {
    SCOPED_TRACE(name);
    const Judged sums = judged(name, judging_device<0>());
    EXPECT_GT(sums.n_scores, 5'000u);
    EXPECT_LE(sums.scores_apart, kScoresApart);
    EXPECT_GT(sums.scores_apart, 0);
    EXPECT_GT(sums.n_left_out, sums.n_chosen);
    EXPECT_LT(sums.n_swapped, sums.n_chosen / 10);
    EXPECT_LE(sums.swapped_apart, kSwappedApart);
  }
}

/// Nor would the test before pass of a kernel that says otherwise.
TEST(DeviceChoices, AKernelThatFavoursBlocksIsSeen) {
  const Judged sums = judged("llama3", judging_device<1>());
  EXPECT_GT(sums.scores_apart, 10 * kScoresApart);
  EXPECT_GT(sums.n_swapped, sums.n_chosen / 10);
  EXPECT_GT(sums.swapped_apart, kSwappedApart);
}

}  // namespace
}  // namespace strata::engine

// tools/bench_tag.cc - speed of block_tag on one thread beside reading the same blocks once, from
// DRAM and from cache. Every kernel's hash is compared with the others' before anything is timed.
// Why: a tag is checked on every read, so what it may cost is a share of what reading costs.
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include "base/check.h"
#include "base/host_memory.h"
#include "tiers/block_tag.h"
#include "tiers/hash_kernels.h"
#include "tools/cli/sample_statistics.h"
#include "tools/cli/tag_speed.h"

namespace strata {
namespace {

struct Options {
  uint64_t megabytes = 512;  // the working set in DRAM
  uint64_t cached_kibibytes = 256;
  uint32_t repeats = 3;
  bool in_order = false;
  bool hint = true;
  std::string only;
};

using cli::BlockOrder;
using cli::BlockWork;
using cli::Bytes;
using cli::median;

void bench(const std::string& name, const char* place, const BlockOrder& order, uint64_t n_slices,
           const BlockWork& work) {
  const cli::TagTimes times = cli::time_in_turns(order, n_slices, work, cli::sum_of_block);
  const double gbytes = static_cast<double>(order.slice_bytes()) * 1e-9;
  const auto rate = [&](const std::vector<double>& seconds) { return gbytes / median(seconds); };
  const auto ratio = [](const std::vector<double>& of, const std::vector<double>& to) {
    return median(of) / median(to);
  };
  std::printf(
      "%-7s %-5s %4llu KiB   tag %6.1f GB/s (wall %6.1f)   read %6.1f GB/s (wall %6.1f)   time of "
      "tag / read %.2f (wall %.2f)\n",
      name.c_str(), place, static_cast<unsigned long long>(order.block_bytes >> 10),
      rate(times.work.cpu_s), rate(times.work.wall_s), rate(times.read.cpu_s),
      rate(times.read.wall_s), ratio(times.work.cpu_s, times.read.cpu_s),
      ratio(times.work.wall_s, times.read.wall_s));
}

/// All kernels give one value, the block after changes no tag, and the sums see every byte.
void check_answers(const HostMemory& memory) {
  for (const uint64_t n : {uint64_t{4096}, uint64_t{131072}}) {
    const tiers::Hash128 wanted = tiers::hash_bytes({memory.data(), n});
    for (const tiers::HashKernel& kernel : tiers::available_hash_kernels())
      STRATA_CHECK(kernel.hash(memory.data(), n) == wanted, "%s differs", kernel.name);
    const Bytes block(memory.data(), n);
    const Bytes next(memory.data() + 2 * n, n);
    STRATA_CHECK(tiers::block_tag({}, block, next) == tiers::block_tag({}, block),
                 "the block after changes the tag of %llu bytes",
                 static_cast<unsigned long long>(n));
    const uint64_t sum = cli::sum_of_block({memory.data(), n}, {});
    uint64_t plain = 0;
    for (const uint64_t word : memory.as<uint64_t>(n / 8)) plain += word;
    STRATA_CHECK(sum == plain, "a sum of %llu bytes is wrong", static_cast<unsigned long long>(n));
  }
}

void run(const Options& options) {
  const HostMemory memory = HostMemory::reserve(options.megabytes << 20);
  std::mt19937_64 random(1);
  for (uint64_t& word : memory.as<uint64_t>(memory.size() / 8)) word = random();
  check_answers(memory);
  std::printf("blocks %s of %llu MiB (DRAM) and %llu KiB (cache); medians of slices of %llu MiB\n",
              options.in_order ? "in order" : "in random order",
              static_cast<unsigned long long>(options.megabytes),
              static_cast<unsigned long long>(options.cached_kibibytes),
              static_cast<unsigned long long>(BlockOrder::kSliceBytes >> 20));
  std::vector<std::pair<std::string, BlockWork>> rows;
  rows.emplace_back("tag", cli::tag_of_block);
  for (const tiers::HashKernel& kernel : tiers::available_hash_kernels()) {
    rows.emplace_back(kernel.name, [&kernel](Bytes block, Bytes next) {
      tiers::prefetch_next_block(block, next);
      return kernel.hash(block.data(), block.size()).low;
    });
  }
  for (const auto& [name, work] : rows) {
    if (!options.only.empty() && options.only != name) continue;
    for (const uint64_t kibibytes : {4u, 8u, 16u, 128u}) {
      const auto order_of = [&](uint64_t bytes) {
        BlockOrder order =
            BlockOrder::make({memory.data(), bytes}, kibibytes << 10, options.in_order);
        order.hints = options.hint;
        return order;
      };
      const BlockOrder dram = order_of(memory.size());
      bench(name, "DRAM", dram, dram.n_slices() * options.repeats, work);
      bench(name, "cache", order_of(options.cached_kibibytes << 10), 101, work);
    }
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::Options options;
  CLI::App app("Times block tags on one thread beside reading the same bytes once");
  app.add_option("--megabytes", options.megabytes, "working set in DRAM")
      ->check(CLI::Range(16u, 8192u));
  app.add_option("--cached-kibibytes", options.cached_kibibytes, "working set in cache")
      ->check(CLI::Range(128u, 4096u));
  app.add_option("--repeats", options.repeats, "passes over the working set in DRAM")
      ->check(CLI::Range(1u, 100u));
  app.add_option("--only", options.only, "only this row: tag, or the name of a kernel");
  app.add_flag("--in-order", options.in_order, "meet the blocks in the order of their addresses");
  app.add_flag("!--no-hint", options.hint, "do not tell the work the block after");
  CLI11_PARSE(app, argc, argv);
  strata::run(options);
  return 0;
}

#include "tests/gpu_emu/launch.h"

#include <mutex>
#include <numeric>
#include <string>

#include "tests/gpu_emu/sanitizers.h"
#include "tests/gpu_emu/scheduler.h"
#include "tests/gpu_emu/stream_capture.h"

namespace strata::gpu_emu {
namespace {

constexpr uint32_t kGridMax = 65535;  // of y and z; x may be 2^31 - 1
constexpr uint32_t kBlockMax[] = {1024, 1024, 64};

std::mutex one_grid;  // the emulator has one block: grids of several host threads run in turn

void check_launch(const Launch& launch, const EmulatorOptions& options) {
  const auto refuse = [&](const std::string& what) {
    throw EmulatorError(std::string(text_of(launch.where).text) + ": launch: " + what);
  };
  const dim3 grid = launch.grid;
  const uint64_t n_threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  const dim3 size = launch.block;
  if (n_threads == 0 || n_threads > kMaxThreads || size.x > kBlockMax[0] || size.y > kBlockMax[1] ||
      size.z > kBlockMax[2])
    refuse(std::string("a block of ") + text_of({size.x, size.y, size.z}).text + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) refuse("an empty grid");
  if (grid.x > 0x7fffffffu || grid.y > kGridMax || grid.z > kGridMax)
    refuse(std::string("a grid of ") + text_of({grid.x, grid.y, grid.z}).text + " blocks");
  if (launch.shared_bytes > options.shared_max)
    refuse(std::to_string(launch.shared_bytes) + " bytes of shared memory, at most " +
           std::to_string(options.shared_max));
}

/// Which block runs i-th. A card promises no order.
class BlockOrder {
 public:
  BlockOrder(uint64_t n_blocks, const EmulatorOptions& options) : n_(n_blocks) {
    if (options.order == Order::kReverse) {
      step_ = first_ = n_ - 1;
    } else if (options.order == Order::kRandom) {
      first_ = options.seed * 0x9e3779b97f4a7c15u % n_;
      step_ = first_ % (uint64_t{1} << 31);
      while (std::gcd(++step_, n_) != 1) {
      }
    }
  }
  uint64_t operator[](uint64_t i) const { return (first_ + i * step_) % n_; }

 private:
  uint64_t n_;
  uint64_t first_ = 0;
  uint64_t step_ = 1;  // without a common factor with n_, so that no block is met twice
};

void run_grid(const Launch& launch, const EmulatorOptions& options) {
  check_launch(launch, options);
  const std::scoped_lock lock(one_grid);
  release_order(&order_tags.launch_begin);
  block.launch = &launch;
  block.options = &options;
  block.random_state = options.seed * 0x9e3779b97f4a7c15u | 1;
  block.n_threads = launch.block.x * launch.block.y * launch.block.z;
  block.failure.clear();
  blockDim = launch.block;
  gridDim = launch.grid;
  const uint64_t n_blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  const BlockOrder order(n_blocks, options);
  for (uint64_t i = 0; i < n_blocks && block.failure.empty(); ++i) {
    block.ordinal = order[i];
    const uint64_t column = block.ordinal / launch.grid.x;
    blockIdx = {static_cast<unsigned>(block.ordinal % launch.grid.x),
                static_cast<unsigned>(column % launch.grid.y),
                static_cast<unsigned>(column / launch.grid.y)};
    run_block();
  }
  if (!block.failure.empty()) drop_threads();
  acquire_order(&order_tags.launch_end);
  if (!block.failure.empty()) throw EmulatorError(block.failure);
}

}  // namespace

int queue_launch(Queue& queue, Launch launch) {
  if (queue.capture == nullptr) {
    run_grid(launch, queue.options);
  } else {
    check_launch(launch, queue.options);
    queue.capture->add(queue, [options = queue.options, launch = std::move(launch)] {
      run_grid(launch, options);
      return 0;
    });
  }
  return 0;
}

uint64_t n_thread_steps() { return thread_steps; }

}  // namespace strata::gpu_emu

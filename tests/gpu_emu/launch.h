// tests/gpu_emu/launch.h - running a grid on the CPU: one fiber per CUDA thread, blocks one after
// another. Why: the sources of our kernels run in CI, where no card is, and what a card would do
// silently wrong is an error with a file and line here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "tests/gpu_emu/vector_types.h"

// CUDA's own variables: of the thread that runs now.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace strata::gpu_emu {

/// A kernel broke a rule; the text says which, where (file:line) and in which block and thread.
class EmulatorError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Which of the threads that could go on does. A correct kernel gives the same bits in every order.
enum class Order : uint8_t {
  kForward,  // the lowest
  kReverse,  // the highest
  kRandom,   // a warp by chance, a lane of it by chance
};

struct EmulatorOptions {
  Order order = Order::kForward;
  uint64_t seed = 1;                      // of kRandom
  uint32_t static_shared_max = 48 << 10;  // bytes per block, as on every card
  uint32_t shared_max = 99 << 10;  // static and dynamic together: of sm_86, the least we serve
};

/// A kernel and its argument, ready to run any number of times.
struct Launch {
  dim3 grid;
  dim3 block;
  uint32_t shared_bytes;
  std::source_location where;  // of the call of launch()
  void (*call)(void (*kernel)(), const std::byte* args);
  void (*kernel)();
  std::vector<std::byte> args;
};

class Capture;  // stream_capture.h

/// What launch() knows as a stream: work is done at once, or kept while it takes part in a capture.
struct Queue {
  EmulatorOptions options;
  Capture* capture = nullptr;
};

/// Runs the grid or adds it to the capture; 0. Throws EmulatorError.
int queue_launch(Queue& queue, Launch launch);

/// Arrivals of threads at barriers and collectives since the program began.
uint64_t n_thread_steps();

}  // namespace strata::gpu_emu

namespace strata::gpu_attn {

using Stream = gpu_emu::Queue*;

template <class Args>
int launch(void (*kernel)(Args), dim3 grid, dim3 block, uint32_t shared_bytes, Stream stream,
           const Args& args, std::source_location where = std::source_location::current()) {
  static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= 4096);
  gpu_emu::Launch ready{.grid = grid,
                        .block = block,
                        .shared_bytes = shared_bytes,
                        .where = where,
                        .call =
                            [](void (*erased)(), const std::byte* bytes) {
                              Args own;  // every thread has its own, as on a card
                              std::memcpy(&own, bytes, sizeof own);
                              reinterpret_cast<void (*)(Args)>(erased)(own);
                            },
                        .kernel = reinterpret_cast<void (*)()>(kernel),
                        .args = std::vector<std::byte>(sizeof(Args))};
  std::memcpy(ready.args.data(), &args, sizeof args);
  return gpu_emu::queue_launch(*stream, std::move(ready));
}

}  // namespace strata::gpu_attn

// tests/gpu_emu/emulator_orders.h - the orders of threads that tests of kernels go through.
#pragma once

#include "tests/gpu_emu/launch.h"

namespace strata::gpu_emu {

/// Calls body(queue) with queues of each order: forward, backward, and by chance from two seeds.
template <class Body>
void for_each_order(const Body& body) {
  for (const EmulatorOptions& options :
       {EmulatorOptions{.order = Order::kForward}, EmulatorOptions{.order = Order::kReverse},
        EmulatorOptions{.order = Order::kRandom, .seed = 1},
        EmulatorOptions{.order = Order::kRandom, .seed = 2}}) {
    Queue queue{.options = options};
    body(queue);
  }
}

}  // namespace strata::gpu_emu

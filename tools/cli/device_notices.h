// tools/cli/device_notices.h - lines about the device that computes.
#pragma once

#include "engine/engine.h"

namespace strata::cli {

/// What the device is and what its memory will hold; nothing where the CPU computes.
void say_device(const engine::Engine& engine);

}  // namespace strata::cli

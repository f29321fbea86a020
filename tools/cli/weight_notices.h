// tools/cli/weight_notices.h - what verbs say about where weights are and how they were loaded.
#pragma once

#include <cstdint>
#include <string>

#include "engine/engine.h"
#include "tools/cli/notices.h"

namespace strata::cli {

/// The bar of weights that are read; Ctrl-C ends the reading.
class LoadingBar {
 public:
  LoadingBar();
  /// What the reading calls; this object outlives it.
  engine::Model::Progress updates();
  void finish() { progress_.finish(); }

 private:
  Progress progress_;
};

/// ", 3 of them in part"; nothing of none.
std::string in_part_text(uint64_t n_layers);

/// One line where layers are streamed; nothing where all weights stay.
void say_streaming(const engine::Engine& engine);
/// One line: how the weights were read, and what that choice was measured by. Where it was not
/// measured, the user named the way, or it is no matter: then only who is `verbose` says it.
void say_load(const engine::LoadReport& report, bool verbose);

/// One line where steps read layers: bytes since `before`, and the time that it took of the walk.
void say_reads(const engine::Engine& engine, const engine::WeightReadCounts& before = {});

}  // namespace strata::cli

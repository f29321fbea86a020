// tests/gpu_emu/collectives.h - what the lanes of a warp do together: every lane leaves a request
// and waits; the last lane of the mask to arrive computes all answers.
#pragma once

#include <cstdint>
#include <source_location>

namespace strata::gpu_emu {

enum class Collective : uint8_t {
  kSyncWarp,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kAny,
  kAll,
  kAdd,
  kMaxUnsigned,
  kMinUnsigned,
  kMaxSigned,
  kMinSigned,
  kLoadMatrix,
  kLoadMatrixTransposed,
  kMultiply,
  kMultiplyBytes,
};

/// One lane's part; on the lane's stack until it has the answer.
struct Rendezvous {
  Collective kind;
  uint32_t mask;
  std::source_location where;
  uint64_t value = 0;     // what the lane gives: a shuffled value, a vote, a summand
  uint32_t argument = 0;  // source lane, distance or lane mask of a shuffle
  uint32_t width = 32;    // of a shuffle's segments
  uint64_t answer = 0;
  const void* registers_in[2] = {};  // of ldmatrix and mma
  void* registers_out = nullptr;
};

/// Returns when every lane of the mask has arrived and `part` has its answer. An error: a caller
/// that its mask does not name, a lane of the mask that has exited or is at another call, a
/// shuffle from a lane outside the mask.
void meet(Rendezvous& part);

/// Waits for all threads of the block that have not exited; an error where they wait at different
/// source lines.
void block_barrier(std::source_location where);

/// Orders what the thread wrote before it against what another reads after one of its own.
void memory_fence();

}  // namespace strata::gpu_emu

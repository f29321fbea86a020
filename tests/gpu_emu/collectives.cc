#include "tests/gpu_emu/collectives.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "tests/gpu_emu/sanitizers.h"
#include "tests/gpu_emu/scheduler.h"
#include "tests/gpu_emu/tensor_cores.h"

namespace strata::gpu_emu {
namespace {

/// Calls visit(lane, its part) for every lane of the mask, ascending.
template <class Visit>
void for_each_lane(Warp& warp, uint32_t mask, const Visit& visit) {
  for (; mask != 0; mask &= mask - 1) {
    const auto lane = static_cast<uint32_t>(std::countr_zero(mask));
    visit(lane, *warp.rendezvous[lane]);
  }
}

/// The lane that `part` of `lane` reads, by the rules of PTX shfl: up and down stay within the
/// segment or keep the lane's own value.
uint32_t shuffle_source(const Rendezvous& part, uint32_t lane) {
  const uint32_t in_segment = part.width - 1;  // a power of two less one
  const uint32_t first = lane & ~in_segment;
  const uint32_t last = lane | in_segment;
  switch (part.kind) {
    case Collective::kShuffleUp:
      return part.argument <= lane - first ? lane - part.argument : lane;
    case Collective::kShuffleDown:
      return part.argument <= last - lane ? lane + part.argument : lane;
    case Collective::kShuffleXor: {
      const uint32_t source = lane ^ part.argument;
      return source <= last ? source : lane;
    }
    default:
      return first | (part.argument & in_segment);
  }
}

void shuffle(Warp& warp, uint32_t mask) {
  for_each_lane(warp, mask, [&](uint32_t lane, Rendezvous& part) {
    const uint32_t source = shuffle_source(part, lane);
    if ((mask >> source & 1) == 0)
      fail(part.where, "lane %u shuffles from lane %u, which the mask does not name", lane, source);
    part.answer = warp.rendezvous[source]->value;
  });
}

void answer_all(Warp& warp, uint32_t mask, uint64_t answer) {
  for_each_lane(warp, mask, [&](uint32_t, Rendezvous& part) { part.answer = answer; });
}

void vote(Warp& warp, uint32_t mask, Collective kind) {
  uint32_t ballot = 0;
  for_each_lane(warp, mask, [&](uint32_t lane, const Rendezvous& part) {
    if (part.value != 0) ballot |= 1u << lane;
  });
  if (kind == Collective::kBallot) answer_all(warp, mask, ballot);
  if (kind == Collective::kAny) answer_all(warp, mask, ballot != 0);
  if (kind == Collective::kAll) answer_all(warp, mask, ballot == mask);
}

/// Values are 32 bits; signed ones are compared as such.
void reduce(Warp& warp, uint32_t mask, Collective kind) {
  const auto combine = [kind](uint32_t a, uint32_t b) -> uint32_t {
    const auto signed_a = static_cast<int32_t>(a);
    const auto signed_b = static_cast<int32_t>(b);
    switch (kind) {
      case Collective::kMaxUnsigned:
        return std::max(a, b);
      case Collective::kMinUnsigned:
        return std::min(a, b);
      case Collective::kMaxSigned:
        return static_cast<uint32_t>(std::max(signed_a, signed_b));
      case Collective::kMinSigned:
        return static_cast<uint32_t>(std::min(signed_a, signed_b));
      default:
        return a + b;
    }
  };
  bool is_first = true;
  uint32_t all = 0;
  for_each_lane(warp, mask, [&](uint32_t, const Rendezvous& part) {
    const auto value = static_cast<uint32_t>(part.value);
    all = is_first ? value : combine(all, value);
    is_first = false;
  });
  answer_all(warp, mask, all);
}

void compute_answers(Warp& warp, uint32_t mask, Collective kind) {
  switch (kind) {
    case Collective::kSyncWarp:
      return;
    case Collective::kShuffle:
    case Collective::kShuffleUp:
    case Collective::kShuffleDown:
    case Collective::kShuffleXor:
      return shuffle(warp, mask);
    case Collective::kBallot:
    case Collective::kAny:
    case Collective::kAll:
      return vote(warp, mask, kind);
    case Collective::kAdd:
    case Collective::kMaxUnsigned:
    case Collective::kMinUnsigned:
    case Collective::kMaxSigned:
    case Collective::kMinSigned:
      return reduce(warp, mask, kind);
    case Collective::kLoadMatrix:
      return spread_rows(warp, false);
    case Collective::kLoadMatrixTransposed:
      return spread_rows(warp, true);
    case Collective::kMultiply:
      return multiply_registers(warp);
    case Collective::kMultiplyBytes:
      return multiply_byte_registers(warp);
  }
}

bool is_same_call(const Rendezvous& a, const Rendezvous& b) {
  return a.kind == b.kind && a.mask == b.mask && a.where.line() == b.where.line() &&
         a.where.column() == b.where.column() &&
         std::string_view(a.where.file_name()) == b.where.file_name();
}

void check_part(const Warp& warp, const Rendezvous& part) {
  if ((part.mask >> current->lane & 1) == 0)
    fail(part.where, "the mask does not name lane %u, which calls", current->lane);
  if (const uint32_t gone = warp.exited & part.mask; gone != 0)
    fail(part.where, "the mask names lane %d, which has exited or never was",
         std::countr_zero(gone));
  if (part.width == 0 || part.width > kWarpLanes || !std::has_single_bit(part.width))
    fail(part.where, "a shuffle of width %u", part.width);
  if (const uint32_t there = warp.at_collective & part.mask; there != 0) {
    const int other = std::countr_zero(there);
    const Rendezvous& met = *warp.rendezvous[static_cast<uint32_t>(other)];
    if (!is_same_call(part, met))
      fail(part.where, "lane %d, which the mask names, is at %s or has another mask there", other,
           text_of(met.where).text);
  }
}

uint32_t lowest_lane(uint32_t mask) {
  return mask == 0 ? 0 : static_cast<uint32_t>(std::countr_zero(mask));
}

void* sync_tag(uint32_t mask) {
  const uint32_t lane = lowest_lane(mask);
  return &tags_of_block().sync[current->warp_idx][lane][current_warp().n_syncs[lane] % 2];
}

void arrive_at_collective(Rendezvous& part) {
  const Bookkeeping scope;
  ++thread_steps;
  Warp& warp = current_warp();
  check_part(warp, part);
  warp.rendezvous[current->lane] = &part;
  warp.at_collective |= 1u << current->lane;
  make_waiting();
  if ((warp.at_collective & part.mask) != part.mask) return;
  compute_answers(warp, part.mask, part.kind);
  if (part.kind == Collective::kSyncWarp) ++warp.n_syncs[lowest_lane(part.mask)];
  warp.at_collective &= ~part.mask;
  make_runnable(current->warp_idx, part.mask);
}

}  // namespace

void meet(Rendezvous& part) {
  void* tag = nullptr;  // shuffles and votes order no memory: CUDA promises it of __syncwarp() only
  if (part.kind == Collective::kSyncWarp) {
    tag = sync_tag(part.mask);
    release_order(tag);
  }
  arrive_at_collective(part);
  yield();
  if (tag != nullptr) acquire_order(tag);
}

}  // namespace strata::gpu_emu

// tests/gpu_emu/emulator.h - the twin of every name of gpu_attn/gpu.cuh, for compilers that know no
// CUDA. Included by that page where STRATA_GPU_EMULATOR names this file.
#pragma once

#include <bit>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>

#include "base/half.h"
#include "tests/gpu_emu/async_copy.h"
#include "tests/gpu_emu/collectives.h"
#include "tests/gpu_emu/launch.h"
#include "tests/gpu_emu/shared_memory.h"
#include "tests/gpu_emu/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// The struct carries the alignment of the declaration; its address is asked for by a key that every
// instantiation of the kernel has of its own.
#define GPU_SHARED(T, name, ...)                                                          \
  struct name##_in_shared {                                                               \
    T value __VA_ARGS__;                                                                  \
  };                                                                                      \
  static const char name##_key = 0;                                                       \
  auto& name = static_cast<name##_in_shared*>(                                            \
                   ::strata::gpu_emu::shared_array(&name##_key, sizeof(name##_in_shared), \
                                                   alignof(name##_in_shared),             \
                                                   std::source_location::current()))      \
                   ->value
#define GPU_DYN_SHARED(name) unsigned char* const name = ::strata::gpu_emu::dynamic_shared()

// ---- CUDA's own functions.
inline void __syncthreads(std::source_location where = std::source_location::current()) {
  strata::gpu_emu::block_barrier(where);
}

namespace strata::gpu_emu {

using Where = std::source_location;

inline uint64_t meet_for(Collective kind, uint32_t mask, uint64_t value, Where where,
                         uint32_t argument = 0, uint32_t width = 32) {
  Rendezvous part{.kind = kind,
                  .mask = mask,
                  .where = where,
                  .value = value,
                  .argument = argument,
                  .width = width};
  meet(part);
  return part.answer;
}

template <class T>
T shuffle_as(Collective kind, uint32_t mask, T value, uint32_t argument, int width, Where where) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = meet_for(kind, mask, bits, where, argument, static_cast<uint32_t>(width));
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace strata::gpu_emu

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       std::source_location where = std::source_location::current()) {
  strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kSyncWarp, mask, 0, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              std::source_location where = std::source_location::current()) {
  return strata::gpu_emu::shuffle_as(strata::gpu_emu::Collective::kShuffle, mask, value,
                                     static_cast<uint32_t>(source), width, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 std::source_location where = std::source_location::current()) {
  return strata::gpu_emu::shuffle_as(strata::gpu_emu::Collective::kShuffleUp, mask, value, delta,
                                     width, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   std::source_location where = std::source_location::current()) {
  return strata::gpu_emu::shuffle_as(strata::gpu_emu::Collective::kShuffleDown, mask, value, delta,
                                     width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  std::source_location where = std::source_location::current()) {
  return strata::gpu_emu::shuffle_as(strata::gpu_emu::Collective::kShuffleXor, mask, value,
                                     static_cast<uint32_t>(lane_mask), width, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  return static_cast<unsigned>(
      strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kBallot, mask, predicate != 0, where));
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return static_cast<int>(
      strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kAny, mask, predicate != 0, where));
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return static_cast<int>(
      strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kAll, mask, predicate != 0, where));
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value,
                                  std::source_location where = std::source_location::current()) {
  return static_cast<unsigned>(
      strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kAdd, mask, value, where));
}
inline int __reduce_add_sync(unsigned mask, int value,
                             std::source_location where = std::source_location::current()) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value), where));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value,
                                  std::source_location where = std::source_location::current()) {
  return static_cast<unsigned>(
      strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kMaxUnsigned, mask, value, where));
}
inline int __reduce_max_sync(unsigned mask, int value,
                             std::source_location where = std::source_location::current()) {
  return static_cast<int>(strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kMaxSigned, mask,
                                                    static_cast<unsigned>(value), where));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value,
                                  std::source_location where = std::source_location::current()) {
  return static_cast<unsigned>(
      strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kMinUnsigned, mask, value, where));
}
inline int __reduce_min_sync(unsigned mask, int value,
                             std::source_location where = std::source_location::current()) {
  return static_cast<int>(strata::gpu_emu::meet_for(strata::gpu_emu::Collective::kMinSigned, mask,
                                                    static_cast<unsigned>(value), where));
}

// Atomics order nothing but themselves, as on the card.
inline uint32_t atomicAdd(uint32_t* at, uint32_t value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline float atomicAdd(float* at, float value) {
  auto* bits = reinterpret_cast<uint32_t*>(at);
  uint32_t old = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &old,
                                      std::bit_cast<uint32_t>(std::bit_cast<float>(old) + value),
                                      false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return std::bit_cast<float>(old);
}
inline uint32_t atomicMax(uint32_t* at, uint32_t value) {
  uint32_t old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (old < value &&
         !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline void __threadfence() { strata::gpu_emu::memory_fence(); }

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// One function per type, as CUDA has: a mixture of signs is not chosen for the caller.
#define STRATA_GPU_EMU_MIN_MAX(T)                  \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
STRATA_GPU_EMU_MIN_MAX(int)
STRATA_GPU_EMU_MIN_MAX(unsigned)
STRATA_GPU_EMU_MIN_MAX(long)
STRATA_GPU_EMU_MIN_MAX(unsigned long)
STRATA_GPU_EMU_MIN_MAX(long long)
STRATA_GPU_EMU_MIN_MAX(unsigned long long)
#undef STRATA_GPU_EMU_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

namespace strata::gpu_attn {

inline constexpr uint32_t kFullMask = 0xffffffffu;

// ---- Numbers.
inline float f16_to_float(uint16_t bits) { return f16_to_f32(bits); }
inline uint16_t float_to_f16(float value) { return f32_to_f16(value); }
inline float2 f16x2_to_float2(uint32_t bits) {
  return {f16_to_f32(static_cast<uint16_t>(bits)), f16_to_f32(static_cast<uint16_t>(bits >> 16))};
}
inline uint32_t floats_to_f16x2(float low, float high) {
  return f32_to_f16(low) | static_cast<uint32_t>(f32_to_f16(high)) << 16;
}
// Rounded to f32 first, which changes nothing: 24 bits are 2 * 11 + 2, where two roundings are as
// one (Figueroa, When is double rounding innocuous?, 1995).
inline uint32_t floats_to_finite_f16x2(float low, float high) {
  const auto finite = [](float x) { return std::isnan(x) ? x : fminf(fmaxf(x, -65504), 65504); };
  return floats_to_f16x2(finite(low), finite(high));
}
inline uint32_t sub_f16x2(uint32_t a, uint32_t b) {
  const float2 x = f16x2_to_float2(a);
  const float2 y = f16x2_to_float2(b);
  return floats_to_f16x2(x.x - y.x, x.y - y.y);
}
inline uint32_t mul_f16x2(uint32_t a, uint32_t b) {
  const float2 x = f16x2_to_float2(a);
  const float2 y = f16x2_to_float2(b);
  return floats_to_f16x2(x.x * y.x, x.y * y.y);
}
// Double holds a product of f16 and what its rounding leaves.
inline uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
  const float2 x = f16x2_to_float2(a);
  const float2 y = f16x2_to_float2(b);
  const float2 z = f16x2_to_float2(c);
  return floats_to_f16x2(static_cast<float>(double{x.x} * double{y.x} + double{z.x}),
                         static_cast<float>(double{x.y} * double{y.y} + double{z.y}));
}
inline uint32_t negate_f16x2(uint32_t a) { return a ^ 0x80008000u; }
inline float bf16_to_float(uint16_t bits) { return bf16_to_f32(bits); }
inline float bits_to_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t float_to_bits(float value) { return std::bit_cast<uint32_t>(value); }

/// Subnormal arguments and results are zeros, as ftz says.
inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < FLT_MIN ? 0.0f : y;
}
inline float mul_rounded(float a, float b) { return a * b; }
inline int32_t dot4(int32_t a, int32_t b, int32_t c) {
  for (int i = 0; i < 4; ++i)
    c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
inline int32_t dot4_us(uint32_t a, int32_t b, int32_t c) {
  for (int i = 0; i < 4; ++i)
    c += static_cast<uint8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
inline uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t out = 0;
  for (uint32_t i = 0; i < 4; ++i)
    out |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}

// ---- Global memory.
inline uint4 load16_once(const void* from,
                         std::source_location where = std::source_location::current()) {
  gpu_emu::check_global(from, 16, where);
  return *static_cast<const uint4*>(from);
}
inline uint2 load8_once(const void* from,
                        std::source_location where = std::source_location::current()) {
  gpu_emu::check_global(from, 8, where);
  return *static_cast<const uint2*>(from);
}

// ---- Copies into shared memory.
inline void cp_async16(void* shared_to, const void* global_from,
                       std::source_location where = std::source_location::current()) {
  gpu_emu::issue_copy(shared_to, global_from, true, where);
}
inline void cp_async16_or_zero(void* shared_to, const void* global_from, bool is_real,
                               std::source_location where = std::source_location::current()) {
  gpu_emu::issue_copy(shared_to, global_from, is_real, where);
}
inline void cp_async_commit() { gpu_emu::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  gpu_emu::wait_copies(kPending);
}

// ---- Tensor cores.
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                    std::source_location where = std::source_location::current()) {
  gpu_emu::Rendezvous part{.kind = gpu_emu::Collective::kMultiply,
                           .mask = kFullMask,
                           .where = where,
                           .registers_in = {a, b},
                           .registers_out = d};
  gpu_emu::meet(part);
}

inline void mma_u8s8(int32_t (&d)[4], const uint32_t (&a)[2], uint32_t b,
                     std::source_location where = std::source_location::current()) {
  gpu_emu::Rendezvous part{.kind = gpu_emu::Collective::kMultiplyBytes,
                           .mask = kFullMask,
                           .where = where,
                           .registers_in = {a, &b},
                           .registers_out = d};
  gpu_emu::meet(part);
}

/// Every lane reads the row that it names, itself: what another lane wrote there without a
/// __syncwarp() or barrier between is a race.
inline void load_rows(gpu_emu::Collective kind, uint32_t (&r)[4], const void* shared_row,
                      std::source_location where) {
  gpu_emu::check_shared16(shared_row, where);
  const uint4 row = *static_cast<const uint4*>(shared_row);
  gpu_emu::Rendezvous part{
      .kind = kind, .mask = kFullMask, .where = where, .registers_in = {&row}, .registers_out = r};
  gpu_emu::meet(part);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row,
                        std::source_location where = std::source_location::current()) {
  load_rows(gpu_emu::Collective::kLoadMatrix, r, shared_row, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row,
                              std::source_location where = std::source_location::current()) {
  load_rows(gpu_emu::Collective::kLoadMatrixTransposed, r, shared_row, where);
}

}  // namespace strata::gpu_attn

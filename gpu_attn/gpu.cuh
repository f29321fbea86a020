// gpu_attn/gpu.cuh - the part of CUDA that our kernels are written in. Why: the same kernel sources
// are compiled by nvcc for the card, and by g++ and clang for the emulator of the tests
// (tests/gpu_emu), where every name of this page has a twin that checks what it is given. A kernel
// file includes this and no CUDA header.
//
// A kernel is `template <...> __global__ void __launch_bounds__(kThreads) name(const Args args)`,
// launched by launch(). What kernels may use:
//
//   threadIdx, blockIdx, blockDim, gridDim; __device__, __forceinline__; float2, float4, uint2,
//   uint4, int4 and make_*; fmaf, rsqrtf, fmaxf, fminf, fabsf, min, max, expf, log2f, tanhf
//   GPU_SHARED(T, name, [n]...) and GPU_DYN_SHARED(name): shared memory, static and as large as the
//     launch says; both are garbage before they are written (the emulator fills them with NaN). The
//     first is aligned as T is and no better: uint4 for what is moved 16 bytes at a time
//   __syncthreads(), each on a line of its own; __syncwarp(mask)
//   __shfl_sync, __shfl_xor_sync, __shfl_down_sync, __shfl_up_sync, __ballot_sync, __any_sync,
//     __all_sync, __reduce_add_sync, __reduce_max_sync, __reduce_min_sync: explicit masks, and
//     every lane of the mask reaches the same call
//   atomicAdd, atomicMax on uint32_t and atomicAdd on float; __threadfence(), by the writer before
//     the atomic that says so and by the reader after it
//   the functions below
//
// Not: spinning on another block (the emulator runs blocks one after another), grid-wide barriers,
// cooperative groups, textures, clusters, `__constant__` symbols, dynamic parallelism, printf,
// assembly outside this page, local arrays that need a stack.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef STRATA_GPU_EMULATOR
#include STRATA_GPU_EMULATOR  // the twins
#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define GPU_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define GPU_DYN_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace strata::gpu_attn {

using Stream = cudaStream_t;

inline constexpr uint32_t kFullMask = 0xffffffffu;

// ---- Numbers. f16 lies in memory as its 16 bits; two of them in a register as uint32_t, the first
// in the low half.
__device__ __forceinline__ float f16_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ uint16_t float_to_f16(float value) {  // nearest, ties to even
  return __half_as_ushort(__float2half_rn(value));
}
__device__ __forceinline__ float2 f16x2_to_float2(uint32_t bits) {
  __half2 pair;
  memcpy(&pair, &bits, sizeof pair);
  return __half22float2(pair);
}
__device__ __forceinline__ uint32_t floats_to_f16x2(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
/// The same; what is beyond f16 becomes its largest number. NaN stays NaN.
__device__ __forceinline__ uint32_t floats_to_finite_f16x2(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
/// Both halves of a less those of b.
__device__ __forceinline__ uint32_t sub_f16x2(uint32_t a, uint32_t b) {
  __half2 x, y;
  memcpy(&x, &a, sizeof x);
  memcpy(&y, &b, sizeof y);
  const __half2 difference = __hsub2(x, y);
  uint32_t bits;
  memcpy(&bits, &difference, sizeof bits);
  return bits;
}
/// The halves of a times those of b.
__device__ __forceinline__ uint32_t mul_f16x2(uint32_t a, uint32_t b) {
  __half2 x, y;
  memcpy(&x, &a, sizeof x);
  memcpy(&y, &b, sizeof y);
  const __half2 product = __hmul2(x, y);
  uint32_t bits;
  memcpy(&bits, &product, sizeof bits);
  return bits;
}
/// The halves of a times those of b, plus those of c: one rounding.
__device__ __forceinline__ uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
  __half2 x, y, z;
  memcpy(&x, &a, sizeof x);
  memcpy(&y, &b, sizeof y);
  memcpy(&z, &c, sizeof z);
  const __half2 sum = __hfma2(x, y, z);
  uint32_t bits;
  memcpy(&bits, &sum, sizeof bits);
  return bits;
}
__device__ __forceinline__ uint32_t negate_f16x2(uint32_t a) {
  __half2 x;
  memcpy(&x, &a, sizeof x);
  const __half2 negated = __hneg2(x);
  uint32_t bits;
  memcpy(&bits, &negated, sizeof bits);
  return bits;
}
__device__ __forceinline__ float bf16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ __forceinline__ float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t float_to_bits(float value) { return __float_as_uint(value); }
/// 2^x by the card's approximation (2 ulp); -inf gives 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// a * b, rounded before anything is added to it: never part of a fused sum.
__device__ __forceinline__ float mul_rounded(float a, float b) { return __fmul_rn(a, b); }
/// c + the sum over the four signed bytes of a times those of b.
__device__ __forceinline__ int32_t dot4(int32_t a, int32_t b, int32_t c) { return __dp4a(a, b, c); }
/// c + the sum over the four unsigned bytes of a times the signed bytes of b.
__device__ __forceinline__ int32_t dot4_us(uint32_t a, int32_t b, int32_t c) {
  int32_t d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
/// Byte i of the result is byte (selector >> 4 i) & 7 of the eight bytes b:a, a the low four.
__device__ __forceinline__ uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}

// ---- Global memory.
/// 16 bytes that no one reads again soon: they do not displace what does.
__device__ __forceinline__ uint4 load16_once(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
/// The same of 8 bytes.
__device__ __forceinline__ uint2 load8_once(const void* from) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(from));
  return v;
}

// ---- Copies into shared memory that run beside the thread. A thread sees its own copies after the
// wait that covers their group; others see them after a barrier that follows that wait.
__device__ __forceinline__ void cp_async16(void* shared_to, const void* global_from) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared_to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global_from) : "memory");
}
/// 16 zero bytes where !is_real; `global_from` is not read then.
__device__ __forceinline__ void cp_async16_or_zero(void* shared_to, const void* global_from,
                                                   bool is_real) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared_to));
  const int n_bytes = is_real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global_from),
               "r"(n_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- Tensor cores (PTX ISA, mma.m16n8k16 and ldmatrix). Lane l, g = l / 4, t = l % 4.
//   a  [16 x 16]  a[0] = (g, 2t..2t+1)    a[1] = (g + 8, 2t..)
//                 a[2] = (g, 2t + 8..)    a[3] = (g + 8, 2t + 8..)
//   b  [16 x 8]   b[0] = (2t..2t+1, g)  b[1] = (2t + 8.., g)
//   d  [16 x 8]   d[0] = (g, 2t) d[1] = (g, 2t + 1) d[2] = (g + 8, 2t) d[3] = (g + 8, 2t + 1)
/// d += a b in f32, a and b f16.
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// d += a b in integers, a unsigned and b signed bytes, sixteen of them summed over:
///   a  [16 x 16]  a[0] = (g, 4t..4t+3)  a[1] = (g + 8, 4t..)      b  [16 x 8]  (4t..4t+3, g)
__device__ __forceinline__ void mma_u8s8(int32_t (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}
/// Four 8 x 8 matrices of f16 in shared memory; lane l gives the address of row l % 8 of matrix
/// l / 8 (16 bytes, aligned). Register i of lane l holds elements (g, 2t..2t+1) of matrix i.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
/// The same, each matrix transposed: register i of lane l holds elements (2t..2t+1, g).
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}

// ---- Host side.
/// Launches a kernel with one argument. 0, or the error of CUDA.
template <class Args>
int launch(void (*kernel)(Args), dim3 grid, dim3 block, uint32_t shared_bytes, Stream stream,
           const Args& args) {
  if (shared_bytes > 48 * 1024) {
    const auto status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(shared_bytes));
    if (status != cudaSuccess) return static_cast<int>(status);
  }
  void* arguments[] = {const_cast<Args*>(&args)};
  return static_cast<int>(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block,
                                           arguments, shared_bytes, stream));
}

}  // namespace strata::gpu_attn

#endif

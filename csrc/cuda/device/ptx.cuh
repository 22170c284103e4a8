// The PTX instructions that the kernels use, each a function. The emulator has a header of this name in its place.
//
// From sm_80 on. Before it, a copy is carried out at once, and what tensor cores do traps.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cassert>
#include <cstdint>
#include <type_traits>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define FASTALIGN_BEFORE_SM_80 1
#else
#define FASTALIGN_BEFORE_SM_80 0
#endif

namespace fastalign::cuda {

// The same pointer, into global memory: the compiler does not see that of one which was read from shared memory.
template <typename T>
__device__ inline T* in_global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Writes 16 bytes to global memory, aligned to as many: the compiler may split an assignment.
__device__ inline void store_vector(void* global, const uint4& vector) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)), "r"(vector.x),
               "r"(vector.y), "r"(vector.z), "r"(vector.w)
               : "memory");
}

// Starts a copy of 4, 8 or 16 bytes, aligned to as many, into shared memory: the first `source_bytes` from global
// memory, zeros beyond, where nothing is read.
template <int bytes>
__device__ void cp_async(void* shared, const void* global, int source_bytes) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if FASTALIGN_BEFORE_SM_80
  using Word = std::conditional_t<bytes == 16, uint4, std::conditional_t<bytes == 8, uint2, uint32_t>>;
  if (source_bytes == bytes) {
    *static_cast<Word*>(shared) = *static_cast<const Word*>(global);
    return;
  }
  for (int i = 0; i < bytes; ++i) {
    static_cast<unsigned char*>(shared)[i] = i < source_bytes ? static_cast<const unsigned char*>(global)[i] : 0;
  }
#else
  if constexpr (bytes == 16) {  // past the first-level cache: a tile is not read twice from there
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(bytes),
                 "r"(source_bytes)
                 : "memory");
  }
#endif
}

// Closes a group of the copies that this thread has started since the last one.
__device__ inline void cp_async_commit() {
#if !FASTALIGN_BEFORE_SM_80
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's groups but the last `pending`. Other threads see the copies after a barrier.
template <int pending>
__device__ void cp_async_wait() {
#if !FASTALIGN_BEFORE_SM_80
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// Four 8 × 8 matrices of 16-bit elements for a whole warp: lane 8 m + i brings the address of row i of matrix m,
// 16 bytes aligned to as many, and lane l gets elements 2 (l mod 4) and the next of row l div 4 of each.
__device__ inline void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same of the transposed matrices.
__device__ inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a · b by a whole warp: a (16 × 16), b (16 × 8) of bfloat16 or float16 in pairs, d (16 × 8). With g = lane div 4
// and t = lane mod 4, a holds (row g, k 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); b (k 2t, column g),
// (2t + 8, g); d (row g, columns 2t and 2t + 1), (g + 8, the same).
template <typename T>
__device__ void multiply_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>, "of bfloat16 or float16");
#if FASTALIGN_BEFORE_SM_80
  __trap();
#else
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// The same of TF32: a (16 × 8), b (8 × 8). With g and t as above, a holds (row g, k t), (g + 8, t), (g, t + 4),
// (g + 8, t + 4); b (k t, column g), (t + 4, g). The operands' low 13 bits do not count.
__device__ inline void multiply_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if FASTALIGN_BEFORE_SM_80
  __trap();
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The nearest TF32 number, ties away from zero.
__device__ inline uint32_t round_to_tf32(float value) {
  uint32_t rounded = 0;
#if FASTALIGN_BEFORE_SM_80
  __trap();
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
#endif
  return rounded;
}

// Stops the device, as torch's kernels do where an index is none: the message goes to stderr, and every later call of
// CUDA says that a device-side assert was triggered.
__device__ inline void stop_device(const char* message) { __assert_fail(message, __FILE__, __LINE__, "fastalign"); }

}  // namespace fastalign::cuda

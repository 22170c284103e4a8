// Stands in for csrc/cuda/device/ptx.cuh.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "emulator/copies.h"
#include "emulator/tensor_cores.h"

namespace fastalign::cuda {

using emulator::Place;

template <typename T>
T* in_global(T* pointer) {
  return pointer;
}

inline void store_vector(void* global, const uint4& vector) { *static_cast<uint4*>(global) = vector; }

template <int bytes>
void cp_async(void* shared, const void* global, int source_bytes, Place place = Place::current()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulator::start_copy(shared, global, bytes, source_bytes, place);
}

inline void cp_async_commit() { emulator::commit_copies(); }

template <int pending>
void cp_async_wait() {
  static_assert(pending >= 0);
  emulator::wait_for_copies(pending);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* row, Place place = Place::current()) {
  emulator::load_matrices(r, row, false, place);
}

inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row, Place place = Place::current()) {
  emulator::load_matrices(r, row, true, place);
}

template <typename T>
void multiply_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place = Place::current()) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>, "of bfloat16 or float16");
  emulator::multiply(std::is_same_v<T, __half> ? emulator::Operand::float16 : emulator::Operand::bfloat16, d, a, b,
                     place);
}

inline void multiply_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                  Place place = Place::current()) {
  emulator::multiply(emulator::Operand::tf32, d, a, b, place);
}

inline uint32_t round_to_tf32(float value) { return emulator::round_to_tf32(value); }

inline void stop_device(const char* message, Place place = Place::current()) { emulator::stop(message, place); }

}  // namespace fastalign::cuda

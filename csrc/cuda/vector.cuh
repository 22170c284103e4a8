// Several neighbouring elements of memory at once.

#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastalign::cuda {

template <typename T, int count>
struct alignas(sizeof(T) * count) Vector {
  T values[count];
};

// As many elements as one access takes at most.
template <typename T>
constexpr int vector_elements = 16 / sizeof(T);

template <typename V>
__device__ bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % alignof(V) == 0;
}

}  // namespace fastalign::cuda

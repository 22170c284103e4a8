// Several neighbouring elements of memory at once.

#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fastalign::cuda {

template <typename T, int count>
struct alignas(sizeof(T) * count) Vector {
  T values[count];
};

// As many elements as are moved at once at most: in 16 bytes.
template <typename T>
constexpr int vector_elements = 16 / sizeof(T);

// What `count` neighbouring elements are moved in; they are aligned to it.
template <typename T, int count>
using VectorOf = Vector<T, (count < vector_elements<T> ? count : vector_elements<T>)>;

template <int count, typename T>
__device__ void read_neighbours(const T* place, T (&values)[count]) {
  using Part = VectorOf<T, count>;
  constexpr int size = sizeof(Part) / sizeof(T);
#pragma unroll
  for (int i = 0; i < count; i += size) {
    const Part part = *reinterpret_cast<const Part*>(place + i);
#pragma unroll
    for (int j = 0; j < size; ++j) values[i + j] = part.values[j];
  }
}

template <int count, typename T>
__device__ void write_neighbours(T* place, const T (&values)[count]) {
  using Part = VectorOf<T, count>;
  constexpr int size = sizeof(Part) / sizeof(T);
#pragma unroll
  for (int i = 0; i < count; i += size) {
    Part part;
#pragma unroll
    for (int j = 0; j < size; ++j) part.values[j] = values[i + j];
    *reinterpret_cast<Part*>(place + i) = part;
  }
}

template <int count, typename T>
__device__ bool are_aligned(const T* place) {
  return reinterpret_cast<uintptr_t>(place) % sizeof(VectorOf<T, count>) == 0;
}

}  // namespace fastalign::cuda

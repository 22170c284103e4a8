// The difference of two operands' tiles in shared memory.

#pragma once

#include "cuda/device/epilogue.cuh"
#include "cuda/device/tile.cuh"

namespace fastalign::cuda {

// post = h − h_mod, where h is.
template <typename Tile>
__device__ void form_difference(Tile& h, const Tile& modulated) {
  using T = typename Tile::Element;
  constexpr int count = vector_elements<T>, across = Tile::length / count;
#pragma unroll
  for (int i = 0; i < Tile::lines * across / tile_threads; ++i) {
    const int number = static_cast<int>(threadIdx.x) + i * tile_threads;
    const int line = number / across, place = number % across * count;
    T minuend[count], subtrahend[count];
    read_neighbours(&h.line[line][place], minuend);
    read_neighbours(&modulated.line[line][place], subtrahend);
#pragma unroll
    for (int j = 0; j < count; ++j) minuend[j] = T(Wide<T>(minuend[j]) - Wide<T>(subtrahend[j]));
    write_neighbours(&h.line[line][place], minuend);
  }
}

}  // namespace fastalign::cuda

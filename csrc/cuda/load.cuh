// From a matrix in global memory to an operand's tile in shared memory.

#pragma once

#include "cuda/tile.cuh"

namespace fastalign::cuda {

// `load(tile, first, end)` starts to copy the places [first, first + tile_step) of the sum, for the matrix's rows from
// `first_row` on; what lies beyond its rows, or from `end` ≤ its sums on, becomes zero.
template <typename Tile>
class MatrixLoader {
 public:
  using T = typename Tile::Element;

  __device__ MatrixLoader(const Operand& matrix, int64_t first_row)
      : data_(static_cast<const T*>(matrix.data) + first_row * matrix.row_stride),
        rows_(matrix.rows - first_row),
        row_stride_(matrix.row_stride),
        sum_stride_(matrix.sum_stride),
        vectors_(matrix.vectors) {}

  __device__ void operator()(Tile& tile, int64_t first, int64_t end) const {
    const T* const source = data_ + first * sum_stride_;
    if (vectors_) {
      load_vectors(tile, source, end - first);
    } else {
      load_elements(tile, source, end - first);
    }
  }

 private:
  __device__ void load_vectors(Tile& tile, const T* source, int64_t sums) const {
    constexpr int across = Tile::length / vector_size<T>;
#pragma unroll
    for (int i = 0; i < Tile::lines * across / tile_threads; ++i) {
      const int number = static_cast<int>(threadIdx.x) + i * tile_threads;
      const int line = number / across;
      const int place = number % across * vector_size<T>;
      const bool along_sum = Tile::order == Order::along_sum;
      const bool inside = line < (along_sum ? rows_ : sums);
      const int64_t left = (along_sum ? sums : rows_) - place;
      const int elements = inside ? static_cast<int>(max(int64_t(0), min(int64_t(vector_size<T>), left))) : 0;
      const int64_t offset = line * (along_sum ? row_stride_ : sum_stride_) + place;
      cp_async<16>(&tile.line[line][place], elements > 0 ? source + offset : data_, elements * int(sizeof(T)));
    }
  }

  // Of any strides: neighbouring threads read what lies closest together.
  __device__ void load_elements(Tile& tile, const T* source, int64_t sums) const {
    const bool along_sum = sum_stride_ <= row_stride_;
    const int across = along_sum ? tile_step<T> : tile_size;
#pragma unroll 4
    for (int i = 0; i < tile_size * tile_step<T> / tile_threads; ++i) {
      const int number = static_cast<int>(threadIdx.x) + i * tile_threads;
      const int row = along_sum ? number / across : number % across;
      const int k = along_sum ? number % across : number / across;
      const bool inside = row < rows_ && k < sums;
      const T* const element = inside ? source + row * row_stride_ + k * sum_stride_ : data_;
      if constexpr (sizeof(T) >= 4) {
        cp_async<sizeof(T)>(&tile.at(row, k), element, inside ? int(sizeof(T)) : 0);
      } else {
        tile.at(row, k) = inside ? *element : T(0.0f);
      }
    }
  }

  const T* data_;
  int64_t rows_, row_stride_, sum_stride_;
  bool vectors_;
};

}  // namespace fastalign::cuda

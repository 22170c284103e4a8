// From a matrix in global memory to an operand's tile in shared memory.

#pragma once

#include "cuda/device/tile.cuh"

namespace fastalign::cuda {

// Before sm_80 a copy waits in registers, of which float64 has none to spare.
#if FASTALIGN_BEFORE_SM_80
constexpr int copies_at_once = 1;
#else
constexpr int copies_at_once = 4;
#endif

// `load(tile, first, end)` starts to copy the places [first, first + tile_step) of the sum, for the matrix's rows from
// `first_row` on; what lies beyond its rows, or from `end` ≤ its sums on, becomes zero.
template <typename Tile>
class MatrixLoader {
 public:
  using T = typename Tile::Element;

  __device__ MatrixLoader(const Operand& matrix, int64_t first_row)
      : source_(static_cast<const T*>(matrix.data) + first_row * matrix.row_stride),
        row_stride_(matrix.row_stride),
        sum_stride_(matrix.sum_stride),
        rows_(static_cast<int>(min(int64_t(tile_size), matrix.rows - first_row))),
        vectors_(matrix.vectors),
        line_(static_cast<int>(threadIdx.x) / across),
        place_(static_cast<int>(threadIdx.x) % across * vector_elements<T>),
        vector_(source_ + line_ * line_stride() + place_) {}

  __device__ void operator()(Tile& tile, int64_t first, int64_t end) const {
    const int sums = static_cast<int>(min(int64_t(tile_step<T>), end - first));
    if (vectors_) {
      load_vectors(tile, vector_ + (along_sum ? first : first * sum_stride_), sums);
    } else {
      load_elements(tile, source_ + first * sum_stride_, sums);
    }
  }

 private:
  static constexpr bool along_sum = Tile::order == Order::along_sum;
  static constexpr int across = Tile::length / vector_elements<T>;  // vectors in a line
  static constexpr int apart = tile_threads / across;               // lines from one of a thread's vectors to the next

  __device__ int64_t line_stride() const { return along_sum ? row_stride_ : sum_stride_; }

  __device__ void load_vectors(Tile& tile, const T* vector, int sums) const {
    const int lines = along_sum ? rows_ : sums;
    const int length = along_sum ? sums : rows_;
    const int bytes = max(0, min(vector_elements<T>, length - place_)) * static_cast<int>(sizeof(T));
#pragma unroll copies_at_once
    for (int i = 0; i < Tile::lines; i += apart) {
      cp_async<16>(&tile.line[line_ + i][place_], vector + i * line_stride(), line_ + i < lines ? bytes : 0);
    }
  }

  // Of any strides: neighbouring threads read what lies closest together.
  __device__ void load_elements(Tile& tile, const T* source, int sums) const {
    const bool rows_first = row_stride_ < sum_stride_;
#pragma unroll copies_at_once
    for (int i = 0; i < tile_size * tile_step<T> / tile_threads; ++i) {
      const int number = static_cast<int>(threadIdx.x) + i * tile_threads;
      const int row = rows_first ? number % tile_size : number / tile_step<T>;
      const int k = rows_first ? number / tile_size : number % tile_step<T>;
      const bool inside = row < rows_ && k < sums;
      const T* const element = source + row * row_stride_ + k * sum_stride_;
      if constexpr (sizeof(T) >= 4) {
        cp_async<sizeof(T)>(&tile.at(row, k), element, inside ? int(sizeof(T)) : 0);
      } else {
        tile.at(row, k) = inside ? *element : T(0.0f);
      }
    }
  }

  const T* source_;
  int64_t row_stride_, sum_stride_;
  int rows_;
  bool vectors_;
  int line_, place_;  // of this thread's first vector
  const T* vector_;
};

}  // namespace fastalign::cuda

// From the operands' tiles in shared memory to sums in registers, 32 for each thread: by tensor cores, or by fused
// multiplications and additions, for float64 and float32 and before sm_80 for every dtype.

#pragma once

#include "common/elementary.h"
#include "cuda/device/tile.cuh"

namespace fastalign::cuda {

template <Arithmetic arithmetic>
struct TypesOf;
template <>
struct TypesOf<Arithmetic::float64> {
  using Element = double;
  using Sum = double;
};
template <>
struct TypesOf<Arithmetic::float32> {
  using Element = float;
  using Sum = float;
};
template <>
struct TypesOf<Arithmetic::tf32> : TypesOf<Arithmetic::float32> {};
template <>
struct TypesOf<Arithmetic::bfloat16> {
  using Element = __nv_bfloat16;
  using Sum = float;
};
template <>
struct TypesOf<Arithmetic::float16> {
  using Element = __half;
  using Sum = float;
};

template <Arithmetic arithmetic>
using Element = typename TypesOf<arithmetic>::Element;
template <Arithmetic arithmetic>
using Sum = typename TypesOf<arithmetic>::Sum;

// The upper left corner of a warp's part of the tile.
__device__ inline int warp_row() { return static_cast<int>(threadIdx.x) / 64 * 32; }
__device__ inline int warp_column() { return static_cast<int>(threadIdx.x) / 32 % 2 * 32; }
__device__ inline int lane() { return static_cast<int>(threadIdx.x) % 32; }

// Sums of products by FMA: a thread has those of 8 rows and 4 columns, a warp 4 × 8 such threads. A step is summed by
// itself first, so that the error of a long sum grows with the number of steps, not of its terms.
template <Arithmetic arithmetic, typename Left, typename Right>
class FmaSums {
 public:
  using Sum = cuda::Sum<arithmetic>;

  __device__ void add(const Left& left, const Right& right) {
    Sum step[rows][columns] = {};
#pragma unroll unrolled
    for (int k = 0; k < tile_step<T>; k += group) {
      Sum l[group][rows];
      Sum r[group][columns];
      read<rows, threads_down>(l, left, warp_row(), lane() / threads_across, k);
      read<columns, threads_across>(r, right, warp_column(), lane() % threads_across, k);
#pragma unroll
      for (int g = 0; g < group; ++g) {
#pragma unroll
        for (int i = 0; i < rows; ++i) {
#pragma unroll
          for (int j = 0; j < columns; ++j) step[i][j] = fma(l[g][i], r[g][j], step[i][j]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < columns; ++j) sum_[i][j] += step[i][j];
    }
  }

  // Adds other sums: a long one is as exact as its parts are short.
  __device__ void add(const FmaSums& other) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < columns; ++j) sum_[i][j] += other.sum_[i][j];
    }
  }

  __device__ void store(ResultTile<Sum>& results) const {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        const int row = warp_row() + place<Left, threads_down>(lane() / threads_across, i);
        const int column = warp_column() + place<Right, threads_across>(lane() % threads_across, j);
        results.value[row][column] = sum_[i][j];
      }
    }
  }

 private:
  using T = Element<arithmetic>;
  static constexpr int rows = 8, columns = 4;
  static constexpr int threads_down = 4, threads_across = 8;
  static constexpr int group = sizeof(T) == 8 ? 2 : 4;         // elements that a thread reads at once
  static constexpr int unrolled = sizeof(T) == 8 ? 1 : group;  // groups: float64 has no registers for more

  using Group = Vector<T, group>;

  // Number i of a thread's rows or columns. Those of an operand along the sum are a few apart, so that neighbouring
  // threads read neighbouring lines; those along the result stand together in groups.
  template <typename Tile, int threads>
  static __device__ int place(int thread, int i) {
    if (Tile::order == Order::along_sum) return thread + i * threads;
    return (i / group * threads + thread) * group + i % group;
  }

  template <int number, int threads, typename Tile>
  static __device__ void read(Sum (&values)[group][number], const Tile& tile, int first, int thread, int k) {
    if constexpr (Tile::order == Order::along_sum) {
#pragma unroll
      for (int i = 0; i < number; ++i) {
        const Group read = *reinterpret_cast<const Group*>(&tile.line[first + place<Tile, threads>(thread, i)][k]);
#pragma unroll
        for (int g = 0; g < group; ++g) values[g][i] = Sum(read.values[g]);
      }
    } else {
#pragma unroll
      for (int g = 0; g < group; ++g) {
#pragma unroll
        for (int i = 0; i < number; i += group) {
          const Group read =
              *reinterpret_cast<const Group*>(&tile.line[k + g][first + place<Tile, threads>(thread, i)]);
#pragma unroll
          for (int j = 0; j < group; ++j) values[g][i + j] = Sum(read.values[j]);
        }
      }
    }
  }

  Sum sum_[rows][columns] = {};
};

// Sums of products by the matrix instruction: a warp has those of 2 × 4 matrices of 16 × 8.
template <Arithmetic arithmetic, typename Left, typename Right>
class TensorCoreSums {
 public:
  using Sum = float;

  __device__ void add(const Left& left, const Right& right) {
#pragma unroll
    for (int k = 0; k < tile_step<T>; k += depth) {
      uint32_t l[down][4];
      uint32_t r[across][4];
#pragma unroll
      for (int i = 0; i < down; ++i) read<1, 2>(l[i], left, warp_row() + 16 * i, k);
#pragma unroll
      for (int j = 0; j < across; ++j) read<2, 1>(r[j], right, warp_column() + 16 * j, k);
#pragma unroll
      for (int i = 0; i < down; ++i) {
#pragma unroll
        for (int j = 0; j < 2 * across; ++j) {
          const uint32_t half[2] = {r[j / 2][j % 2 * 2], r[j / 2][j % 2 * 2 + 1]};
          if constexpr (arithmetic == Arithmetic::tf32) {
            multiply_m16n8k8_tf32(sum_[i][j], l[i], half);
          } else {
            multiply_m16n8k16<T>(sum_[i][j], l[i], half);
          }
        }
      }
    }
  }

  __device__ void store(ResultTile<Sum>& results) const {
#pragma unroll
    for (int i = 0; i < down; ++i) {
#pragma unroll
      for (int j = 0; j < 2 * across; ++j) {
        const int row = warp_row() + 16 * i + lane() / 4;
        const int column = warp_column() + 8 * j + lane() % 4 * 2;
        *reinterpret_cast<float2*>(&results.value[row][column]) = make_float2(sum_[i][j][0], sum_[i][j][1]);
        *reinterpret_cast<float2*>(&results.value[row + 8][column]) = make_float2(sum_[i][j][2], sum_[i][j][3]);
      }
    }
  }

 private:
  using T = Element<arithmetic>;
  static constexpr int down = 2, across = 2;    // blocks of 16 rows, and of 16 columns
  static constexpr int depth = 32 / sizeof(T);  // places of the sum in a block: two pieces of 16 bytes

  // A block of 16 rows and two pieces of 16 bytes, in quarters: number q is of the lower 8 rows where q / lower is odd,
  // and of the second piece where q / second is. The instruction's left operand alternates rows first; two of its right
  // operands, of 8 rows each, stand one after the other in a block that alternates pieces first.
  template <int lower, int second, typename Tile>
  static __device__ void read(uint32_t (&block)[4], const Tile& tile, int row, int k) {
    if constexpr (Tile::order == Order::along_result && arithmetic == Arithmetic::tf32) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const float& value = tile.line[k + lane() % 4 + q / second % 2 * 4][row + lane() / 4 + q / lower % 2 * 8];
        block[q] = round_to_tf32(value);
      }
      return;
    }
    const int quarter = lane() / 8;  // that this lane brings a line of
    const int lower_row = row + quarter / lower % 2 * 8;
    const int piece = k + quarter / second % 2 * (depth / 2);
    if constexpr (Tile::order == Order::along_sum) {
      load_matrix_x4(block, &tile.line[lower_row + lane() % 8][piece]);
    } else {
      load_matrix_x4_transposed(block, &tile.line[piece + lane() % 8][lower_row]);
    }
    if constexpr (arithmetic == Arithmetic::tf32) {
#pragma unroll
      for (int q = 0; q < 4; ++q) block[q] = round_to_tf32(common::float_of(block[q]));
    }
  }

  float sum_[down][2 * across][4] = {};
};

constexpr bool has_matrix_instruction([[maybe_unused]] Arithmetic arithmetic) {
#if FASTALIGN_BEFORE_SM_80
  return false;
#else
  return arithmetic != Arithmetic::float64 && arithmetic != Arithmetic::float32;
#endif
}

template <Arithmetic arithmetic, typename Left, typename Right>
using TileSums = std::conditional_t<has_matrix_instruction(arithmetic), TensorCoreSums<arithmetic, Left, Right>,
                                    FmaSums<arithmetic, Left, Right>>;

}  // namespace fastalign::cuda

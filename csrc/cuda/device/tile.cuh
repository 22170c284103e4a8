// A block's part of a matrix product: one tile of the result, summed in steps over tiles of the operands, which are
// copied into shared memory a few steps ahead.
//
// A kernel that computes result(m, n) = Σ_k left(m, k) right(n, k), left contiguous along k and right along n:
//
//   template <Arithmetic arithmetic>
//   __global__ void __launch_bounds__(tile_threads, 2) kernel(const Operand left, const Operand right, …) {
//     using T = Element<arithmetic>;
//     using Left = OperandTile<T, Order::along_sum>;
//     using Right = OperandTile<T, Order::along_result>;
//     struct Stage {  // what one step reads
//       Left left;
//       Right right;
//     };
//     using Sums = TileSums<arithmetic, Left, Right>;
//     auto& memory = *dynamic_shared_memory<TileMemory<Stage, Sums>>();
//
//     const MatrixLoader<Left> load_left(left, first_row);  // the operand's rows from there on
//     const MatrixLoader<Right> load_right(right, first_column);
//     Sums sums;
//     const auto load = [&](Stage& stage, int64_t step) {  // starts copies, ahead of time
//       load_left(stage.left, step * tile_step<T>, left.sums);
//       load_right(stage.right, step * tile_step<T>, left.sums);
//     };
//     const auto multiply = [&](const Stage& stage) { sums.add(stage.left, stage.right); };
//     sum_steps(memory, steps_of<T>(left.sums), load, NothingToForm(), multiply);
//     visit_results<4>(memory, sums, [&](int row, int column, const Sum<arithmetic> (&values)[4]) {
//       …  // four values side by side, at a place in the tile
//     });
//   }
//
// It is launched with tile_threads and sizeof(TileMemory<Stage, Sums>) bytes of dynamic shared memory. In the place of
// NothingToForm, `form(stage)` makes of what was loaded the operand that is multiplied, in place: a barrier stands
// before and after it. A split sums over a part of k, from a multiple of tile_step to an end of its own. Any other way
// of filling an OperandTile serves too, by cp_async or plain stores. A block that goes on to another tile puts a
// barrier in between.

#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/device/ptx.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/ops/operand.h"

namespace fastalign::cuda {

constexpr int tile_size = 64;      // rows and columns of the result's tile
constexpr int tile_threads = 128;  // four warps, of 32 × 32 each
constexpr int tile_stages = 3;     // steps in shared memory: one is multiplied while the others arrive

// Places of the sum in a step: 64 bytes, so that every dtype's tile takes the same memory and the same copies.
template <typename T>
constexpr int tile_step = 64 / sizeof(T);

template <typename T>
__host__ __device__ constexpr int64_t steps_of(int64_t sums) {
  return (sums + tile_step<T> - 1) / tile_step<T>;
}

// A step of an operand in shared memory, in the order in which it lies in global memory. Lines are padded so that the
// 16-byte pieces of eight of them, one below the other, lie in different banks; those along the result by 8 elements,
// so that 8 elements of four of them do too.
template <typename T, Order order_>
struct alignas(16) OperandTile {
  using Element = T;
  static constexpr Order order = order_;
  static constexpr int lines = order == Order::along_sum ? tile_size : tile_step<T>;
  static constexpr int length = order == Order::along_sum ? tile_step<T> : tile_size;

  __device__ T& at(int row, int k) { return order == Order::along_sum ? line[row][k] : line[k][row]; }
  __device__ const T& at(int row, int k) const { return order == Order::along_sum ? line[row][k] : line[k][row]; }

  T line[lines][length + (order == Order::along_sum ? vector_elements<T> : 8)];
};

// A tile of results in shared memory, from where threads take them side by side.
template <typename T>
struct alignas(16) ResultTile {
  T value[tile_size][tile_size + 8];
};

// The dynamic shared memory of a kernel; results take the place of the stages when those are done with.
template <typename Stage_, typename Sums, int stages_ = tile_stages>
union TileMemory {
  using Stage = Stage_;
  using Sum = typename Sums::Sum;
  static constexpr int stages = stages_;
  Stage stage[stages];
  ResultTile<Sum> results;
};

struct NothingToForm {};

// Copies, forms and multiplies: `load(stage, step)` some steps ahead, `form(stage)` and `multiply(stage)` in order.
template <typename Memory, typename Load, typename Form, typename Multiply>
__device__ void sum_steps(Memory& memory, int64_t steps, const Load& load, const Form& form, const Multiply& multiply) {
  constexpr int ahead = Memory::stages - 1;
  for (int step = 0; step < ahead; ++step) {
    if (step < steps) load(memory.stage[step], int64_t(step));
    cp_async_commit();
  }
  int current = 0;
  int next = ahead;
  for (int64_t step = 0; step < steps; ++step) {
    cp_async_wait<ahead - 1>();
    __syncthreads();  // everybody's copies of this step are there, and the stage to be loaded was multiplied
    if (step + ahead < steps) load(memory.stage[next], step + ahead);
    cp_async_commit();
    if constexpr (!std::is_same_v<Form, NothingToForm>) {
      form(memory.stage[current]);
      __syncthreads();
    }
    multiply(memory.stage[current]);
    current = current + 1 == Memory::stages ? 0 : current + 1;
    next = next + 1 == Memory::stages ? 0 : next + 1;
  }
}

// Puts the sums side by side in shared memory, so that what is made of them is in the code once and reaches memory in
// whole vectors.
template <typename Memory, typename Sums>
__device__ void share_results(Memory& memory, const Sums& sums) {
  __syncthreads();  // the last step was multiplied
  sums.store(memory.results);
  __syncthreads();
}

// Calls `visit(row, column, values)` for `width` results side by side at a time, each thread for its part of the tile.
template <int width, typename Memory, typename Visit>
__device__ void visit_shared_results(const Memory& memory, const Visit& visit) {
  constexpr int across = tile_size / width;
#pragma unroll 1
  for (int i = threadIdx.x; i < tile_size * across; i += tile_threads) {
    const int row = i / across;
    const int column = i % across * width;
    typename Memory::Sum values[width];
#pragma unroll
    for (int j = 0; j < width; ++j) values[j] = memory.results.value[row][column + j];
    visit(row, column, values);
  }
}

template <int width, typename Memory, typename Sums, typename Visit>
__device__ void visit_results(Memory& memory, const Sums& sums, const Visit& visit) {
  share_results(memory, sums);
  visit_shared_results<width>(memory, visit);
}

}  // namespace fastalign::cuda

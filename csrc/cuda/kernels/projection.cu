#include "cuda/kernels/projection.h"

#include "cuda/device/dynamic_shared.cuh"
#include "cuda/device/epilogue.cuh"
#include "cuda/device/jobs.cuh"
#include "cuda/device/ptx.cuh"

namespace fastalign::cuda {

namespace {

constexpr int threads = 256;
constexpr int warp_size = 32;
constexpr int part = 32;  // classes that are in shared memory at a time

// A block makes a tile of as many columns as a warp moves at once, and as many rows as make it 16 KiB of the operand
// and 16 KiB of the result. These are moved once; beside them a block reads 160 or 192 elements a class: at 10 classes
// 6.4 kB of float32, which the cache has, for 32.8 kB of memory.
template <typename T>
constexpr int tile_columns = warp_size * 16 / sizeof(Wide<T>);
template <typename T>
constexpr int tile_rows = (16 << 10) / (tile_columns<T> * sizeof(T));

struct ProjectionJob {
  int64_t first_block{};
  const void* signal{};
  const void* matrix{};
  int64_t signal_strides[2]{}, matrix_strides[2]{};
  int64_t classes{};
  int64_t vectors{};  // whether the epilogue takes them
  ResultEpilogue epilogue{};
};

// Columns of a matrix, a line for each class, padded so that neighbouring classes lie four banks apart.
template <typename W, int columns>
struct alignas(16) Strip {
  W line[part][columns + 16 / sizeof(W)];
};

template <typename T>
struct Memory {
  union {
    struct {
      Strip<Wide<T>, tile_rows<T>> signal;
      Strip<Wide<T>, tile_columns<T>> matrix;
    };
    alignas(16) Wide<T> sums[tile_rows<T>][tile_columns<T>];
  };
  uint4 operand[tile_rows<T> * tile_columns<T> / vector_elements<T>];
  JobWords<ProjectionJob> job;
};

// Fills a strip from a matrix (columns, classes). Eight threads take neighbouring classes and the four such groups of a
// warp neighbouring columns: no two write to one bank, and in both orders of the matrix whole sectors are read.
template <typename T, typename W, int columns>
__device__ void fill(Strip<W, columns>& strip, const T* matrix, const int64_t (&strides)[2], int64_t valid,
                     int classes) {
  constexpr int side_by_side = 8, step = threads / side_by_side;
  const int first = threadIdx.x / side_by_side;
  for (int c = threadIdx.x % side_by_side; c < classes; c += side_by_side) {
    W values[columns / step];
#pragma unroll
    for (int i = 0; i < columns / step; ++i) {
      const int column = first + i * step;
      values[i] = column < valid ? W(matrix[column * strides[0] + c * strides[1]]) : W(0);
    }
#pragma unroll
    for (int i = 0; i < columns / step; ++i) strip.line[c][first + i * step] = values[i];
  }
}

template <typename T>
__global__ void __launch_bounds__(threads, 3) projection_kernel(const __grid_constant__ Jobs<ProjectionJob> jobs) {
  using W = Wide<T>;
  constexpr int columns = tile_columns<T>, rows = tile_rows<T>, vectors = columns / vector_elements<T>;
  constexpr int thread_columns = columns / warp_size, thread_rows = rows * warp_size / threads;
  auto& memory = *dynamic_shared_memory<Memory<T>>();
  const ProjectionJob& job = jobs.of_block(blockIdx.x, memory.job);
  const ResultEpilogue& epilogue = job.epilogue;
  const int64_t across = (epilogue.columns + columns - 1) / columns;
  const int64_t first_row = (blockIdx.x - job.first_block) / across * rows;
  const int64_t first_column = (blockIdx.x - job.first_block) % across * columns;
  const int64_t rows_left = epilogue.rows - first_row, columns_left = epilogue.columns - first_column;

  // The operand comes while the sums are taken.
  if (job.vectors && epilogue.operand != nullptr) {
    for (int i = threadIdx.x; i < rows * vectors; i += threads) {
      const int row = i / vectors, column = i % vectors * vector_elements<T>;
      if (row >= rows_left || column >= columns_left) continue;
      cp_async<16>(&memory.operand[i], operand_address<T>(epilogue, first_row + row, first_column + column), 16);
    }
    cp_async_commit();
  }

  constexpr int classes_at_once = thread_rows > 4 ? 1 : 2;  // as the registers allow
  W sums[thread_rows][thread_columns] = {};
  const int thread_row = threadIdx.x / warp_size * thread_rows,
            thread_column = threadIdx.x % warp_size * thread_columns;
  for (int64_t first = 0; first < job.classes; first += part) {
    const int classes = static_cast<int>(min(int64_t(part), job.classes - first));
    const T* signal = static_cast<const T*>(job.signal) + first_row * job.signal_strides[0];
    const T* matrix = static_cast<const T*>(job.matrix) + first_column * job.matrix_strides[0];
    __syncthreads();
    fill(memory.signal, signal + first * job.signal_strides[1], job.signal_strides, rows_left, classes);
    fill(memory.matrix, matrix + first * job.matrix_strides[1], job.matrix_strides, columns_left, classes);
    __syncthreads();
    const auto add_to = [&](W(&to)[thread_rows][thread_columns]) {
#pragma unroll classes_at_once
      for (int c = 0; c < classes; ++c) {
        W s[thread_rows], m[thread_columns];
        read_neighbours<thread_rows>(&memory.signal.line[c][thread_row], s);
        read_neighbours<thread_columns>(&memory.matrix.line[c][thread_column], m);
#pragma unroll
        for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
          for (int j = 0; j < thread_columns; ++j) to[i][j] += s[i] * m[j];
        }
      }
    };
    // Long sums are taken in parts, which keeps their rounding errors small: not worth registers to 16-bit results.
    if constexpr (sizeof(T) == 2) {
      add_to(sums);
    } else {
      W part_sums[thread_rows][thread_columns] = {};
      add_to(part_sums);
#pragma unroll
      for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
        for (int j = 0; j < thread_columns; ++j) sums[i][j] += part_sums[i][j];
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < thread_rows; ++i) {
    write_neighbours<thread_columns>(&memory.sums[thread_row + i][thread_column], sums[i]);
  }
  cp_async_wait<0>();
  __syncthreads();

  if (job.vectors) {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * vectors; i += threads) {
      const int row = i / vectors, column = i % vectors * vector_elements<T>;
      if (row >= rows_left || column >= columns_left) continue;
      W values[vector_elements<T>];
      read_neighbours<vector_elements<T>>(&memory.sums[row][column], values);
      finish<T>(epilogue, first_row + row, first_column + column, values, memory.operand[i]);
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += threads) {
      const int row = i / columns, column = i % columns;
      if (row >= rows_left || column >= columns_left) continue;
      finish<T>(epilogue, first_row + row, first_column + column, memory.sums[row][column]);
    }
  }
}

template <typename T>
void run(Device& device, const std::vector<Projection>& projections) {
  constexpr int64_t rows_of_tile = tile_rows<T>, columns_of_tile = tile_columns<T>;
  std::vector<ProjectionJob> jobs;
  for (const Projection& p : projections) {
    if (p.epilogue.rows == 0 || p.epilogue.columns == 0) continue;
    jobs.push_back({.signal = p.signal.data,
                    .matrix = p.matrix.data,
                    .signal_strides = {p.signal.strides[0], p.signal.strides[1]},
                    .matrix_strides = {p.matrix.strides[0], p.matrix.strides[1]},
                    .classes = p.signal.sizes[1],
                    .vectors = takes_vectors<T>(p.epilogue),
                    .epilogue = p.epilogue});
  }
  const auto blocks_of = [](const ProjectionJob& job) {
    const int64_t rows = job.epilogue.rows, columns = job.epilogue.columns;
    return (rows + rows_of_tile - 1) / rows_of_tile * ((columns + columns_of_tile - 1) / columns_of_tile);
  };
  launch_jobs(projection_kernel<T>, jobs, blocks_of, threads, sizeof(Memory<T>), device.stream);
}

}  // namespace

void project(Device& device, const std::vector<Projection>& projections) {
  if (projections.empty()) return;
  switch (projections.front().signal.dtype) {
    case Dtype::float64:
      return run<double>(device, projections);
    case Dtype::float32:
      return run<float>(device, projections);
    case Dtype::bfloat16:
      return run<__nv_bfloat16>(device, projections);
    case Dtype::float16:
      return run<__half>(device, projections);
  }
}

}  // namespace fastalign::cuda

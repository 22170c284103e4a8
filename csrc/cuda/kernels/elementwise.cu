#include "cuda/kernels/elementwise.h"

#include <algorithm>

#include "cuda/device/epilogue.cuh"
#include "cuda/device/launch.cuh"

namespace fastalign::cuda {

namespace {

constexpr int threads = 256;

struct Elementwise {
  const void* values{};
  int64_t strides[4]{};
  bool vectors{};
  ResultEpilogue epilogue{};
};

// Of a multiprocessor at the least: with more of float64 registers are spilled, left to the compiler also with fewer.
template <typename T>
constexpr int blocks = sizeof(T) == 8 ? 3 : 6;

// A thread finishes a vector; where elements go one by one, as many of them, neighbouring threads neighbouring ones.
template <typename T>
__global__ void __launch_bounds__(threads, blocks<T>) elementwise_kernel(const __grid_constant__ Elementwise job) {
  constexpr int count = vector_elements<T>;
  const ResultEpilogue& epilogue = job.epilogue;
  const int64_t elements = epilogue.rows * epilogue.columns;
  const int64_t first = int64_t(blockIdx.x) * threads * count + threadIdx.x * (job.vectors ? count : 1);
  if (job.vectors && first + count <= elements) {
    Wide<T> values[count];
    const int64_t row = epilogue.rows == 1 ? 0 : first / epilogue.columns;
    const int64_t column = first - row * epilogue.columns;
    const uint4 operand = operand_vector<T>(epilogue, row, column);
    widen<T>(vector_at(static_cast<const T*>(job.values) + first), values);
    return finish<T>(epilogue, row, column, values, operand);
  }
  const int step = job.vectors ? 1 : threads;
#pragma unroll 1
  for (int64_t i = first; i < min(first + count * step, elements); i += step) {
    const int64_t row = i / epilogue.columns, column = i % epilogue.columns;
    finish<T>(epilogue, row, column, element_at<T>(job.values, job.strides, epilogue, row, column));
  }
}

// Whether elements that are counted row by row lie one behind the other.
bool is_contiguous(const int64_t* strides, const ResultEpilogue& shape) {
  const int64_t sizes[] = {shape.rows, shape.columns / (shape.height * shape.width), shape.height, shape.width};
  int64_t elements = 1;
  for (int i = 3; i >= 0; --i) {
    if (sizes[i] != 1 && strides[i] != elements) return false;
    elements *= sizes[i];
  }
  return true;
}

template <typename T>
void run(Device& device, Elementwise job) {
  ResultEpilogue& epilogue = job.epilogue;
  const int64_t elements = epilogue.rows * epilogue.columns;
  if (elements == 0) return;
  const bool operand_is_contiguous = epilogue.operand == nullptr || is_contiguous(epilogue.operand_strides, epilogue);
  if (is_contiguous(job.strides, epilogue) && operand_is_contiguous) {
    if (epilogue.bias == nullptr) {  // one row: whatever the shape, all but the last elements go by vectors
      epilogue.rows = epilogue.height = epilogue.width = 1;
      epilogue.columns = elements;
      job.strides[1] = epilogue.operand_strides[1] = 1;
    }
    ResultEpilogue whole = epilogue;
    if (whole.rows == 1) whole.columns -= elements % vector_elements<T>;
    job.vectors = takes_vectors<T>(whole) && starts_vector(job.values);
  }
  const int64_t blocks = (elements + threads * vector_elements<T> - 1) / (threads * vector_elements<T>);
  launch(elementwise_kernel<T>, {dim3(static_cast<unsigned>(blocks)), dim3(threads)}, device.stream, job);
}

}  // namespace

void elementwise(Device& device, const View& values, const ResultEpilogue& epilogue) {
  Elementwise job{.values = values.data, .epilogue = epilogue};
  std::copy_n(values.strides, 4, job.strides);
  switch (values.dtype) {
    case Dtype::float64:
      return run<double>(device, job);
    case Dtype::float32:
      return run<float>(device, job);
    case Dtype::bfloat16:
      return run<__nv_bfloat16>(device, job);
    case Dtype::float16:
      return run<__half>(device, job);
  }
}

}  // namespace fastalign::cuda

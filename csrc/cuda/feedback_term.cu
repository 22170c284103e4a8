#include "cuda/feedback_term.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <type_traits>

#include "cuda/launch.cuh"

namespace fastalign {

namespace {

constexpr int tile = 32;           // a block computes 32 samples × 32 units, over 32 classes at a time
constexpr int rows = 8;            // of 32 threads each
constexpr int64_t grid_y = 65535;  // the largest grid that CUDA allows in y

template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
__global__ void feedback_term_kernel(const FeedbackTerm term) {
  __shared__ Sum<T> signal[tile][tile + 1];
  __shared__ Sum<T> feedback[tile][tile + 1];
  const int lane = threadIdx.x;
  const int64_t units = term.channels * term.height * term.width;
  const int64_t first_unit = int64_t(blockIdx.x) * tile;
  const int64_t unit = first_unit + lane;
  const int64_t channel = unit / (term.height * term.width);
  const int64_t y = unit / term.width % term.height;
  const int64_t x = unit % term.width;
  const T* kept = static_cast<const T*>(term.kept) + channel * term.kept_strides[1] + y * term.kept_strides[2] +
                  x * term.kept_strides[3];

  for (int64_t first_sample = int64_t(blockIdx.y) * tile; first_sample < term.samples;
       first_sample += int64_t(gridDim.y) * tile) {
    Sum<T> sum[tile / rows] = {};
    for (int64_t first_class = 0; first_class < term.classes; first_class += tile) {
      const int64_t c = first_class + lane;
      for (int row = threadIdx.y; row < tile; row += rows) {
        const int64_t n = first_sample + row;
        const int64_t h = first_unit + row;
        signal[row][lane] =
            n < term.samples && c < term.classes
                ? Sum<T>(static_cast<const T*>(term.signal)[n * term.signal_strides[0] + c * term.signal_strides[1]])
                : Sum<T>(0);
        feedback[row][lane] = h < units && c < term.classes
                                  ? Sum<T>(static_cast<const T*>(
                                        term.feedback)[h * term.feedback_strides[0] + c * term.feedback_strides[1]])
                                  : Sum<T>(0);
      }
      __syncthreads();
      const int classes = static_cast<int>(min(int64_t(tile), term.classes - first_class));
      for (int k = 0; k < classes; ++k) {
        for (int i = 0; i < tile / rows; ++i) sum[i] += signal[threadIdx.y + i * rows][k] * feedback[lane][k];
      }
      __syncthreads();
    }
    for (int i = 0; i < tile / rows; ++i) {
      const int64_t n = first_sample + threadIdx.y + i * rows;
      if (n >= term.samples || unit >= units) continue;
      const Sum<T> value(kept[n * term.kept_strides[0]]);
      const Sum<T> slope = term.given_output ? common::derivative_from_output(term.activation, value)
                                             : common::derivative(term.activation, value);
      static_cast<T*>(term.delta)[n * units + unit] = T(sum[i] * slope);
    }
  }
}

}  // namespace

void feedback_term(const FeedbackTerm& term, Dtype dtype, void* stream) {
  const int64_t units = term.channels * term.height * term.width;
  if (term.samples == 0 || units == 0) return;
  const dim3 grid(static_cast<unsigned>((units + tile - 1) / tile),
                  static_cast<unsigned>(std::min((term.samples + tile - 1) / tile, grid_y)));
  const LaunchShape shape{grid, dim3(tile, rows)};
  switch (dtype) {
    case Dtype::float64:
      return launch(feedback_term_kernel<double>, shape, stream, term);
    case Dtype::float32:
      return launch(feedback_term_kernel<float>, shape, stream, term);
    case Dtype::bfloat16:
      return launch(feedback_term_kernel<__nv_bfloat16>, shape, stream, term);
    case Dtype::float16:
      return launch(feedback_term_kernel<__half>, shape, stream, term);
  }
}

}  // namespace fastalign

// pool(h + Δh) − pool(h), in one pass over the windows.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <type_traits>

#include "cuda/device/launch.cuh"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

namespace {

constexpr int threads = 256;

struct PoolingParameters {
  View h{};
  View delta_h{};
  View difference{};
  Pooling pooling{};
};

// A window's maximum by torch's rule: the first of equals, and the last NaN where there is one.
template <typename W>
struct Maximum {
  W value;
  int64_t y, x;

  __device__ void offer(W candidate, int64_t at_y, int64_t at_x) {
    if (!(candidate > value) && candidate == candidate) return;
    value = candidate;
    y = at_y;
    x = at_x;
  }
};

__device__ int64_t first_inside(int64_t start, int64_t dilation) {
  return start < 0 ? start + (-start + dilation - 1) / dilation * dilation : start;
}

template <typename T>
__global__ void __launch_bounds__(threads) pooling_kernel(const __grid_constant__ PoolingParameters parameters) {
  using W = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const View& input = parameters.h;
  const View& output = parameters.difference;
  const Pooling& p = parameters.pooling;
  const int64_t index = int64_t(blockIdx.x) * threads + threadIdx.x;
  const int64_t row = index / output.sizes[3], plane = row / output.sizes[2];
  const int64_t sample = plane / output.sizes[1], channel = plane % output.sizes[1];
  if (sample >= output.sizes[0]) return;

  const auto plane_of = [&](const View& view) {
    return static_cast<const T*>(view.data) + sample * view.strides[0] + channel * view.strides[1];
  };
  const T* h = plane_of(input);
  const T* delta = plane_of(parameters.delta_h);
  const auto h_at = [&](int64_t y, int64_t x) { return W(h[y * input.strides[2] + x * input.strides[3]]); };
  const auto delta_at = [&](int64_t y, int64_t x) {
    return W(delta[y * parameters.delta_h.strides[2] + x * parameters.delta_h.strides[3]]);
  };

  const int64_t top = row % output.sizes[2] * p.stride[0] - p.padding[0];
  const int64_t left = index % output.sizes[3] * p.stride[1] - p.padding[1];
  const int64_t bottom = min(top + (p.kernel[0] - 1) * p.dilation[0] + 1, input.sizes[2]);
  const int64_t right = min(left + (p.kernel[1] - 1) * p.dilation[1] + 1, input.sizes[3]);
  const int64_t first_y = first_inside(top, p.dilation[0]), first_x = first_inside(left, p.dilation[1]);
  const W lowest = -W(INFINITY);
  Maximum<W> standard{lowest, first_y, first_x}, modulated{lowest, first_y, first_x};
  for (int64_t y = first_y; y < bottom; y += p.dilation[0]) {
    for (int64_t x = first_x; x < right; x += p.dilation[1]) {
      const W value = h_at(y, x);
      standard.offer(value, y, x);
      modulated.offer(value + delta_at(y, x), y, x);
    }
  }
  static_cast<T*>(output.data)[index] =
      T(h_at(modulated.y, modulated.x) - h_at(standard.y, standard.x) + delta_at(modulated.y, modulated.x));
}

template <typename T>
void run(Device& device, const PoolingParameters& parameters) {
  const int64_t* sizes = parameters.difference.sizes;
  const int64_t blocks = (sizes[0] * sizes[1] * sizes[2] * sizes[3] + threads - 1) / threads;
  if (blocks == 0) return;
  launch(pooling_kernel<T>, {dim3(static_cast<unsigned>(blocks)), dim3(threads)}, device.stream, parameters);
}

}  // namespace

void max_pool2d_difference(Device& device, const View& h, const View& delta_h, const Pooling& pooling,
                           const View& difference) {
  const PoolingParameters parameters{h, delta_h, difference, pooling};
  switch (h.dtype) {
    case Dtype::float64:
      return run<double>(device, parameters);
    case Dtype::float32:
      return run<float>(device, parameters);
    case Dtype::bfloat16:
      return run<__nv_bfloat16>(device, parameters);
    case Dtype::float16:
      return run<__half>(device, parameters);
  }
}

}  // namespace fastalign::cuda

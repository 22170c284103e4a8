// Softmax and cross-entropy with its gradient, in one launch where the rows are few.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "common/elementary.h"
#include "cuda/device/launch.cuh"
#include "cuda/device/long_sum.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/kernels/second_stage.h"
#include "cuda/ops/operations.h"

namespace fastalign::cuda {

namespace {

constexpr int threads = 256;
constexpr int warp_size = 32;
constexpr int64_t ignored = -100;  // as in torch

struct CrossEntropyJob {
  View outputs{};
  View labels{};
  bool mean{};
  int width{};  // of a group, the threads of a warp that take a row: a power of two
  void* gradient{};
  void* losses{};  // of blocks, in the dtype of sums
  int64_t loss_stride{};
};

// Over the lanes of each group, the same in all of them.
template <typename V, typename Function>
__device__ V over_group(V value, int width, const Function& function) {
  for (int distance = width / 2; distance > 0; distance /= 2) {
    value = function(value, __shfl_xor_sync(0xFFFFFFFF, value, distance));
  }
  return value;
}

template <typename V>
__device__ V sum_of_group(V value, int width) {
  return over_group(value, width, [](V one, V other) { return one + other; });
}

// The same in all threads. A kernel takes one sum of a type.
template <typename V>
__device__ V sum_of_block(V value) {
  __shared__ V of_warp[threads / warp_size];
  value = sum_of_group(value, warp_size);
  if (threadIdx.x % warp_size == 0) of_warp[threadIdx.x / warp_size] = value;
  __syncthreads();
  V sum{};
  for (const V& one : of_warp) sum += one;
  return sum;
}

// Of a multiprocessor at the least: with more registers are spilled.
template <typename T>
constexpr int blocks = sizeof(T) == 8 ? 2 : 3;

// The groups of a block have neighbouring rows, and all blocks take turns. Each block counts the labels itself: for
// that to be done before, there would have to be another launch.
template <typename T>
__global__ void __launch_bounds__(threads, blocks<T>)
    cross_entropy_kernel(const __grid_constant__ CrossEntropyJob job) {
  using W = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const int64_t rows = job.outputs.sizes[0], classes = job.outputs.sizes[1], stride = job.outputs.strides[1];
  const int64_t* const labels = static_cast<const int64_t*>(job.labels.data);
  int64_t counted = 1;
  if (job.mean) {
    int64_t own = 0;
#pragma unroll 4
    for (int64_t row = threadIdx.x; row < rows; row += threads) own += labels[row * job.labels.strides[0]] != ignored;
    counted = sum_of_block(own);
  }
  const W weight = W(1) / W(counted);

  const int groups = threads / job.width, lane = static_cast<int>(threadIdx.x) % job.width;
  LongSum<W> loss;
  for (int64_t first = int64_t(blockIdx.x) * groups; first < rows; first += int64_t(gridDim.x) * groups) {
    const int64_t row = first + threadIdx.x / job.width;
    const int64_t label = row < rows ? labels[row * job.labels.strides[0]] : ignored;
    const bool counts = label != ignored;
    if (counts && (label < 0 || label >= classes)) stop_device("labels: expected class indices, or -100");
    const T* const outputs = static_cast<const T*>(job.outputs.data) + row * job.outputs.strides[0];
    const int64_t end = counts ? classes : 0;
    W most = -W(INFINITY), sum = 0;
#pragma unroll 4
    for (int64_t i = lane; i < end; i += job.width) most = max(most, W(outputs[i * stride]));
    most = over_group(most, job.width, [](W one, W other) { return max(one, other); });
#pragma unroll 4
    for (int64_t i = lane; i < end; i += job.width) sum += common::exponential(W(outputs[i * stride]) - most);
    sum = sum_of_group(sum, job.width);
    const W factor = weight / sum;
    T* const gradient = static_cast<T*>(job.gradient) + row * classes;
#pragma unroll 4
    for (int64_t i = lane; i < (row < rows ? classes : 0); i += job.width) {
      if (!counts) {
        gradient[i] = T(0.0f);
        continue;
      }
      const W below = W(outputs[i * stride]) - most, softmax = common::exponential(below) * factor;
      gradient[i] = T(i == label ? softmax - weight : softmax);
      if (i == label) loss.add(log(sum) - below);
    }
  }
  const W total = sum_of_block(loss.value());
  if (threadIdx.x == 0) static_cast<W*>(job.losses)[blockIdx.x * job.loss_stride] = total / W(counted);
}

// Four classes a thread, before a row takes more threads.
int width_for(int64_t classes) {
  int width = 1;
  while (width < warp_size && 4 * width < classes) width *= 2;
  return width;
}

template <typename T>
void run(Device& device, CrossEntropyJob job, const View& loss) {
  constexpr int64_t worth_a_launch = 16;  // steps of a thread, to have the losses of several blocks added
  const int64_t rows = job.outputs.sizes[0], groups = threads / job.width;
  const int64_t turns = (rows + groups - 1) / groups;
  const int64_t steps = turns * ((job.outputs.sizes[1] + job.width - 1) / job.width);
  const int64_t number = steps <= worth_a_launch ? 1 : std::min(turns, int64_t(4) * device.multiprocessors);
  std::vector<SplitSum> sums;
  if (number > 1) {
    Sink written;
    written.target = loss;
    job.losses = sink_of_parts(device, written, 1, 1, number, loss.dtype, sums).target.data;
    job.loss_stride = sums.front().stride;
  }
  launch(cross_entropy_kernel<T>, {dim3(static_cast<unsigned>(number)), dim3(threads)}, device.stream, job);
  second_stage(device, sums, loss.dtype);
}

}  // namespace

void cross_entropy(Device& device, const View& outputs, const View& labels, bool mean, const View& loss,
                   const View& gradient) {
  const CrossEntropyJob job{.outputs = outputs,
                            .labels = labels,
                            .mean = mean,
                            .width = width_for(outputs.sizes[1]),
                            .gradient = gradient.data,
                            .losses = loss.data};
  switch (outputs.dtype) {
    case Dtype::float64:
      return run<double>(device, job, loss);
    case Dtype::float32:
      return run<float>(device, job, loss);
    case Dtype::bfloat16:
      return run<__nv_bfloat16>(device, job, loss);
    case Dtype::float16:
      return run<__half>(device, job, loss);
  }
}

}  // namespace fastalign::cuda

#include "cuda/second_stage.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "cuda/jobs.cuh"
#include "cuda/sink.cuh"

namespace fastalign::cuda {

namespace {

constexpr int threads = 256;  // each adds as many elements as its sink takes in one access

struct SecondStageJob {
  int64_t first_block{}, blocks{};
  const void* parts{};
  int64_t stride{}, number{}, elements{};
  SinkParameters sink{};
};

template <typename T>
__global__ void __launch_bounds__(threads) second_stage_kernel(const __grid_constant__ Jobs<SecondStageJob> jobs) {
  using W = std::conditional_t<std::is_same_v<T, double>, double, float>;
  constexpr int count = vector_elements<T>;
  constexpr int together = vector_elements<W>;
  const SecondStageJob& job = jobs.of_block(blockIdx.x);
  const int64_t first = ((blockIdx.x - job.first_block) * threads + threadIdx.x) * count;
  if (first >= job.elements) return;

  W sums[count] = {};
  const W* part = static_cast<const W*>(job.parts) + first;
  const int64_t valid = job.elements - first;
  for (int64_t s = 0; s < job.number; ++s, part += job.stride) {
#pragma unroll
    for (int i = 0; i < count; i += together) {
      if (i >= valid) break;
      W values[together];
      read_neighbours(part + i, values);  // the last ones reach into what pads the stride
#pragma unroll
      for (int j = 0; j < together; ++j) sums[i + j] += values[j];
    }
  }
  apply_sink<T>(job.sink, first, valid, sums);
}

template <typename T>
void run(Device& device, const std::vector<SplitSum>& sums) {
  constexpr int64_t elements_of_block = threads * vector_elements<T>;
  std::vector<SecondStageJob> jobs;
  for (const SplitSum& sum : sums) {
    if (sum.elements == 0) continue;
    jobs.push_back({.blocks = (sum.elements + elements_of_block - 1) / elements_of_block,
                    .parts = sum.parts,
                    .stride = sum.stride,
                    .number = sum.number,
                    .elements = sum.elements,
                    .sink = {sum.sink, sum.scale}});
  }
  launch_jobs(second_stage_kernel<T>, jobs, threads, 0, device.stream);
}

}  // namespace

int64_t steps_of_part(int64_t tiles, int64_t steps, int multiprocessors) {
  constexpr int64_t blocks_of_multiprocessor = 2;
  constexpr int64_t least = 8;  // steps that are worth a part: it is written and read again
  const int64_t parts = std::min(blocks_of_multiprocessor * multiprocessors / tiles, steps / least);
  return parts > 1 ? (steps + parts - 1) / parts : std::max(steps, int64_t(1));
}

Sink sink_of_parts(Device& device, const Sink& sink, double scale, int64_t elements, int64_t parts, Dtype dtype,
                   std::vector<SplitSum>& sums) {
  const int64_t stride = part_stride(elements);
  const int64_t bytes = dtype == Dtype::float64 ? sizeof(double) : sizeof(float);
  void* const memory = device.scratch(static_cast<size_t>(parts * stride * bytes));
  sums.push_back({memory, stride, parts, elements, scale, sink});
  return {.target = {.data = memory}};
}

void second_stage(Device& device, const std::vector<SplitSum>& sums, Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return run<double>(device, sums);
    case Dtype::float32:
      return run<float>(device, sums);
    case Dtype::bfloat16:
      return run<__nv_bfloat16>(device, sums);
    case Dtype::float16:
      return run<__half>(device, sums);
  }
}

}  // namespace fastalign::cuda

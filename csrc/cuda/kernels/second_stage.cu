#include "cuda/kernels/second_stage.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "cuda/device/jobs.cuh"
#include "cuda/device/sink.cuh"

namespace fastalign::cuda {

namespace {

constexpr int threads = 256;

// A thread adds as many elements as a sink takes in one access, of every part or, where those are many, of every
// `slices`-th: one after another they would be waited for.
struct SecondStageJob {
  int64_t first_block{};
  const void* parts{};
  int64_t stride{}, number{}, elements{};
  int slices{}, narrow{};
  SinkParameters sink{};
};

// Adds every `slices`-th part, which are of P, of the elements from `first` on, of which `valid` exist.
template <typename P, int count, typename W>
__device__ void add_parts(const SecondStageJob& job, int slice, int64_t first, int64_t valid, W (&sums)[count]) {
  const P* part = in_global(static_cast<const P*>(job.parts) + slice * job.stride + first);
  const int64_t step = job.slices * job.stride;
  if (valid >= count && are_aligned<count>(part)) {
#pragma unroll 4
    for (int64_t s = slice; s < job.number; s += job.slices, part += step) {
      P values[count];
      read_neighbours(part, values);
#pragma unroll
      for (int i = 0; i < count; ++i) sums[i] += W(values[i]);
    }
  } else {
#pragma unroll 1
    for (int64_t s = slice; s < job.number; s += job.slices, part += step) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
        if (i < valid) sums[i] += W(part[i]);
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(threads) second_stage_kernel(const __grid_constant__ Jobs<SecondStageJob> jobs) {
  using W = std::conditional_t<std::is_same_v<T, double>, double, float>;
  constexpr int count = vector_elements<T>;
  alignas(16) __shared__ W sums_of_slices[threads][count];
  __shared__ JobWords<SecondStageJob> words;
  const SecondStageJob& job = jobs.of_block(blockIdx.x, words);
  const int across = threads / job.slices;
  const int slice = static_cast<int>(threadIdx.x) / across;
  const int64_t first = ((blockIdx.x - job.first_block) * across + threadIdx.x % across) * count;
  const int64_t valid = job.elements - first;

  W sums[count] = {};
  if (job.narrow) {
    add_parts<T>(job, slice, first, valid, sums);
  } else {
    add_parts<W>(job, slice, first, valid, sums);
  }
  if (job.slices > 1) {
    write_neighbours(sums_of_slices[threadIdx.x], sums);
    __syncthreads();
    if (slice > 0) return;
    for (int s = 1; s < job.slices; ++s) {
      W others[count];
      read_neighbours(sums_of_slices[s * across + threadIdx.x], others);
#pragma unroll
      for (int j = 0; j < count; ++j) sums[j] += others[j];
    }
  }
  if (valid <= 0) return;
  const SinkAtWork<T, W> sink(job.sink);
  sink.take(first, valid, sums);
}

// As many that each has some parts of its own.
int slices_of(int64_t parts) {
  constexpr int least = 8, most = 16;
  int slices = 1;
  while (slices < most && parts >= 2 * least * slices) slices *= 2;
  return slices;
}

template <typename T>
void run(Device& device, const std::vector<SplitSum>& sums) {
  std::vector<SecondStageJob> jobs;
  for (const SplitSum& sum : sums) {
    if (sum.elements == 0) continue;
    jobs.push_back({.parts = sum.parts,
                    .stride = sum.stride,
                    .number = sum.number,
                    .elements = sum.elements,
                    .slices = slices_of(sum.number),
                    .narrow = sum.narrow,
                    .sink = {sum.sink, sum.scale}});
  }
  const auto blocks_of = [](const SecondStageJob& job) {
    const int64_t elements_of_block = threads / job.slices * vector_elements<T>;
    return (job.elements + elements_of_block - 1) / elements_of_block;
  };
  launch_jobs(second_stage_kernel<T>, jobs, blocks_of, threads, 0, device.stream);
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
  Sink of_parts;
  of_parts.target.data = memory;
  return of_parts;
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

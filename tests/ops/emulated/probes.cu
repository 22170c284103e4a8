// Kernels that do right, and kernels that do wrong in the ways that the emulator is to catch.

#include "probes.h"

#include "cuda/device/dynamic_shared.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/device/ptx.cuh"

namespace fastalign {

namespace {

using namespace cuda;

constexpr int threads = 256;

// Each thread hands its number to the next one.
template <bool with_barrier>
__global__ void rotate_kernel(float* result) {
  __shared__ float shared[threads];
  const int thread = threadIdx.x;
  shared[thread] = static_cast<float>(thread);
  if (with_barrier) __syncthreads();
  result[blockIdx.x * threads + thread] = shared[(thread + 1) % threads];
}

// The same twice, so that a second barrier is needed before the memory is used again.
template <bool with_barrier>
__global__ void rotate_twice_kernel(float* result) {
  __shared__ float shared[threads];
  const int thread = threadIdx.x;
  float value = static_cast<float>(thread);
  for (int i = 0; i < 2; ++i) {
    shared[thread] = value;
    __syncthreads();
    value = shared[(thread + 1) % threads];
    if (with_barrier) __syncthreads();
  }
  result[blockIdx.x * threads + thread] = value;
}

__global__ void last_kernel(float* result) { result[0] = static_cast<float>(threadIdx.x); }

__global__ void half_at_barrier_kernel(float* result) {
  if (threadIdx.x < threads / 2) __syncthreads();
  result[threadIdx.x] = 1;
}

__global__ void two_barriers_kernel(float* result) {
  if (threadIdx.x < threads / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  result[threadIdx.x] = 1;
}

__global__ void missing_lane_kernel(float* result) {
  if (threadIdx.x != 37) result[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, 1.0f, 1);
}

__global__ void lane_outside_its_mask_kernel(float* result) {
  result[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, 1.0f, 1);
}

__global__ void source_outside_the_mask_kernel(float* result) {
  if (threadIdx.x % 32 < 16) result[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, 1.0f, 16);
}

// Writes, per thread, what each shuffle gives it of the lanes' numbers, and the votes.
__global__ void shuffles_kernel(float* result) {
  const unsigned all = 0xFFFFFFFFu;
  const int lane = threadIdx.x % 32;
  float* mine = result + threadIdx.x * 8;
  mine[0] = static_cast<float>(__shfl_sync(all, lane, 5));
  mine[1] = static_cast<float>(__shfl_sync(all, lane, lane + 3, 8));
  mine[2] = static_cast<float>(__shfl_up_sync(all, double(lane), 3));
  mine[3] = __shfl_down_sync(all, static_cast<float>(lane), 2, 16);
  mine[4] = static_cast<float>(__shfl_xor_sync(all, int64_t(lane), 5));
  mine[5] = static_cast<float>(__ballot_sync(all, lane < 3));
  mine[6] = static_cast<float>(__any_sync(all, lane == 7) + 2 * __all_sync(all, lane < 31));
  if (lane < 16) mine[7] = static_cast<float>(__shfl_xor_sync(0x0000FFFFu, lane, 8));
  __syncwarp();
}

__global__ void uninitialised_kernel(float* result) {
  __shared__ float shared[threads];
  const float* dynamic = dynamic_shared_memory<float>();
  result[blockIdx.x * threads + threadIdx.x] = threadIdx.x % 2 == 0 ? shared[threadIdx.x] : dynamic[threadIdx.x];
  shared[threadIdx.x] = 0;
}

__global__ void dynamic_kernel(float* result, int beyond) {
  float* shared = dynamic_shared_memory<float>() + beyond;
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  result[threadIdx.x] = shared[threadIdx.x ^ 1];
}

// Each thread copies a word and reads its neighbour's: as it should, or with one thing left out or too early.
__global__ void copy_kernel(float* result, int fault) {
  __shared__ float shared[threads];
  const int thread = threadIdx.x;
  if (fault == 4) {
    shared[thread] = 0;
    __syncthreads();
    result[thread] = shared[thread] + shared[(thread + 1) % threads];
  }
  cp_async<4>(shared + thread, result + thread, 4);
  if (fault == 3) shared[thread] = 0;
  cp_async_commit();
  if (fault == 5) cp_async_commit();
  if (fault == 5) {
    cp_async_wait<2>();
  } else if (fault != 1) {
    cp_async_wait<0>();
  }
  if (fault != 2) __syncthreads();
  result[thread] = shared[(thread + 1) % threads];
}

__global__ void copy_of_bytes_kernel(float* result, int source_bytes, int shared_offset, int64_t global_offset) {
  __shared__ __align__(16) unsigned char shared[64];
  if (threadIdx.x != 0) return;
  unsigned char* const global = reinterpret_cast<unsigned char*>(result);
  cp_async<16>(shared + shared_offset, global + global_offset, source_bytes);
  cp_async_commit();
  cp_async_wait<0>();
}

__global__ void matrix_kernel(float* result, int offset, bool without_lane, bool with_barrier) {
  __shared__ __align__(16) unsigned char shared[32 * 16 + 16];
  const int lane = threadIdx.x;
  for (int i = 0; i < 4; ++i) reinterpret_cast<float*>(shared + 16 * lane)[i] = 0;
  if (with_barrier) __syncthreads();
  if (without_lane && lane == 7) return;
  uint32_t r[4];
  load_matrix_x4(r, shared + 16 * lane + (lane == 3 ? offset : 0));
  result[lane] = static_cast<float>(r[0]);
}

__global__ void product_kernel(float* result) {
  const uint32_t a[4] = {};
  const uint32_t b[2] = {};
  float d[4] = {};
  if (threadIdx.x != 7) multiply_m16n8k16<__half>(d, a, b);
  result[threadIdx.x] = d[0];
}

// The lanes of a warp need no more than their own barrier.
__global__ void lanes_kernel(float* result, bool across_warps) {
  __shared__ float shared[64];
  const int thread = threadIdx.x;
  shared[thread] = 1;
  __syncwarp();
  result[thread] = shared[across_warps ? thread ^ 32 : thread ^ 1];
}

__global__ void vector_kernel(float* result, int offset) {
  const int thread = threadIdx.x;
  if (thread < threads / 4) {
    *reinterpret_cast<float4*>(result + offset + 4 * thread) = make_float4(1.0f, 2.0f, 3.0f, 4.0f);
  }
}

__global__ void write_kernel(float* result, int64_t index) {
  if (threadIdx.x == 0) result[index] = 1;
}

__global__ void index_kernel(float* result, int index) {
  __shared__ float shared[2][threads];
  shared[0][threadIdx.x] = 0;
  shared[1][threadIdx.x] = 0;
  __syncthreads();
  result[threadIdx.x] = shared[0][threadIdx.x + index];
}

__global__ void position_kernel(float* result) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  result[block * blockDim.x * blockDim.y * blockDim.z + thread] = static_cast<float>(block * 1000 + thread);
}

}  // namespace

void probe(const std::string& name, float* result, int64_t argument) {
  const LaunchShape one{dim3(1), dim3(threads)};
  const LaunchShape warp{dim3(1), dim3(32)};
  const LaunchShape several{dim3(3), dim3(threads)};
  const int number = static_cast<int>(argument);
  if (name == "rotate") return launch(rotate_kernel<true>, several, nullptr, result);
  if (name == "rotate without a barrier") return launch(rotate_kernel<false>, several, nullptr, result);
  if (name == "rotate twice") return launch(rotate_twice_kernel<true>, several, nullptr, result);
  if (name == "rotate twice without a barrier") return launch(rotate_twice_kernel<false>, several, nullptr, result);
  if (name == "last") return launch(last_kernel, one, nullptr, result);
  if (name == "half at a barrier") return launch(half_at_barrier_kernel, one, nullptr, result);
  if (name == "two barriers") return launch(two_barriers_kernel, one, nullptr, result);
  if (name == "missing lane") return launch(missing_lane_kernel, one, nullptr, result);
  if (name == "lane outside its mask") return launch(lane_outside_its_mask_kernel, one, nullptr, result);
  if (name == "source outside the mask") return launch(source_outside_the_mask_kernel, one, nullptr, result);
  if (name == "lanes that the block has not") {
    return launch(shuffles_kernel, {dim3(1), dim3(40)}, nullptr, result);
  }
  if (name == "shuffles") return launch(shuffles_kernel, {dim3(1), dim3(64)}, nullptr, result);
  if (name == "uninitialised") {
    return launch(uninitialised_kernel, {dim3(3), dim3(threads), threads * sizeof(float)}, nullptr, result);
  }
  if (name == "dynamic") {
    return launch(dynamic_kernel, {dim3(1), dim3(threads), threads * sizeof(float)}, nullptr, result, number);
  }
  if (name == "dynamic bytes") {
    return launch(dynamic_kernel, {dim3(1), dim3(threads), static_cast<size_t>(argument)}, nullptr, result, 0);
  }
  if (name == "dynamic bytes beside static ones") {
    return launch(uninitialised_kernel, {dim3(1), dim3(threads), static_cast<size_t>(argument)}, nullptr, result);
  }
  if (name == "copy") return launch(copy_kernel, one, nullptr, result, number);
  if (name == "copy of bytes") return launch(copy_of_bytes_kernel, one, nullptr, result, number, 0, int64_t{0});
  if (name == "copy to") return launch(copy_of_bytes_kernel, one, nullptr, result, 16, number, int64_t{0});
  if (name == "copy from") return launch(copy_of_bytes_kernel, one, nullptr, result, 16, 0, argument);
  if (name == "matrix row") return launch(matrix_kernel, warp, nullptr, result, number, false, true);
  if (name == "matrix of a missing lane") return launch(matrix_kernel, warp, nullptr, result, 0, true, true);
  if (name == "matrix without a barrier") return launch(matrix_kernel, warp, nullptr, result, 0, false, false);
  if (name == "product of a missing lane") return launch(product_kernel, warp, nullptr, result);
  if (name == "lanes in order") return launch(lanes_kernel, {dim3(1), dim3(64)}, nullptr, result, number == 1);
  if (name == "vector") return launch(vector_kernel, one, nullptr, result, number);
  if (name == "write") return launch(write_kernel, one, nullptr, result, argument);
  if (name == "index") return launch(index_kernel, one, nullptr, result, number);
  if (name == "position") return launch(position_kernel, {dim3(2, 3, 2), dim3(4, 3, 2)}, nullptr, result);
  if (name == "threads") return launch(position_kernel, {dim3(1), dim3(number)}, nullptr, result);
  if (name == "threads in two rows") return launch(position_kernel, {dim3(1), dim3(number, 2)}, nullptr, result);
  if (name == "blocks in y") return launch(write_kernel, {dim3(1, number), dim3(1)}, nullptr, result, int64_t{0});
  throw std::invalid_argument("name: no probe is called " + name);
}

}  // namespace fastalign

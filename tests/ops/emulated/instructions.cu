// A kernel for each instruction of csrc/cuda/device/ptx.cuh: what it makes of known words, under the emulator and on a device.

#include "instructions.h"

#include <stdexcept>

#include "cuda/device/launch.cuh"
#include "cuda/device/ptx.cuh"

namespace fastalign {

namespace {

using namespace cuda;

constexpr int lanes = 32;
constexpr int copying_threads = 128;

__device__ float as_float(uint32_t word) {
  union {
    uint32_t word;
    float value;
  } both{word};
  return both.value;
}

__device__ uint32_t as_word(float value) {
  union {
    float value;
    uint32_t word;
  } both{value};
  return both.word;
}

// input: which row each lane brings (32), then the rows (32 × 4); output: the registers (32 × 4)
template <bool transposed>
__global__ void ldmatrix_kernel(const uint32_t* input, uint32_t* output) {
  __shared__ __align__(16) uint32_t rows[lanes][4];
  const int lane = threadIdx.x;
  for (int i = 0; i < 4; ++i) rows[lane][i] = input[lanes + 4 * lane + i];
  __syncthreads();
  uint32_t r[4];
  if (transposed) {
    load_matrix_x4_transposed(r, rows[input[lane]]);
  } else {
    load_matrix_x4(r, rows[input[lane]]);
  }
  for (int i = 0; i < 4; ++i) output[4 * lane + i] = r[i];
}

enum class Multiply { bfloat16, float16, tf32 };

// input: the registers of a (32 × 4), b (32 × 2) and d (32 × 4); output: d (32 × 4)
template <Multiply kind>
__global__ void mma_kernel(const uint32_t* input, uint32_t* output) {
  const int lane = threadIdx.x;
  uint32_t a[4];
  uint32_t b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) a[i] = input[4 * lane + i];
  for (int i = 0; i < 2; ++i) b[i] = input[4 * lanes + 2 * lane + i];
  for (int i = 0; i < 4; ++i) d[i] = as_float(input[6 * lanes + 4 * lane + i]);
  if constexpr (kind == Multiply::bfloat16) multiply_m16n8k16<__nv_bfloat16>(d, a, b);
  if constexpr (kind == Multiply::float16) multiply_m16n8k16<__half>(d, a, b);
  if constexpr (kind == Multiply::tf32) multiply_m16n8k8_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) output[4 * lane + i] = as_word(d[i]);
}

// input, output: 32 numbers
__global__ void round_kernel(const uint32_t* input, uint32_t* output) {
  output[threadIdx.x] = round_to_tf32(as_float(input[threadIdx.x]));
}

// Each thread copies its own words, as many bytes of them as are asked for, and reads its neighbour's.
// input: how many bytes each thread copies (128), then the words; output: the words, zeros where none were copied
template <int bytes>
__global__ void cp_async_kernel(const uint32_t* input, uint32_t* output) {
  constexpr int words = bytes / 4;
  __shared__ __align__(16) uint32_t copied[copying_threads][words];
  const int thread = threadIdx.x;
  const int source_bytes = static_cast<int>(input[thread]);
  cp_async<bytes>(copied[thread], input + copying_threads + thread * words, source_bytes);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  const int other = thread ^ 1;
  for (int i = 0; i < words; ++i) output[other * words + i] = copied[other][i];
}

// Three groups, the second of two copies, the last empty: waiting for all but two leaves only the first to be read.
// input: the words (128 × 3); output: (128 × 3)
__global__ void cp_async_groups_kernel(const uint32_t* input, uint32_t* output) {
  __shared__ uint32_t copied[3][copying_threads];
  const int thread = threadIdx.x;
  const int other = copying_threads - 1 - thread;
  cp_async<4>(&copied[0][thread], input + thread, 4);
  cp_async_commit();
  for (int i = 1; i < 3; ++i) cp_async<4>(&copied[i][thread], input + i * copying_threads + thread, 4);
  cp_async_commit();
  cp_async_commit();
  cp_async_wait<2>();
  __syncthreads();
  output[other] = copied[0][other];
  cp_async_wait<1>();
  __syncthreads();
  for (int i = 1; i < 3; ++i) output[i * copying_threads + other] = copied[i][other];
}

}  // namespace

void instruction(const std::string& name, const uint32_t* input, uint32_t* output, void* stream) {
  const LaunchShape warp{dim3(1), dim3(lanes)};
  const LaunchShape block{dim3(1), dim3(copying_threads)};
  if (name == "ldmatrix") return launch(ldmatrix_kernel<false>, warp, stream, input, output);
  if (name == "ldmatrix transposed") return launch(ldmatrix_kernel<true>, warp, stream, input, output);
  if (name == "mma bfloat16") return launch(mma_kernel<Multiply::bfloat16>, warp, stream, input, output);
  if (name == "mma float16") return launch(mma_kernel<Multiply::float16>, warp, stream, input, output);
  if (name == "mma tf32") return launch(mma_kernel<Multiply::tf32>, warp, stream, input, output);
  if (name == "round to tf32") return launch(round_kernel, warp, stream, input, output);
  if (name == "cp.async 4") return launch(cp_async_kernel<4>, block, stream, input, output);
  if (name == "cp.async 8") return launch(cp_async_kernel<8>, block, stream, input, output);
  if (name == "cp.async 16") return launch(cp_async_kernel<16>, block, stream, input, output);
  if (name == "cp.async groups") return launch(cp_async_groups_kernel, block, stream, input, output);
  throw std::invalid_argument("name: no instruction is called " + name);
}

}  // namespace fastalign

// For a library that Python loads by itself, on a device: null, or what is wrong.
extern "C" const char* fastalign_instruction(const char* name, const uint32_t* input, uint32_t* output, void* stream) {
  static std::string message;
  try {
    fastalign::instruction(name, input, output, stream);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

// The one way in which a kernel is launched.

#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace fastalign {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream, Arguments... arguments) {
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = grid;
  configuration.blockDim = block;
  configuration.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaLaunchKernelEx(&configuration, kernel, Parameters(arguments)...);
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("fastalign: a CUDA kernel did not launch: ") + cudaGetErrorString(error));
  }
}

}  // namespace fastalign

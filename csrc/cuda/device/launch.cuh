// The one way in which a kernel is launched.

#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace fastalign {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t dynamic_shared_memory = 0;  // bytes
};

inline void check_launch(cudaError_t error) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("fastalign: a CUDA kernel did not launch: ") + cudaGetErrorString(error));
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream, const Arguments&... arguments) {
  // Without asking a block has 48 KiB, static and dynamic shared memory together; the static part is not known here.
  if (shape.dynamic_shared_memory > 0) {
    check_launch(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(shape.dynamic_shared_memory)));
  }
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = shape.grid;
  configuration.blockDim = shape.block;
  configuration.dynamicSmemBytes = shape.dynamic_shared_memory;
  configuration.stream = static_cast<cudaStream_t>(stream);
  check_launch(cudaLaunchKernelEx(&configuration, kernel, static_cast<const Parameters&>(arguments)...));
}

}  // namespace fastalign

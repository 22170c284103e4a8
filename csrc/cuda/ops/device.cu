#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda/ops/library.h"

namespace fastalign {

CudaVersions cuda_versions() {
  CudaVersions versions{0, CUDART_VERSION};
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess) versions.driver = 0;
  return versions;
}

int cuda_multiprocessors(int32_t device_index) {
  int number = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&number, cudaDevAttrMultiProcessorCount, device_index);
  if (error == cudaSuccess) return number;
  throw std::runtime_error(std::string("fastalign: the CUDA device tells nothing of itself: ") +
                           cudaGetErrorString(error));
}

}  // namespace fastalign

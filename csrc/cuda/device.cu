#include <cuda_runtime.h>

#include "cuda/library.h"

namespace fastalign {

CudaVersions cuda_versions() {
  CudaVersions versions{0, CUDART_VERSION};
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess) versions.driver = 0;
  return versions;
}

}  // namespace fastalign

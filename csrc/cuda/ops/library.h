// The CUDA kernels' registration with torch's dispatcher.

#pragma once

#include <cstdint>
#include <vector>

namespace fastalign {

struct CudaVersions {
  int driver;   // the newest CUDA that the driver runs, as 13000 for 13.0; 0 where there is no driver
  int runtime;  // the CUDA that this binary was built with
};

CudaVersions cuda_versions();

// How many multiprocessors a device has.
int cuda_multiprocessors(int32_t device_index);

// Registers the CUDA kernels, on the first call; usable[i] says whether they can run on device i. Not done when the
// binary is loaded, because torch knows no way to take a kernel back once it turns out that no device can run it.
void register_cuda_kernels(const std::vector<bool>& usable);

// Whether the kernels can run on a device; where not, a kernel hands the call to the reference.
bool cuda_usable(int32_t device_index);

}  // namespace fastalign

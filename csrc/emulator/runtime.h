// The functions of CUDA's runtime, emulated, and what they count.

#pragma once

#include <cuda_runtime_api.h>

#include "emulator/grid.h"

namespace fastalign::emulator {

cudaError_t launch(const cudaLaunchConfig_t& configuration, const Kernel& kernel);

// How many launches there have been.
int launches_of_kernels();

}  // namespace fastalign::emulator

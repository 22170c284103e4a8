// Who computes what is a plain matrix product, as the environment says.

#pragma once

#include "cuda/ops/device.h"

namespace fastalign::cuda {

// FASTALIGN_FORCE=fused|library, read at the first call. Throws std::invalid_argument for another value.
Force force_of_environment();

const char* name_of(Force force);

}  // namespace fastalign::cuda

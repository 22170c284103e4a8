// The instruction-set levels of the CPU kernels: which are built in, and which is in use.

#pragma once

#include "cpu/kernels/kernels.h"

namespace fastalign {

// The names of the levels in this binary, lowest first, ended by a null pointer.
const char* const* cpu_levels();

// The name of the level in use: the highest that this machine has, or the one that FASTALIGN_CPU_CAPABILITY names.
// Throws std::invalid_argument where that variable names a level that is unknown or that this machine lacks.
const char* cpu_level();

// The kernels of the level in use. Chosen at the first call; throws as `cpu_level`.
const Kernels& cpu_kernels();

// Whether torch's library multiplies bfloat16 by instructions for it, at the level in use.
bool library_multiplies_bfloat16();

}  // namespace fastalign

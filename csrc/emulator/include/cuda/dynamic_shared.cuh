// Stands in for csrc/cuda/dynamic_shared.cuh.

#pragma once

#include "emulator/memory.h"

namespace fastalign {

template <typename T>
T* dynamic_shared_memory() {
  return static_cast<T*>(emulator::dynamic_shared_memory());
}

}  // namespace fastalign

// Stands in for csrc/cuda/device/dynamic_shared.cuh.

#pragma once

#include "emulator/shared_memory.h"

namespace fastalign {

template <typename T>
T* dynamic_shared_memory() {
  return static_cast<T*>(const_cast<void*>(emulator::dynamic_shared_memory().begin));
}

}  // namespace fastalign

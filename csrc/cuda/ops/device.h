// Where a CUDA operation runs, and what it may ask for there.

#pragma once

#include <cstddef>

#include "cuda/ops/view.h"

namespace fastalign::cuda {

// Who computes what is a plain matrix product (FASTALIGN_FORCE).
enum class Force { nothing, fused, library };

class Device {
 public:
  void* stream{};               // a cudaStream_t
  int multiprocessors{};        // of the device
  bool tf32{};                  // whether float32 products may round their operands to TF32
  bool tf32_of_convolutions{};  // the same for those of convolutions
  Force force{};

  // Memory on the device for the rest of the operation.
  virtual void* scratch(size_t bytes) = 0;

  // result = scale · left · right + keep · result by the library's product; false where there is none.
  virtual bool multiply(const View& result, const View& left, const View& right, double scale, double keep) = 0;

 protected:
  Device() = default;
  ~Device() = default;
  Device(const Device&) = default;
  Device& operator=(const Device&) = default;
};

}  // namespace fastalign::cuda

// The device that operations run on under the emulator: the host's memory, and plain loops for the library's products.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/ops/device.h"
#include "emulator/grid.h"

namespace fastalign::emulator {

class EmulatedDevice final : public cuda::Device {
 public:
  uint64_t schedule{};  // draws the order of threads and blocks
  bool library{true};   // whether there is one
  int products{};       // that the library has done
  int launches{};       // of kernels

  EmulatedDevice() { multiprocessors = 4; }

  // Runs an operation, which may touch what it makes known by `reads` and `writes`; throws a std::runtime_error where
  // a kernel does what it must not.
  template <typename Operation>
  void run(const Operation& operation) {
    begin();
    operation();
    end();
  }

  // A tensor that the operation reads, or writes too, under the name that faults call it by.
  const cuda::View& reads(const std::string& name, const cuda::View& view);
  const cuda::View& writes(const std::string& name, const cuda::View& view);

  void* scratch(size_t bytes) override;
  bool multiply(const cuda::View& result, const cuda::View& left, const cuda::View& right, double scale,
                double keep) override;

 private:
  std::vector<std::unique_ptr<unsigned char[]>> scratch_;

  void begin();
  void end();
};

}  // namespace fastalign::emulator

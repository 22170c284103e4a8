// The CPU kernels by the names of their ops.

#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

namespace fastalign {

// A kernel that takes its arguments from the dispatcher's stack, and leaves its results there.
using BoxedKernel = void (*)(StableIValue* stack, uint64_t arguments, uint64_t results);

// The kernel of an op of fastalign; null where there is none.
BoxedKernel boxed_kernel(const std::string& op);

}  // namespace fastalign

// What is made of a value: once for the CPU's kernels and CUDA's.
//
// Nothing here is a function: the CPU's levels share these declarations, and an inline function compiled for one of
// them could be linked into every other.

#pragma once

#include <stdint.h>

namespace fastalign {

// What an epilogue makes of a value v, which is an element of a tensor or of a matrix product.
enum class Finish {
  forward,                 // f(v + bias)
  derivative,              // v · f′(operand), from the preactivation
  derivative_from_output,  // v · f′, from the output, which dropout has scaled
  difference,              // f(operand + v) − f(operand)
  add,                     // operand + scale · v
  scale,                   // scale · v
};

// Element i, counted row-major, is kept where its random word is at least `threshold`.
struct Dropout {
  bool active{};
  uint64_t threshold{};
  double keep{};    // 1 − p
  double factor{};  // 1 / (1 − p), or 0 where p = 1
  uint64_t key{};
};

}  // namespace fastalign

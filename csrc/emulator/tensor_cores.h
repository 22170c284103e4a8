// What a warp does with fragments of matrices: ldmatrix and mma.

#pragma once

#include <cstdint>

#include "emulator/grid.h"

namespace fastalign::emulator {

// Four 8 × 8 matrices of 16-bit elements, of which each lane brings the address of one row (ldmatrix.x4).
void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, Place place);

// What the operands of a product are: 16 × 16 and 16 × 8 of 16 bits, or 16 × 8 and 8 × 8 of TF32.
enum class Operand { bfloat16, float16, tf32 };

// d += a · b in float32 (mma.m16n8k16, mma.m16n8k8).
void multiply(Operand operand, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place);

// The nearest TF32 number, ties away from zero (cvt.rna).
uint32_t round_to_tf32(float value);

}  // namespace fastalign::emulator

// The CPU kernels for x86-64 with AVX2 (Haswell and Zen, and later).

#if defined(__x86_64__)

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define FASTALIGN_LEVEL_NAMESPACE avx2
#define FASTALIGN_VECTOR_BYTES 32
#define FASTALIGN_TILE_VECTORS 2
#define FASTALIGN_MOST_CLASSES 128
#define FASTALIGN_MOST_SAMPLES 128
#include "cpu/kernels/kernels.inl"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif

// The CPU kernels for x86-64 with AVX512 (Skylake-SP and Zen 4, and later).

#if defined(__x86_64__)

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#define FASTALIGN_LEVEL_NAMESPACE avx512
#define FASTALIGN_VECTOR_BYTES 64
#define FASTALIGN_TILE_VECTORS 4
#define FASTALIGN_MOST_CLASSES 256
#define FASTALIGN_MOST_SAMPLES 128
#include "cpu/kernels/kernels.inl"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif

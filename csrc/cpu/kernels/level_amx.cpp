// The CPU kernels for x86-64 with AVX512 and a matrix unit for bfloat16 (Sapphire Rapids, and later).

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __clang__
#pragma clang attribute push(                                                                            \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512", \
                   "avx512bf16,amx-tile,amx-bf16")
#endif

#define FASTALIGN_LEVEL_NAMESPACE amx
#define FASTALIGN_VECTOR_BYTES 64
#define FASTALIGN_TILE_VECTORS 4
#define FASTALIGN_MOST_CLASSES 256
#define FASTALIGN_MOST_SAMPLES 128
#define FASTALIGN_MATRIX_UNIT
#include "cpu/kernels/kernels.inl"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif

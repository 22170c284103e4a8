// The CPU kernels for any machine of the architecture.

#include <math.h>
#include <stdint.h>
#include <string.h>

#define FASTALIGN_LEVEL_NAMESPACE baseline
#define FASTALIGN_VECTOR_BYTES 16
#define FASTALIGN_TILE_VECTORS 2
#define FASTALIGN_MOST_CLASSES 64
#define FASTALIGN_MOST_SAMPLES 64
#include "cpu/kernels/kernels.inl"

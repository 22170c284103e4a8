// The CPU kernels, to be compiled once per level: the file that includes this one names the level's namespace
// (FASTALIGN_LEVEL_NAMESPACE), its vectors (FASTALIGN_VECTOR_BYTES) and how many of them by four rows its registers
// hold (FASTALIGN_TILE_VECTORS), and up to how many terms its products are worth while in a projection
// (FASTALIGN_MOST_CLASSES) and in an update (FASTALIGN_MOST_SAMPLES), and whether there may be a matrix unit
// (FASTALIGN_MATRIX_UNIT), after reading the system's headers and asking for its instruction set.

#include "common/activation.h"
#include "common/random.h"
#include "cpu/kernels/kernels.h"

// The iterations of the loop that follows are independent.
#ifdef __clang__
#define FASTALIGN_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTALIGN_VECTORIZE _Pragma("GCC ivdep")
#endif

namespace fastalign {
namespace FASTALIGN_LEVEL_NAMESPACE {
namespace {

static_assert(FASTALIGN_MOST_CLASSES <= projection_classes);

// clang-format off: each part uses those before it
#include "cpu/kernels/convert.inl"
#include "cpu/kernels/loops.inl"
#include "cpu/kernels/epilogue.inl"
#include "cpu/kernels/projection.inl"
#include "cpu/kernels/batch.inl"
#include "cpu/kernels/sums.inl"
#include "cpu/kernels/descent.inl"
#include "cpu/kernels/update.inl"
#ifdef FASTALIGN_MATRIX_UNIT
#include "cpu/kernels/matrix_unit.inl"
#else
constexpr decltype(Kernels::tile_projection) tile_projection = nullptr;
constexpr decltype(Kernels::tile_update) tile_update = nullptr;
#endif
#include "cpu/kernels/convolution.inl"
#include "cpu/kernels/cross_entropy.inl"
#include "cpu/kernels/pooling.inl"
// clang-format on

}  // namespace

#define FASTALIGN_STRING_OF(name) #name
#define FASTALIGN_STRING(name) FASTALIGN_STRING_OF(name)

extern const Kernels kernels;
const Kernels kernels = {
    FASTALIGN_STRING(FASTALIGN_LEVEL_NAMESPACE),
    FASTALIGN_MOST_CLASSES,
    FASTALIGN_MOST_SAMPLES,
    elementwise,
    projection,
    batch_projection,
    channel_sums,
    linear_update,
    tile_projection,
    tile_update,
    convolution_update,
    cross_entropy,
    max_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_difference,
    descend,
};

}  // namespace FASTALIGN_LEVEL_NAMESPACE
}  // namespace fastalign

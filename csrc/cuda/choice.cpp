#include "cuda/choice.h"

#include "cuda/operand.h"

namespace fastalign::cuda {

// No device has measured these numbers yet; they follow from what each method has to do.
namespace {

// Sums of so few terms are bound by the bytes of operand and result, even by FMA; tensor cores take over sooner.
constexpr int64_t most_terms_by_fma = 128;
constexpr int64_t most_terms_beside_tensor_cores = 64;

// Beyond so many multiplications (256 × 1024 × 1024) the library's larger tiles gain more than what the epilogue's own
// launch and pass over the result cost.
constexpr int64_t most_fused_multiplications = int64_t{1} << 28;

}  // namespace

Method choose(const Device& device, Dtype dtype, int64_t rows, int64_t columns, int64_t terms) {
  if (device.force == Force::library) return Method::library;
  const Arithmetic arithmetic = arithmetic_of(dtype, device.tf32);
  const bool by_fma = arithmetic == Arithmetic::float64 || arithmetic == Arithmetic::float32;
  if (terms <= (by_fma ? most_terms_by_fma : most_terms_beside_tensor_cores)) return Method::projection;
  if (device.force == Force::fused) return Method::fused;
  const double multiplications = static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(terms);
  return multiplications <= static_cast<double>(most_fused_multiplications) ? Method::fused : Method::library;
}

}  // namespace fastalign::cuda
